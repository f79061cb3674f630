"""The CIFAR ResNets against the sizes of the paper, and against one block written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from paddlecv.models import Backbone, CifarResNet


@pytest.mark.parametrize(("depth", "million"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_of_the_papers_table_6(depth: int, million: float) -> None:
    with torch.device("meta"):
        model = CifarResNet(depth=depth)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(count, 1 if depth == 110 else 2) == million
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in model.modules()) == depth


def test_names_are_those_of_the_weights_that_go_around() -> None:
    names = [n for n in CifarResNet().state_dict() if "num_batches" not in n]
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    for block in (f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)):
        for k in (1, 2):
            expected += [f"{block}.conv{k}.weight", *(f"{block}.bn{k}.{n}" for n in norm)]
    assert names == [*expected, "linear.weight", "linear.bias"]


def test_a_block_that_widens() -> None:
    torch.manual_seed(0)
    block = CifarResNet(depth=8).layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    inner = F.relu(F.conv2d(x, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5)
    residual = F.conv2d(inner, block.conv2.weight, padding=1) / (1 + 1e-5) ** 0.5
    shortcut = torch.zeros(2, 32, 4, 4)
    for channel in range(16):
        for i in range(4):
            for j in range(4):
                shortcut[:, 8 + channel, i, j] = x[:, channel, 2 * i, 2 * j]
    torch.testing.assert_close(block(x), F.relu(shortcut + residual), atol=1e-5, rtol=1e-5)


def test_as_a_backbone() -> None:
    torch.manual_seed(0)
    whole, image = CifarResNet(depth=20, num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    model = Backbone(architecture="resnet20_cifar", num_classes=3).eval()
    model.load_state_dict(whole.state_dict())
    torch.testing.assert_close(model(image), whole(image))
    maps = Backbone(architecture="resnet20_cifar", features_only=True)
    assert maps.strides == (1, 2, 4) and maps.channels == (16, 32, 64)


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(depth=18)
