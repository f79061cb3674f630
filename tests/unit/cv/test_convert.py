"""Weights of other programs by our names: found by name, table, order and shape, or refused; and the parity check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from paddlecore import checkpoint, cli, convert, hub
from paddlecore.errors import CheckpointError, ConfigError
from paddlecv.models import Backbone, MaskRCNN, MobileNetV1, RetinaNet


def scrambled(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
    return module.eval()


def test_torchvisions_file_is_checked_against_torchvision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = scrambled(torchvision.models.shufflenet_v2_x0_5(num_classes=3))
    file, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, file)
    words = ["model=shufflenet_v2_x0_5", f"weights={file}", f"out={out}", "num_classes=3", "size=64"]
    assert cli.main(["convert", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parity"] == {"reference": "torchvision shufflenet_v2_x0_5", "difference": pytest.approx(0, abs=1e-6)}
    assert list(report["found"]) == ["name"] and report["missing"] == report["unused"] == []
    ours = Backbone(architecture="shufflenet_v2_x0_5", num_classes=3)
    ours.load_state_dict(load_file(out))
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(image), theirs(image))

    wrong = [*words[:3], "num_classes=4", "size=64"]
    assert cli.main(["convert", *wrong]) == CheckpointError.exit_code
    assert "fc.weight of the model [4, 1024]; is it another number of classes" in capsys.readouterr().err
    assert cli.main(["convert", *words[1:]]) == ConfigError.exit_code


def test_tensorflows_mobilenet(tmp_path: Path) -> None:
    """Names and layout of TF-slim and of Keras; 1001 classes there, the first is the background."""
    model = scrambled(MobileNetV1(num_classes=7, width=0.25))
    slim, keras = {}, {}
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, value in model.state_dict().items():
        _, i, *rest = name.split(".")
        array = value.numpy()
        if name.startswith("classifier"):
            last = rest[0]
            array = array.T[None, None] if last == "weight" else array
            slim["MobilenetV1/Logits/Conv2d_1c_1x1/" + {"weight": "weights", "bias": "biases"}[last]] = array
            keras["conv_preds/" + {"weight": "kernel", "bias": "bias"}[last]] = array
        elif rest[0] in ("1", "4") and rest[1] in norm:
            kind = "" if i == "0" else "_depthwise" if rest[0] == "1" else "_pointwise"
            slim[f"MobilenetV1/Conv2d_{i}{kind}/BatchNorm/{norm[rest[1]]}"] = array
            layer = "conv1" if i == "0" else f"conv_{'dw' if rest[0] == '1' else 'pw'}_{i}"
            keras[f"{layer}_bn/{norm[rest[1]]}"] = array
        elif rest[1] == "weight":
            if i == "0":
                slim["MobilenetV1/Conv2d_0/weights"] = keras["conv1/kernel"] = array.transpose(2, 3, 1, 0)
            elif rest[0] == "0":
                array = array.transpose(2, 3, 0, 1)  # [H, W, channels, 1]
                slim[f"MobilenetV1/Conv2d_{i}_depthwise/depthwise_weights"] = array
                keras[f"conv_dw_{i}/depthwise_kernel"] = array
            else:
                array = array.transpose(2, 3, 1, 0)
                slim[f"MobilenetV1/Conv2d_{i}_pointwise/weights"] = keras[f"conv_pw_{i}/kernel"] = array
    for arrays in (slim, keras):
        np.savez(tmp_path / "tf.npz", **arrays)
        report = convert.convert(
            "mobilenet_v1", tmp_path / "tf.npz", tmp_path / "o.safetensors", num_classes=7, width=0.25
        )
        assert report["found"] == {"table": len(arrays)} and "not checked" in report["parity"]
        made = load_file(tmp_path / "o.safetensors")
        assert made.keys() == {k for k in model.state_dict() if "num_batches" not in k}
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in made.items())


def test_by_order_with_parity_against_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is the reference here: pip install timm")
    theirs = scrambled(timm.create_model("mobilenetv2_100", num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / "t.pth")
    out = tmp_path / "o.safetensors"
    report = convert.convert("mobilenet_v2", tmp_path / "t.pth", out, num_classes=3, size=64)
    assert report["parity"]["reference"] == "timm mobilenetv2_100" and report["parity"]["difference"] < 1e-5
    assert report["found"]["order"] > 250
    # the same tensors sorted by name: order says nothing, and shapes leave many ways
    save_file(theirs.state_dict(), tmp_path / "t.safetensors")
    with pytest.raises(CheckpointError, match="which is which cannot be told.*features.1.conv.0.1.weight"):
        convert.convert("mobilenet_v2", tmp_path / "t.safetensors", out, num_classes=3, size=64)


def test_order_and_shapes() -> None:
    a, b, c = torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(3)
    ours = {"x.weight": a, "y.weight": b, "y.bias": c}
    theirs = {"fc1/kernel": a + 1, "fc2/kernel": b + 2, "fc2/biases": c + 3}
    for given, ordered in ((theirs, True), (dict(reversed(theirs.items())), True), (theirs, False)):
        found = convert.match(ours, given, ordered=ordered)
        assert list(found.state) == list(ours) and found.missing == found.unused == []
        assert torch.equal(found.state["y.weight"], b + 2)
    assert convert.match(ours, theirs).how == {"order": 3}
    assert convert.match(ours, theirs, ordered=False).how == {"shape": 3}

    twice = {"x.weight": b, "y.weight": b}
    assert convert.match(twice, {"p.weight": b + 1, "q.weight": b + 2}).state["y.weight"][0, 0] == 2
    for given in ({"p.weight": b, "q.weight": b, "r.weight": b}, {"p.weight": b}):
        with pytest.raises(CheckpointError, match=r"2 of ours have the shape \[3, 3\] \(x.weight, y.weight\)"):
            convert.match(twice, given)
    # a name of ours in the file is taken for what it says, whatever the order
    found = convert.match(twice, {"y.weight": b + 1, "p.weight": b + 2})
    assert found.state["y.weight"][0, 0] == 1 and found.state["x.weight"][0, 0] == 2
    found = convert.match(ours, {"x.weight": a, "more.weight": torch.zeros(9)})
    assert found.missing == ["y.weight", "y.bias"] and found.unused == ["more.weight"]


def test_what_is_missing_or_gives_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.squeezenet1_1(num_classes=2).state_dict()
    file, out = tmp_path / "t.pth", tmp_path / "o.safetensors"
    torch.save({k: v for k, v in theirs.items() if not k.startswith("classifier")}, file)
    with pytest.raises(CheckpointError, match="2 tensors of squeezenet1_1: classifier.1.weight, classifier.1.bias"):
        convert.convert("squeezenet1_1", file, out)
    report = convert.convert("squeezenet1_1", file, out, partial=True)
    assert report["missing"] == ["classifier.1.weight", "classifier.1.bias"] and out.exists()

    out.unlink()
    torch.save(theirs, file)
    monkeypatch.setattr(Backbone, "forward", lambda self, image: self.classifier(self.features(image)).flatten(1) + 0.1)
    with pytest.raises(CheckpointError, match="give something else than torchvision squeezenet1_1"):
        convert.convert("squeezenet1_1", file, out, num_classes=2, size=64)
    assert not list(tmp_path.glob("*o.safetensors*"))
    file.write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a readable"):
        convert.convert("squeezenet1_1", file, out)
    with pytest.raises(ConfigError, match="ends in .safetensors"):
        convert.convert("squeezenet1_1", file, tmp_path / "o.pth")


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"features.0.weight": Bomb()}, tmp_path / "t.pth")
    np.savez(tmp_path / "t.npz", x=np.array([Bomb()], dtype=object))
    for name in ("t.pth", "t.npz"):
        with pytest.raises(CheckpointError, match="not a readable"):
            convert.convert("squeezenet1_1", tmp_path / name, tmp_path / "o.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_and_a_place_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(1000))
    whole = (tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"PK\3\4no", whole[:60] + b"\xff" * 40 + whole[100:]):  # the last one fails in zlib
        (tmp_path / "t.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match="t.npz is not a readable file of arrays"):
            convert.read(tmp_path / "t.npz")
    torch.save(MobileNetV1(num_classes=2, width=0.25).state_dict(), tmp_path / "t.pth")
    out = tmp_path / "new" / "o.safetensors"
    convert.convert("mobilenet_v1", tmp_path / "t.pth", out, num_classes=2, width=0.25)
    assert out.is_file()
    with pytest.raises(CheckpointError, match=r"gone/o.safetensors cannot be written: .*No such file"):
        checkpoint.save_tensors(tmp_path / "gone" / "o.safetensors", {})


def test_torchvisions_older_names_of_pyramids_and_heads() -> None:
    """Those of its published files, which its own modules change as they load them."""
    older: list[tuple[str, Any]] = [
        (r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
        (r"(rpn\.head\.conv)\.0\.0\.", r"\1."),
        (r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}."),
        (r"(mask_head)\.(\d)\.0\.", lambda m: f"{m[1]}.mask_fcn{int(m[2]) + 1}."),
    ]

    def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for pattern, name in older:
            state = {re.sub(pattern, name, key): value for key, value in state.items()}
        return state

    small: dict[str, Any] = {"num_classes": 2, "architecture": "resnet18", "channels": 8}
    for model, reference in (
        (MaskRCNN(**small, box_width=8, mask_width=8), torchvision.models.detection.maskrcnn_resnet50_fpn),
        (RetinaNet(**small), torchvision.models.detection.retinanet_resnet50_fpn),
    ):
        with torch.device("meta"):  # that these are the names, its own modules say
            theirs = reference(weights=None, weights_backbone=None)
        assert theirs.load_state_dict(renamed(dict(theirs.state_dict())), assign=True)
        for weight in model.parameters():
            nn.init.normal_(weight)
        ours = {name: value.clone() for name, value in model.state_dict().items()}
        given = renamed(ours)
        found = convert.match(ours, given)
        assert found.how["order"] > 20 and not found.missing and not found.unused
        assert all(torch.equal(value, ours[name]) for name, value in found.state.items())
        for weight in model.parameters():
            nn.init.zeros_(weight)
        assert len(given.keys() - ours.keys()) > 20 and hub.load_state(model, given).complete
        assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())
