"""Backbones against the models they are taken from: the same tensors by the same names, the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import paddlecv
from paddlecore.errors import CheckpointError, ConfigError, DataError
from paddlecore.hub import create_model, list_models
from paddlecv.models import Backbone, MobileNetV1
from paddlecv.models.backbones import TORCHVISION

SMALL = (
    "alexnet", "googlenet", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small",
    "shufflenet_v2_x0_5", "squeezenet1_1",
)  # fmt: skip


def scrambled(module: nn.Module) -> nn.Module:
    """Batch norm with statistics and factors that are not 0 and 1, so that a norm in the wrong place shows."""
    torch.manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module


@pytest.mark.parametrize("architecture", SMALL)
def test_equals_torchvision(architecture: str) -> None:
    options = {"aux_logits": False, "init_weights": True} if architecture == "googlenet" else {}
    theirs = scrambled(torchvision.models.get_model(architecture, num_classes=7, **options)).eval()
    ours = Backbone(architecture=architecture, num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.parametrize(
    "architecture", ["vgg11_bn", "resnext50_32x4d", "mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_0"]
)
def test_equals_torchvision_with_repeated_rows(architecture: str) -> None:
    """The larger ones, without drawing or holding a whole network: all rows of a large layer are the same."""
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(architecture, num_classes=7).eval()
        ours = Backbone(architecture=architecture, num_classes=7).eval()
    state = {}
    for name, value in theirs.state_dict().items():
        drawn = torch.rand(value.shape if value.numel() < 1e6 else (1, *value.shape[1:])).expand(value.shape)
        positive = value.ndim == 1 and name.endswith(("weight", "var"))
        state[name] = drawn + 0.5 if positive else (drawn - 0.5) * (24 / value.shape[1:].numel()) ** 0.5
    for model in (theirs, ours):
        model.load_state_dict(state, assign=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(image)
        assert float(expected.std()) > 1e-3
        torch.testing.assert_close(ours(image), expected)


@pytest.mark.parametrize("architecture", TORCHVISION)
def test_has_the_tensors_of_torchvision(architecture: str) -> None:
    options = {"aux_logits": False, "init_weights": True} if architecture == "googlenet" else {}
    with torch.device("meta"):
        theirs = torchvision.models.get_model(architecture, **options).state_dict()
        ours = Backbone(architecture=architecture).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


FAMILIES = ("resnet20_cifar", "resnet18_vd", "se_resnext50_32x4d", "inception_v4", "dpn68", "mobilenet_v1")


@pytest.mark.parametrize("architecture", (*SMALL, *FAMILIES, "vgg16", "squeezenet1_0", "mobilenet_v3_large"))
def test_maps_have_the_strides_and_channels_that_are_announced(architecture: str) -> None:
    with torch.device("meta"):
        model = Backbone(architecture=architecture, features_only=True).eval()
        maps = model(torch.empty(1, 3, 512, 512))
    assert [m.shape[1] for m in maps] == list(model.channels)
    for stride, m in zip(model.strides, maps, strict=True):
        assert abs(m.shape[-1] - 512 / stride) <= 4  # AlexNet, SqueezeNet, Inception-v4 have steps without padding
    assert model.strides[:3] == ((1, 2, 4) if "cifar" in architecture else (4, 8, 16))
    assert not any(name.startswith(("fc", "linear", "classifier", "last_linear")) for name in model.state_dict())


def test_maps_are_the_stages_of_a_resnet_and_what_a_vgg_pools() -> None:
    image = torch.randn(1, 3, 64, 64)
    theirs = scrambled(torchvision.models.resnet18()).eval()
    ours = Backbone(architecture="resnet18", features_only=True, strides=(8, 16)).eval()
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    assert not hasattr(ours, "layer4") and not hasattr(ours, "fc")  # what no map needs is left out
    with torch.no_grad():
        x = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))
        x8 = theirs.layer2(x)
        torch.testing.assert_close(ours(image), [x8, theirs.layer3(x8)])

    with torch.device("meta"):
        vgg = Backbone(architecture="vgg11", features_only=True, strides=(8,))
    assert isinstance(vgg.features[-1], nn.ReLU) and len(vgg.features) == 15  # conv4_2 with its ReLU


def test_output_stride_dilates() -> None:
    with torch.device("meta"):
        model = Backbone(architecture="resnet50", features_only=True, output_stride=8)
        maps = model(torch.empty(1, 3, 64, 64))
        assert model.strides == (4, 8, 8, 8) and [m.shape[-1] for m in maps] == [16, 8, 8, 8]
        assert model.channels == (256, 512, 1024, 2048)
        for architecture, channels in (("mobilenet_v1", 1024), ("mobilenet_v2", 1280), ("mobilenet_v3_large", 960)):
            for stride in (8, 16):
                model = Backbone(architecture=architecture, features_only=True, strides=(4, 32), output_stride=stride)
                found = model(torch.empty(1, 3, 64, 64))[1]
                assert model.strides == (4, stride) and found.shape == (1, channels, 64 // stride, 64 // stride)
    with pytest.raises(ValueError, match="resnet18 has no such dilation"):
        Backbone(architecture="resnet18", output_stride=8)


def test_other_images_sizes_and_dropout() -> None:
    for architecture in ("resnet18", "mobilenet_v1", "squeezenet1_1", "googlenet"):
        model = Backbone(architecture=architecture, num_classes=5, in_channels=1, dropout=0.5)
        assert model(torch.randn(2, 1, 64, 64)).shape == (2, 5)
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5]
    narrow = Backbone(architecture="mobilenet_v2", width=0.25, features_only=True)
    assert narrow.channels == (8, 8, 24, 1280)


@pytest.mark.parametrize(("architecture", "size"), [("squeezenet1_1", 4), ("googlenet", 8), ("alexnet", 30)])
def test_images_of_which_nothing_is_left_are_refused(architecture: str, size: int) -> None:
    model = Backbone(architecture=architecture, num_classes=2)
    with pytest.raises(DataError, match=rf"images of \({size}, {size}\) .* too small for {architecture} \(data.size\)"):
        model(torch.zeros(2, 3, size, size))
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.zeros(2, 1, 64, 64))


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        Backbone(architecture="resnet5o")
    with pytest.raises(ValueError, match=r"strides=\[64\]: resnet18 has 2, 4, 8, 16, 32"):
        Backbone(architecture="resnet18", features_only=True, strides=(64,))
    with pytest.raises(ValueError, match="one width"):
        Backbone(architecture="resnet18", width=0.5)
    with pytest.raises(ValueError, match="width=0: mobilenet_v1 has those above 0"):
        Backbone(architecture="mobilenet_v1", width=0)
    with pytest.raises(ValueError, match=r"strides=\[8\] choose maps of the trunk, which features_only=True gives"):
        Backbone(architecture="resnet18", strides=[8])
    with pytest.raises(ValueError, match="num_classes=0 must be at least 1; features_only"):
        Backbone(architecture="resnet18", num_classes=0)


def test_mobilenet_v1_has_the_sizes_of_the_paper_and_tensorflows_padding() -> None:
    model = MobileNetV1()
    assert sum(p.numel() for p in model.parameters()) == 4_231_976  # 4.2 million (table 8)
    names = [n for n in model.state_dict() if "num_batches" not in n]
    assert names[:2] == ["features.0.0.weight", "features.0.1.weight"]
    assert {"features.13.3.weight", "features.13.4.running_var"} < set(names)
    convolution = MobileNetV1().features[0][0]
    image = torch.randn(1, 3, 8, 8)
    one = torch.nn.functional.conv2d(torch.nn.functional.pad(image, (0, 1, 0, 1)), convolution.weight, stride=2)
    torch.testing.assert_close(convolution(image), one)  # even: the right and the bottom only
    odd = torch.nn.functional.conv2d(image[..., :7, :7], convolution.weight, stride=2, padding=1)
    torch.testing.assert_close(convolution(image[..., :7, :7]), odd)  # odd: all around
    assert MobileNetV1(width=0.25).features[13][3].out_channels == 256


# ---------------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize("name", ["resnet18", "cv/resnet18"])
def test_create_model_takes_an_architecture(name: str) -> None:
    model = create_model(name, num_classes=10, features_only=True, strides=[8, 16])
    assert isinstance(model, Backbone) and model.channels == (128, 256)
    assert paddlecv.create_model("resnet18", num_classes=10).fc.out_features == 10
    assert "cv/resnet18" in list_models() and "cv/mobilenet_v1" in paddlecv.list_models()
    assert "cv/resnet18" not in list_models(task="image-classification")
    with pytest.raises(ConfigError, match="did you mean 'cv/resnet18"):
        create_model("cv/resnet19")
    with pytest.raises(ConfigError, match="rec"):
        create_model("rec/resnet18")


def test_create_model_takes_torchvisions_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file as torchvision publishes them, in both formats, alone or in a folder; another head is left fresh."""
    theirs = scrambled(torchvision.models.squeezenet1_1(num_classes=4)).eval()
    state = theirs.state_dict()
    torch.save(state, tmp_path / "squeezenet1_1-b8a52dc0.pth")
    save_file(state, tmp_path / "weights.safetensors")
    image = torch.randn(1, 3, 64, 64)
    for where in (tmp_path / "squeezenet1_1-b8a52dc0.pth", str(tmp_path / "weights.safetensors")):
        model = create_model("squeezenet1_1", pretrained=where, num_classes=4)
        torch.testing.assert_close(model.eval()(image), theirs(image))
    with pytest.raises(ConfigError, match="one file of tensors"):
        create_model("squeezenet1_1", pretrained=tmp_path)  # which of the two?
    (tmp_path / "weights.safetensors").unlink()
    with caplog.at_level("WARNING"):
        maps = create_model("squeezenet1_1", pretrained=tmp_path, features_only=True, strides=(8,))
        other = create_model("squeezenet1_1", pretrained=tmp_path, num_classes=3)
    assert torch.equal(maps.features[0].weight, theirs.features[0].weight) and "unused" in caplog.text
    assert torch.equal(other.features[0].weight, theirs.features[0].weight)
    assert "classifier.1.weight: [3, 512, 1, 1] here, [4, 512, 1, 1] in the file" in caplog.text


def test_a_hostile_file_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"features.0.weight": Bomb()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not a readable"):
        create_model("squeezenet1_1", pretrained=tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------- the page


def test_the_pages_table_is_right() -> None:
    """docs/vision_backbones.md: every architecture, with its parameters; of the light ones the other numbers too."""
    page = (Path(__file__).parents[3] / "docs" / "vision_backbones.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| (\d+) \| ([\d, ]+) \|", page, re.M)
    assert sorted(row[0] for row in rows) == list(Backbone.architectures)
    for name, parameters, adds, size, channels in rows:
        with torch.device("meta"):
            model = Backbone(architecture=name, num_classes=10 if name.endswith("cifar") else 1000).eval()
            assert f"{sum(p.numel() for p in model.parameters()):,}" == parameters, name
            if len(list(model.modules())) > 150:
                continue
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, int(size), int(size)))
            assert f"{counter.get_total_flops() / 2e9:.3f}" == adds, name
            assert ", ".join(map(str, Backbone(architecture=name, features_only=True).channels)) == channels, name
