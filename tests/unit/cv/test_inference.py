"""What `predict` and `eval` make of a vision task: the same answers with no batch norm left, and a run as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import paddlecv.data
from paddlecore import config, hub, run
from paddlecore.data import DataModule
from paddlecore.errors import ConfigError, DataError
from paddlecore.precision import autocast
from paddlecore.task import Batch, Task
from paddlecore.testing import tiny
from paddlecv.data import CamVidData, ImageFolderData, VOCData
from paddlecv.layers.fold import fold_batch_norm
from paddlecv.models import Backbone
from paddlecv.tasks import ImageClassification

CPU = torch.device("cpu")
RECIPES = [name for name in config.list_recipes() if name.startswith("cv/")]
FINDS = {"cv/faster_rcnn_bccd": ["model.threshold=0.05"], "cv/mask_rcnn_pennfudan": ["model.threshold=0.05"]}


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def scrambled(recipe: str) -> tuple[Task, Batch]:
    """The recipe's task at toy size with random weights, norms with statistics of their own, and a batch.

    In float64, where no two scores are so close that rounding decides which comes first.
    """
    cfg = tiny(recipe, *FINDS.get(recipe, []))
    data = run._data(cfg)
    data.prepare()
    task = run._task(cfg, data).double()
    batch = data.rows("valid").fetch(np.arange(2), 0)
    batch["image"] = batch["image"].double()
    torch.manual_seed(0)
    for module in task.eval().modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None  # the mean of what was seen
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        task.predict(batch)
    return task.eval(), batch


@pytest.mark.parametrize("recipe", RECIPES)
def test_predictions_stay_the_same(recipe: str) -> None:
    task, batch = scrambled(recipe)
    with torch.no_grad():
        expected = task.predict(batch)
        task.for_inference("fp32", channels_last=True)
        found = task.predict(batch)
    assert norms(task) == 0 and found.keys() == expected.keys()
    assert (expected["labels"] > 0).sum() > 2 if "labels" in expected else True
    for name, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
        else:
            assert found[name] == value


@pytest.mark.filterwarnings("ignore:train.precision")
def test_products_run_in_the_precision_without_being_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def small() -> Task:
        torch.manual_seed(0)
        return ImageClassification(Backbone(architecture="mobilenet_v3_small", num_classes=5)).eval()

    batch = {"image": torch.randn(2, 3, 64, 64)}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    once, always = small(), small()
    once.for_inference("bf16", channels_last=False)
    always.model = fold_batch_norm(always.model)
    assert {p.dtype for p in once.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        found = once.predict(batch)["score"]
        with autocast("bf16", CPU):
            expected = always.predict(batch)["score"]
            again = once.predict(batch)["score"]  # as `eval` calls it
        exact = always.predict(batch)["score"]
    assert torch.equal(found, expected) and torch.equal(again, expected) and not torch.equal(found, exact)

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    slow = small()
    slow.for_inference("bf16", channels_last=False)
    with torch.no_grad():
        assert torch.equal(slow.predict(batch)["score"], exact)  # emulated products would be slower than those in fp32


def test_a_run_goes_on_as_if_it_had_not_been_looked_at(tmp_path: Path) -> None:
    def train(steps: int, folder: str) -> bytes:
        run.train(tiny("cv/resnet20_cifar10", f"output_dir={tmp_path / folder}", f"train.max_steps={steps}",
                       "optim.schedule.kind=constant", "train.eval_every=1"))  # fmt: skip
        return (tmp_path / folder / "checkpoints" / f"step_{steps:08d}" / "model.safetensors").read_bytes()

    expected = train(2, "whole")
    first = train(1, "parts")
    looks = tiny("cv/resnet20_cifar10", f"init.weights={tmp_path / 'parts'}")
    assert run.evaluate(looks)["rows"] > 0 and list(run.predict(looks))
    assert (tmp_path / "parts" / "checkpoints" / "step_00000001" / "model.safetensors").read_bytes() == first
    assert train(2, "parts") == expected


def test_a_folder_of_inputs_has_hidden_files_and_damaged_ones(tmp_path: Path) -> None:
    run.train(tiny("cv/lenet_mnist", f"output_dir={tmp_path / 'run'}", "train.max_steps=1"))
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("L", (28, 28)).save(folder / name)
    for name in ("._a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    weights = f"init.weights={tmp_path / 'run'}"
    answers = []
    with pytest.raises(DataError, match="1 of 3 inputs .*b.png: not an image .*\n.*; data.on_bad_row=skip"):
        answers.extend(run.predict(tiny("cv/lenet_mnist", weights), [str(folder)]))
    skipping = tiny("cv/lenet_mnist", weights, "data.on_bad_row=skip")
    assert list(run.predict(skipping, [str(folder)], tmp_path / "seen")) == answers
    assert [(Path(a["input"]).name, "error" in a) for a in answers] == [
        ("a.png", False),
        ("b.png", True),
        ("c.png", False),
    ]
    assert sorted(f.name for f in (tmp_path / "seen").glob("*.png")) == ["00000_a.png", "00002_c.png"]


@pytest.mark.parametrize("kind", [CamVidData, ImageFolderData, VOCData])
def test_weights_are_refused_where_pixels_are_scaled_otherwise(kind: type[DataModule]) -> None:
    """Else scores and predictions would be worse without a word."""
    made = json.loads(json.dumps({"mean": kind(mean=(0.4, 0.5, 0.5)).mean}))  # type: ignore[call-arg,attr-defined]
    weights = hub.Artefact(Path("w"), {}, {"data": made}, {}, {})
    run._restore(kind(mean=[0.4, 0.5, 0.5]), weights)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"data.mean=\[0.485, .* in w were made with data.mean=\[0.4, .*; give that"):
        run._restore(kind(), weights)


@pytest.mark.parametrize("recipe", hub.list_models(suite="cv", pretrained=True))
def test_published_weights_say_how_pixels_were_scaled(recipe: str) -> None:
    made = hub.read_card(recipe)["data"]
    assert set(getattr(paddlecv.data, made["_target_"].rpartition(".")[2]).input_options) <= made.keys()
