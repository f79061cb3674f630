"""ICNet and DeepLabv3+ against the figures of their papers, and what their forms promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paddlecv.layers.fold import fold_batch_norm
from paddlecv.models import DeepLabV3Plus, ICNet


def counted(model: nn.Module, *size: int) -> tuple[float, float, list[int]]:
    """Millions of parameters, 1e9 multiply-adds and the shape of the output, without arithmetic."""
    with FlopCounterMode(display=False) as flops:
        shape = list(model.eval()(torch.empty(1, 3, *size, device="meta")).shape)
    return sum(p.numel() for p in model.parameters()) / 1e6, flops.get_total_flops() / 2e9, shape


def test_icnet_has_the_operations_that_are_published() -> None:
    with torch.device("meta"):
        model = ICNet(num_classes=19)
    parameters, operations, shape = counted(model, 1024, 2048)
    assert shape == [1, 19, 256, 512]
    assert operations == pytest.approx(28.3, rel=0.02)  # what comparisons of real-time networks quote for it
    assert parameters == pytest.approx(6.7, abs=0.02)
    assert model.backbone.channels == (256, 1024) and len(model.backbone.blocks) == 3 + 4 + 6 + 3


def test_icnets_maps_have_the_sizes_of_figure_2() -> None:
    """Channels after compression, and shares of a side of the image."""
    expected = {  # conv3_sub1, conv3_1 of the half image, conv5_3, after the pyramid, after either fusion
        "high": (64, 8), "backbone.blocks.3": (256, 16), "backbone.blocks.15": (1024, 32), "pyramid": (256, 32),
        "fuse_low": (128, 16), "fuse_high": (128, 8),
    }  # fmt: skip
    found = {}
    with torch.device("meta"):
        model = ICNet(num_classes=19).eval()
        for name in expected:

            def note(module: nn.Module, inputs: object, output: torch.Tensor, name: str = name) -> None:
                found[name] = (output.shape[1], 1024 // output.shape[2])

            model.get_submodule(name).register_forward_hook(note)
        model(torch.empty(1, 3, 1024, 2048))
    assert found == expected


def test_icnet_takes_any_size_and_guides_its_branches() -> None:
    model = ICNet(num_classes=5, width=0.0625)
    image = torch.randn(2, 3, 50, 71)
    assert [list(o.shape[2:]) for o in model(image)] == [[13, 18], [7, 9], [4, 5]]
    assert list(model.eval()(image).shape) == [2, 5, 13, 18]


def test_classifying_before_enlarging_is_the_same() -> None:
    maps, classifier = torch.randn(1, 8, 5, 6), nn.Conv2d(8, 3, 1)
    late = classifier(F.interpolate(maps, (10, 12), mode="bilinear"))
    torch.testing.assert_close(F.interpolate(classifier(maps), (10, 12), mode="bilinear"), late)


FOLDED = [
    ICNet(num_classes=5, width=0.0625),
    ICNet(num_classes=5, width=0.125, trunk="mobilenet_v1"),
    DeepLabV3Plus(num_classes=5, architecture="mobilenet_v1", width=0.125, channels=8, low_channels=4),
]


@pytest.mark.parametrize("model", FOLDED)
def test_folded_norms_change_nothing(model: nn.Module) -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for _ in range(3):
        model.train()(image)  # statistics of its own
    folded = fold_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(image), model.eval()(image), rtol=1e-3, atol=1e-4)


DEEPLAB = {  # millions of parameters, 1e9 multiply-adds at 513 x 513
    ("xception65", 16): (41.05, 54.17),  # the authors' figure for it is 54.17 (model_zoo.md of their code)
    ("resnet50", 16): (26.70, 39.55),
    ("mobilenet_v1", 8): (5.04, 22.57),
}


@pytest.mark.parametrize(("architecture", "output_stride"), DEEPLAB)
def test_deeplab_has_the_size_that_is_published(architecture: str, output_stride: int) -> None:
    with torch.device("meta"):
        model = DeepLabV3Plus(num_classes=21, architecture=architecture, output_stride=output_stride)
        low, high = model.backbone(torch.empty(1, 3, 513, 513))
    parameters, operations, shape = counted(model, 513, 513)
    assert shape == [1, 21, 129, 129] and low.shape[2] == 129
    assert high.shape[2] == {16: 33, 8: 65}[output_stride]
    assert (parameters, operations) == pytest.approx(DEEPLAB[architecture, output_stride], rel=0.005)


@pytest.mark.parametrize("architecture", ["mobilenet_v1", "mobilenet_v2"])
def test_a_dilated_trunk_sees_what_it_saw(architecture: str) -> None:
    """Every second position of the dense map is the map of the trunk with its stride."""
    torch.manual_seed(0)
    dense = DeepLabV3Plus(num_classes=2, architecture=architecture, output_stride=16, width=0.25).backbone.eval()
    plain = type(dense)(architecture=architecture, features_only=True, strides=(4, 32), width=0.25).eval()
    plain.load_state_dict(dense.state_dict())
    image = torch.randn(1, 3, 417, 417)
    with torch.no_grad():
        fine, coarse = dense(image)[1], plain(image)[1]
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)
