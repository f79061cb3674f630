"""Pictures of predictions, samples and the worst rows: what files come, and which rows are meant."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from paddlecore import cli, pictures, testing
from paddlecore.errors import ConfigError

LENET = ["recipe=cv/lenet_mnist", "data.source=toy", "device=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    testing.tiny_trainer("cv/lenet_mnist", folder=folder)[0].fit()
    return folder


def verb(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_predictions_are_drawn(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = tmp_path / "inputs"
    shown.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.new("L", (28, 28), 90).save(shown / name)
    (shown / "notes.txt").write_text("no image")
    out = verb(capsys, "predict", *LENET, f"init.weights={trained}", f"input={shown}", f"draw={tmp_path / 'out'}")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["a.jpg", "b.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "00000_a.json", "00000_a.png", "00001_b.json", "00001_b.png",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "00000_a.json").read_text()) == lines[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli.main(["predict", *LENET, f"init.weights={trained}", f"input={empty}"]) == ConfigError.exit_code
    assert "no files ending in .png" in capsys.readouterr().err


def test_samples_of_each_split_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(verb(capsys, "check-data", *LENET, f"draw={tmp_path}", "samples=5"))
    assert [Path(p).name for p in found["drawn"]] == ["train.png", "valid.png", "test.png"]
    with Image.open(tmp_path / "train.png") as page:
        assert page.size == (3 * 168, 2 * (168 + 22 + 16))  # a digit six times enlarged, a line of text, the caption


def test_the_worst_rows_are_drawn(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = verb(
        capsys, "eval", *LENET, f"init.weights={trained}", f"report={tmp_path}", "worst=3", "data.eval_batch_size=64"
    )
    assert {Path(p).name for p in json.loads(out)["report"]} >= {"worst.png", "worst.json"}
    worst = json.loads((tmp_path / "worst.json").read_text())
    assert len(worst) == 3 and worst[0]["error"] >= worst[1]["error"] >= worst[2]["error"] > 0
    for entry in worst:  # the error is the cross-entropy of the prediction that is shown
        sure = entry["prediction"]["probability"].get(entry["truth"]["label"])
        if sure is not None:
            assert entry["error"] == pytest.approx(-torch.tensor(sure).log().item(), abs=1e-3)


def test_a_sheet_of_small_pictures_has_room_for_what_is_said_of_them() -> None:
    small, caption = Image.new("RGB", (20, 10)), "predicted (error 3.000)"
    page = pictures.sheet([(small, caption)] * 2, columns=2)
    written = np.array(page.convert("L"))[10:] < 128
    for half in np.split(written, 2, axis=1):
        assert half.any(0).nonzero()[0].max() > 6 * len("predicted (error ")  # the number is there
    assert pictures.sheet([(Image.new("RGB", (900, 90)), "x" * 500)], columns=1).width == 320


def test_the_worst_are_the_worst() -> None:
    task = SimpleNamespace(row_errors=lambda prediction, batch: prediction["error"])
    worst = pictures.Worst(task, batch_size=4)  # type: ignore[arg-type]
    errors = torch.tensor([0.0, 3, 1, float("nan"), 3, 0, 2])
    for start in (0, 4):
        worst.add({}, {"error": errors[start : start + 4]})
    assert [row for row, _ in worst.rows(4)] == [3, 1, 4, 6]


@pytest.mark.parametrize("words", [["check-data"], ["predict"], ["eval"]])
def test_recipes_without_pictures_say_so_at_once(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "report" if words == ["eval"] else "draw"
    code = cli.main([*words, "recipe=rec/deepfm_toy", "init.weights=rec/deepfm_toy", f"{option}={tmp_path / 'out'}"])
    assert code == ConfigError.exit_code and f"{option}={tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
