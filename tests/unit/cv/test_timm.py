"""The architectures that torchvision does not have against timm's: same tensors, same numbers."""

from __future__ import annotations

import pytest
import torch

from paddlecore.convert import match
from paddlecv.models import Backbone, MobileNetV1
from paddlecv.models.backbones import OWN, TIMM

timm = pytest.importorskip("timm", reason="timm is the reference here: pip install timm")


@pytest.mark.parametrize("architecture", sorted(OWN.keys() & TIMM.keys()))
def test_same_tensors_by_the_same_names(architecture: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(TIMM[architecture]).state_dict()
        ours = Backbone(architecture=architecture).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("resnet18_vd", 64), ("resnet50_vd", 65), ("se_resnext50_32x4d", 64), ("inception_v4", 96), ("dpn68", 64)],
)
def test_same_numbers(architecture: str, size: int) -> None:
    theirs = reference(TIMM[architecture])
    ours = Backbone(architecture=architecture, num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    compare(ours, theirs, size)


def test_mobilenet_v1_at_sizes_that_tensorflow_pads_evenly() -> None:
    """timm has it by other names, with the padding of PyTorch: the same where each step of 2 meets an odd size."""
    theirs = reference("mobilenetv1_100", bn_eps=1e-3)
    ours = MobileNetV1(num_classes=5)
    ours.load_state_dict(match(ours.state_dict(), theirs.state_dict()).state, strict=False)
    compare(ours, theirs, 65)


def reference(name: str, **options: object) -> torch.nn.Module:
    """timm's model with norms that are not 0 and 1."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=5, **options)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return theirs


def compare(ours: torch.nn.Module, theirs: torch.nn.Module, size: int) -> None:
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, found = theirs.eval()(image), ours.eval()(image)
    assert found.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
