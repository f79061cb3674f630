from __future__ import annotations

import json
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from paddlecore import files, journal
from paddlecore.errors import CheckpointError, ConfigError
from paddlecore.journal import Journal


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def write(folder: Path, steps: range, **options: Any) -> None:
    log = Journal(folder, terminal=False, **options)
    for step in steps:
        log.log(step, step / 10, "train", {"loss": 1.0 / (step + 1), "seconds_left": 5.0})
    log.close()


def test_a_line_is_one_json_object_with_every_digit(tmp_path: Path) -> None:
    log = Journal(tmp_path, terminal=False)
    value = 0.1 + 0.2
    log.log(3, 0.5, "train", {"loss": value, "lr": 1e-3})
    # flushed at once: a run that is killed keeps its lines
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 3, "epoch": 0.5, "kind": "train", "loss": value, "lr": 1e-3,
    }  # fmt: skip
    log.close()


def test_nan_is_null_in_json_and_stays_visible_to_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Journal(tmp_path, terminal=False)
    log.log(1, 0.1, "eval", {"auc": math.nan, "logloss": math.inf, "acc": 0.5})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line["auc"] is None and line["logloss"] is None and line["acc"] == 0.5
    shown = capsys.readouterr()
    assert "auc nan" in shown.err and shown.out == ""
    assert set(scalars(tmp_path)) == {"eval/acc"}


def test_a_resumed_run_leaves_the_record_of_one_that_never_stopped(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.mkdir()
    twice.mkdir()
    write(once, range(1, 9))
    write(twice, range(1, 7))  # steps 5 and 6 come after the checkpoint of step 4
    with open(twice / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "epo')  # cut short by a kill
    write(twice, range(5, 9), resume_step=4)
    assert (twice / "metrics.jsonl").read_bytes() == (once / "metrics.jsonl").read_bytes()
    assert scalars(twice) == scalars(once)
    assert [step for step, _ in scalars(once)["train/loss"]] == list(range(1, 9))


def test_a_torn_line_of_a_kept_step_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kind": "train"}\n{"step": 2, "kind": "train"}')  # no newline: not whole
    journal.truncate(path, 5)
    assert path.read_text() == '{"step": 1, "kind": "train"}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_plain_lines_show_what_a_user_watches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Journal(tmp_path, terminal=False)
    log.log(1200, 2.5, "train", {
        "loss": 0.43217, "lr": 0.001, "grad_norm": 0.5, "examples_per_s": 41234.5, "data_wait": 0.031,
        "memory_gb": 1.204, "seconds_left": 3725.0,
    })  # fmt: skip
    log.close()
    assert capsys.readouterr().err == (
        "train step 1200  epoch 2.50  loss 0.4322  lr 0.001  grad_norm 0.5  41,234 examples/s  data 3%  1.20 GB  "
        "left 1:02:05\n"
    )


def test_a_terminal_gets_one_bar_with_all_numbers_above_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # all that a terminal often has
    monkeypatch.setenv("LINES", "24")
    log = Journal(tmp_path, terminal=True, total_steps=200, resume_step=0)
    numbers = {"loss": 0.4, "lr": 1.479e-05, "grad_norm": 0.0419}
    measured = {"examples_per_s": 146557.0, "data_wait": 0.03, "memory_gb": 0.7, "seconds_left": 100.0}
    log.log(100, 1.0, "train", {**numbers, **measured})
    log.log(100, 1.0, "eval", {"auc": 0.8})
    assert log._bar.n == 100 and log._bar.total == 200
    log.close()
    shown = capsys.readouterr().err
    assert "100/200" in shown
    lines = [line.strip() for line in shown.replace("\r", "\n").split("\n")]
    assert "eval  step 100  epoch 1.00  auc 0.8" in lines
    train = [
        line for line in lines if line.startswith("train step 100  epoch 1.00  loss 0.4  lr 1.479e-05  grad_norm 0.0")
    ]
    assert len(train) == 1 and train[0].endswith("146,557 examples/s  data 3%  0.70 GB  left 0:01:40")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    log = Journal(tmp_path, terminal=False)
    log._file.close()
    log._file = open("/dev/full", "w")
    with pytest.raises(OSError, match="No space left.*metrics.jsonl"):
        log.log(1, 0.1, "train", {"loss": 0.5})
    log.close()
    (tmp_path / "result.json.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left.*/result.json'"):
        files.write_json(tmp_path / "result.json", "a" * 9000)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # makes `import` fail
    with pytest.raises(ConfigError, match=rf"pip install 'paddle-suite\[{name}\]'"):
        Journal(tmp_path, terminal=False, trackers=[name])


def test_wandb_gets_the_numbers_and_a_resumed_run_its_old_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        id = "abc"

        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append((step, numbers))

        def finish(self) -> None:
            calls.append("finished")

    def init(**options: Any) -> Run:
        calls.append((options["id"], options["config"]))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=OSError))
    for resume in (0, 1):
        log = Journal(tmp_path, terminal=False, trackers=["wandb"], config={"seed": 1}, resume_step=resume)
        log.log(1 + resume, 0.1, "train", {"loss": 0.5, "note": "text is not a number", "bad": math.nan})
        log.close()
    assert calls == [
        (None, {"seed": 1}), (1, {"train/loss": 0.5}), "finished",
        ("abc", {"seed": 1}), (2, {"train/loss": 0.5}), "finished",
    ]  # fmt: skip


def test_mlflow_gets_the_numbers_and_a_resumed_run_its_old_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = types.SimpleNamespace(
        set_experiment=lambda name: calls.append("experiment"),
        start_run=lambda run_id, run_name: (
            calls.append(run_id) or types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
        ),
        log_params=lambda values: calls.append(values),
        log_metrics=lambda numbers, step: calls.append((step, numbers)),
        end_run=lambda: calls.append("ended"),
        exceptions=types.SimpleNamespace(MlflowException=OSError),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for resume in (0, 1):
        log = Journal(tmp_path, terminal=False, trackers=["mlflow"], config={"long": "x" * 600}, resume_step=resume)
        log.log(1 + resume, 0.1, "eval", {"recall@20": 0.5})
        log.close()
    assert calls == [
        "experiment", None, {"long": "x" * 500}, (1, {"eval/recall_at_20": 0.5}), "ended",
        "r1", (2, {"eval/recall_at_20": 0.5}), "ended",
    ]  # fmt: skip


def test_a_tracker_without_a_place_for_the_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        pass

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("No API key configured.\nand a page of advice")

    fakes = {
        "wandb": types.SimpleNamespace(init=refuse, Error=Refused),
        "mlflow": types.SimpleNamespace(
            set_experiment=refuse, exceptions=types.SimpleNamespace(MlflowException=Refused)
        ),
    }
    for name, remedy in (("wandb", "WANDB_MODE=offline"), ("mlflow", "MLFLOW_TRACKING_URI")):
        monkeypatch.setitem(sys.modules, name, fakes[name])
        with pytest.raises(ConfigError, match=rf"trackers=\[{name}\]: No API key configured.\n.*{remedy}") as caught:
            Journal(tmp_path, terminal=False, trackers=[name])
        assert "page" not in str(caught.value)


def test_the_curve_is_drawn_with_the_best_possible_score(tmp_path: Path) -> None:
    log = Journal(tmp_path, terminal=False)
    for step in (10, 20):
        log.log(step, step / 10, "train", {"loss": 1 / step})
        log.log(step, step / 10, "eval", {"auc": 0.7, "logloss": 0.5})
    log.close()
    (tmp_path / "result.json").write_text(json.dumps({
        "recipe": "rec/x", "best": {"metric": "auc", "value": 0.7}, "best_possible": {"auc": 0.8},
    }))  # fmt: skip
    path = journal.plot(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="holds no curve"):
        journal.plot(empty)


def test_environment_is_json_and_names_the_commit(tmp_path: Path) -> None:
    facts = json.loads(json.dumps(journal.environment()))
    assert facts["cores"] >= 1 and facts["versions"]["torch"] and facts["memory_bytes"] > 0
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert journal.git_commit(tmp_path) is None
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    commit = journal.git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "file").write_text("two")
    assert journal.git_commit(tmp_path) == commit + "+changes"


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    for text in ("x", "[1]"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(CheckpointError, match="result.json (cannot be read|must hold)"):
            journal.plot(tmp_path)


def test_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    good = {"step": 1, "kind": "eval", "auc": 0.5}
    (tmp_path / "m").write_bytes(b'5\n{"a": 1}\n\xff\n' + json.dumps(good).encode() + b'\n{"st')
    assert journal.read_metrics(tmp_path / "m") == [good]
