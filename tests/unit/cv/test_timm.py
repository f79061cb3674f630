"""The architectures that torchvision does not have against timm's: same tensors, same numbers."""

from __future__ import annotations

import pytest
import torch

from paddlecv.models import Backbone
from paddlecv.models.backbones import TIMM

timm = pytest.importorskip("timm", reason="timm is the reference here: pip install timm")

# the deeper ones differ in counts only, which docs/vision_backbones.md holds
NAMES = (
    *("resnet18_vd", "resnet34_vd", "resnet50_vd", "se_resnext50_32x4d", "inception_v4"),
    *("dpn68", "dpn92", "dpn107"),
)


@pytest.mark.parametrize("architecture", NAMES)
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
    torch.manual_seed(0)
    theirs = timm.create_model(TIMM[architecture], num_classes=5)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = Backbone(architecture=architecture, num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        theirs, ours = theirs.eval()(image), ours.eval()(image)
    assert ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)
