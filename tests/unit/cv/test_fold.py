"""Folded batch norm: the same numbers, and no norm left where there need not be one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from paddlecv.layers.fold import fold_batch_norm
from paddlecv.models import Backbone


def scramble(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)) for m in module.modules())


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "resnet20_cifar", "resnet18_vd", "mobilenet_v1", "mobilenet_v3_small", "shufflenet_v2_x0_5"],
)
def test_backbones(architecture: str) -> None:
    model = scramble(Backbone(architecture=architecture, num_classes=5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded, image = fold_batch_norm(model), torch.randn(2, 3, 64, 64)
    assert model.training and not folded.training and norms(folded) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(image)
        torch.testing.assert_close(folded(image), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_maps_and_frozen_norms() -> None:
    model = Backbone(architecture="resnet18", features_only=True)
    model.bn1 = FrozenBatchNorm2d(64)
    folded, image = fold_batch_norm(scramble(model)), torch.randn(1, 3, 64, 64)
    assert norms(folded) == 0 and folded.channels == model.channels
    with torch.no_grad():
        for ours, theirs in zip(folded(image), model.eval()(image), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)


def test_norms_before_convolutions_stay() -> None:
    model = scramble(Backbone(architecture="dpn68", num_classes=2)).eval()
    folded, image = fold_batch_norm(model), torch.randn(1, 3, 64, 64)
    assert 0 < norms(folded) < norms(model)
    with torch.no_grad():
        expected = model(image)
        torch.testing.assert_close(folded(image), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


class Awkward(nn.Module):
    """Convolutions whose norm must stay: two norms on one map, one norm on two, a map that is also used itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(5))
        self.bn = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        twice = self.conv[0](x)
        x = self.bn[0](twice) * self.bn[1](twice)
        x = self.bn[2](self.conv[1](x)) + self.bn[2](self.conv[2](x))
        used = self.conv[3](x)
        return self.bn[4](self.conv[4](used + self.bn[3](used)))  # the last may be folded


class ByValue(nn.Module):
    """What depends on values cannot be traced; its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.bn(self.conv(x)) if float(x.detach().sum()) > 0 else x


@pytest.mark.parametrize(("kind", "left"), [(Awkward, 4), (ByValue, 1)])
def test_only_what_is_safe_is_folded(kind: type[nn.Module], left: int) -> None:
    model, image = scramble(kind()).eval(), torch.randn(2, 3, 8, 8)
    folded = fold_batch_norm(model)
    assert norms(folded) == left
    torch.testing.assert_close(folded(image), model(image), atol=1e-5, rtol=1e-4)
