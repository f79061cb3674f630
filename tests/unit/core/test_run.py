"""The verbs on a small recipe: which folder, which weights, what comes out."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paddlecore import checkpoint, config, files, hub, run
from paddlecore.errors import CheckpointError, ConfigError, DataError, Stopped
from paddlecore.journal import Journal, read_metrics
from paddlecore.schema import RunConfig
from paddlecore.task import Task
from paddlecore.trainer import Trainer

DATA = ["data.train_rows=2000", "data.valid_rows=500", "data.test_rows=500", "data.batch_size=100"]


def compose(*overrides: str) -> RunConfig:
    return config.compose(["recipe=rec/deepfm_toy", "device=cpu", *DATA, "train.max_epochs=1", *overrides])


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_leaves_what_is_promised() -> None:
    result = run.train(compose("output_dir=out"))
    out = Path("out")
    assert json.loads((out / "result.json").read_text()) == result
    assert result["steps"] == 20 and result["epochs"] == 1 and result["parameters"] > 1000
    assert result["seconds"] > 0 and result["examples_per_second"] > 0 and result["peak_memory_bytes"] > 10**7
    assert result["best"]["metric"] == "auc" and 0 < result["test"]["auc"] < result["best_possible"]["auc"]
    names = {p.name for p in out.iterdir()}
    assert names >= {"run_config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "last.json",
                     "best.json"}  # fmt: skip
    record = config.load_record(out / "run_config.yaml")
    assert record["train"]["max_epochs"] == 1 and record["model"]["_target_"] == "paddlerec.models.DeepFM"
    folder = out / "checkpoints" / json.loads((out / "best.json").read_text())["checkpoint"]
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "optimizer.pt", "trainer.json", "data.json",
                                                  "recipe.json", "manifest.json"}  # fmt: skip
    assert files.read_json(folder / "recipe.json")["model"]["vocab_sizes"]  # sizes from the data are recorded


def test_the_same_command_goes_on_and_a_finished_run_is_not_run_again() -> None:
    first = run.train(compose())
    folder = Path(first["run"])
    assert folder.parent == Path("runs/rec") and folder.name.startswith("deepfm_toy-")
    written = (folder / "metrics.jsonl").read_bytes()
    again = run.train(compose())
    assert again == first
    train_lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert all(line in written.decode() for line in train_lines)
    longer = run.train(compose("train.max_epochs=2", "optim.schedule.kind=constant"))
    assert longer["run"] != first["run"]  # another schedule is another run
    shorter = run.train(compose("optim.schedule.kind=constant"))
    assert shorter == longer and shorter["steps"] == 40  # it has gone further than asked for: nothing to do


def test_a_result_is_of_the_weights_that_lie_beside_it() -> None:
    """A folder whose checkpoints were deleted is a new run's, and one whose last is damaged trains it again."""
    options = ("output_dir=out", "train.max_steps=4", "train.save_every=2", "optim.schedule.kind=constant")
    first = run.train(compose(*options))
    shutil.rmtree("out/checkpoints")
    second = run.train(compose(*options, "optim.lr=1e-6"))
    assert second["test"] != first["test"] and files.read_json(Path("out/result.json")) == second
    Path("out/checkpoints/step_00000004/optimizer.pt").unlink()
    third = run.train(compose(*options, "optim.lr=1e-6"))
    assert third["test"] == second["test"]
    assert [line["kind"] for line in read_metrics(Path("out/metrics.jsonl"))].count("test") == 1


def test_a_result_that_could_not_be_written_leaves_one_test_line(monkeypatch: pytest.MonkeyPatch) -> None:
    write = run.write_json

    def full(path: Path, value: Any) -> None:
        if path.name == "result.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, value)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(run, "write_json", full)
        run.train(compose("output_dir=out", "train.max_steps=2"))
    run.train(compose("output_dir=out", "train.max_steps=2"))
    assert [line["kind"] for line in read_metrics(Path("out/metrics.jsonl"))].count("test") == 1


def test_a_stopped_run_closes_its_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow, for one, begins no second run in a process before the first has ended."""
    closed = []
    monkeypatch.setattr(Journal, "close", lambda self: closed.append(self.folder))

    def stop(self: Trainer) -> None:
        raise Stopped("as asked")

    monkeypatch.setattr(Trainer, "fit", stop)
    with pytest.raises(Stopped):
        run.train(compose("output_dir=out"))
    assert closed == [Path("out")]


def test_a_result_that_is_none_is_named() -> None:
    run.train(compose("output_dir=out", "train.max_steps=1"))
    Path("out/result.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="out/result.json must hold a JSON object"):
        run.train(compose("output_dir=out", "train.max_steps=1"))


def test_never_starts_afresh_beside_the_old_run() -> None:
    first = run.train(compose("init.resume=never"))
    second = run.train(compose("init.resume=never"))
    assert second["run"] == first["run"] + "-2" and second["test"] == first["test"]
    with pytest.raises(ConfigError, match="already holds a run"):
        run.train(compose("init.resume=never", f"output_dir={first['run']}"))


def test_a_folder_of_another_run_is_refused_with_the_options_that_differ() -> None:
    Path("file").touch()
    with pytest.raises(ConfigError, match="output_dir=file/out cannot be made: Not a directory"):
        run.train(compose("output_dir=file/out"))
    run.train(compose("output_dir=out"))
    with pytest.raises(ConfigError, match=r"(?s)optim\.lr: there 0\.01, here 0\.5.*output_dir"):
        run.train(compose("output_dir=out", "optim.lr=0.5"))
    with pytest.raises(ConfigError, match="not a run folder"):
        run.train(compose("init.resume=nowhere"))
    with pytest.raises(ConfigError, match="init.weights=out"):
        run.train(compose("init.resume=out", "optim.lr=0.5"))
    assert run.train(compose("init.resume=out"))["run"] == "out"
    assert run.train(compose("init.resume=out", "output_dir=./out"))["run"] == "out"
    with pytest.raises(ConfigError, match="output_dir=other cannot be another"):
        run.train(compose("init.resume=out", "output_dir=other"))


def test_a_folder_that_a_process_trains_into_is_refused_until_it_dies() -> None:
    holder = """
import os, time
from pathlib import Path
from paddlecore import run
with run._locked(Path("out")):
    if os.fork() == 0:  # a data worker, which outlives a killed parent for a while
        print(os.getpid(), flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        refused = rf"trains into out \(process {process.pid} on .+\); wait .* another output_dir"
        with pytest.raises(ConfigError, match=refused):
            run.train(compose("output_dir=out", "train.max_steps=2"))
        assert [p.name for p in Path("out").iterdir()] == ["lock"]
        process.kill()
        process.wait()
        assert run.train(compose("output_dir=out", "train.max_steps=2"))["steps"] == 2
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)


def test_a_file_system_without_locks_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert run.train(compose("output_dir=out", "train.max_steps=2"))["steps"] == 2
    assert "out cannot be locked (No locks available)" in capsys.readouterr().err


def test_evaluating_needs_weights_and_finds_the_run_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published = run.evaluate(compose())  # no run yet: those of the recipe's artefact
    assert published["weights"] == str(hub.pretrained_root() / "rec/deepfm_toy")
    with pytest.raises(ConfigError, match="output_dir=outt holds no checkpoint; train first"):
        run.evaluate(compose("output_dir=outt"))  # not the published score in the name of a mistyped run
    monkeypatch.setattr(hub, "pretrained_root", lambda: tmp_path)
    with pytest.raises(ConfigError, match="train first"):
        run.evaluate(compose())
    trained = run.train(compose())
    scored = run.evaluate(compose())
    assert {k: scored[k] for k in trained["test"]} == trained["test"]
    assert scored["rows"] == 500 and scored["split"] == "test" and scored["signatures"][0].startswith("auc|")
    valid = run.evaluate(compose(), "valid")
    assert valid["auc"] == pytest.approx(trained["best"]["value"], abs=1e-12)
    assert "best_possible" in scored and "best_possible" not in valid  # which is known of the test split
    own = ["data.eval_batch_size=100", f"init.weights={trained['run']}"]
    limits = {n: run.evaluate(compose(f"train.max_eval_batches={n}", *own)) for n in (2, 9)}
    assert {n: part["rows"] for n, part in limits.items()} == {2: 200, 9: 500}
    with pytest.raises(ConfigError, match="split=tset: .*did you mean 'test'"):
        run.evaluate(compose(), "tset")
    with pytest.raises(CheckpointError, match="(?s)do not fit.*model.deep"):
        run.evaluate(compose("model.hidden=[8]", f"init.weights={trained['run']}"))


def test_weights_are_scored_as_they_were_trained_unless_other_options_are_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Many options change no shape, so that weights load with any value of them, and answer otherwise."""
    options = ["recipe=rec/deepfm_toy", "device=cpu"]
    trained = run.train(compose("output_dir=out", "model.dropout=0.3", "data.seed=5", "task.gauc=false"))
    cpu, weights = torch.device("cpu"), f"init.weights={trained['run']}"
    capsys.readouterr()
    scored = run.evaluate(config.compose([*options, weights]))
    assert {name: scored[name] for name in trained["test"]} == trained["test"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(
        "was trained: data.train_rows=2000 data.valid_rows=500 data.test_rows=500 data.batch_size=100 data.seed=5"
    )
    assert said[1].endswith("was trained: model.dropout=0.3") and len(said) == 3  # and the task

    cfg = config.compose(
        [*options, weights, "model.dropout=0.1", "data.train_rows=200000", *DATA[1:], "task.gauc=false"]
    )
    assert cfg.data["train_rows"] == config.compose(options).data["train_rows"]  # the recipe's own, and asked for
    run.Predictor(cfg, cpu)
    assert cfg.data["train_rows"] == 200000 and cfg.model["dropout"] == 0.1 and cfg.data["seed"] == 5
    capsys.readouterr()

    model = run.Predictor(compose(weights, "model.dropout=0.1", "data.seed=5", "task.gauc=false"), cpu).task.model
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.1}
    assert not capsys.readouterr().err
    checkpoint.save_tensors(Path("bare.safetensors"), model.state_dict())  # which says nothing of how it was made
    run.Predictor(compose("init.weights=bare.safetensors", "model.dropout=0.1"), cpu)
    assert not capsys.readouterr().err


def test_an_average_of_checkpoints_is_scored_and_goes_on_being_trained() -> None:
    trained = run.train(compose("output_dir=out", "train.save_every=5", "train.keep=3"))
    parts = [checkpoint.load_tensors(c / "model.safetensors") for c in checkpoint.steps(Path("out/checkpoints"))[-3:]]
    mean = {name: sum(part[name] for part in parts) / 3 for name in parts[0]}
    torch.save({name.removeprefix("model."): value for name, value in mean.items()}, "mean.pth")
    scored = run.evaluate(compose("init.weights=out", "init.average=3"))
    assert scored["average"] == 3 and scored["auc"] != trained["test"]["auc"]
    assert scored["auc"] == pytest.approx(run.evaluate(compose("init.weights=mean.pth"))["auc"], abs=1e-6)
    assert len(list(run.predict(compose("output_dir=out", "init.average=3")))) == 3  # the run in its own folder
    task = run.build_trainer(compose("init.weights=out", "init.average=3"), torch.device("cpu"))[0].task
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, mean[name])
    with pytest.raises(ConfigError, match="init.vocabulary=data: .* has no vocabulary that CtrToyData could"):
        run.build_trainer(compose("init.weights=out", "init.vocabulary=data"), torch.device("cpu"))
    with pytest.raises(ConfigError, match="train.keep=4"):
        run.evaluate(compose("init.weights=out", "init.average=4"))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A SIGTERM arrives during `step`."""
    advance = Trainer._advance

    def stopping(self: Trainer, sums: list[torch.Tensor]) -> None:
        if self.step == step - 2:
            self._stop_asked = True
        advance(self, sums)

    monkeypatch.setattr(Trainer, "_advance", stopping)


def test_what_is_saved_after_damage_is_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("output_dir=out", "train.save_every=10", "train.keep=1", "optim.lr=0.0")  # the first evaluation is best
    run.train(compose(*options, "train.eval_every=10"))
    last = checkpoint.steps(Path("out/checkpoints"))[-1]
    assert last.name == "step_00000020"
    (last / "model.safetensors").write_bytes(b"")
    stop_at(monkeypatch, 15)
    with pytest.raises(Stopped, match="step 15"):
        run.train(compose(*options, "train.eval_every=10"))
    found = checkpoint.latest(Path("out/checkpoints"))
    assert found is not None and found.name == "step_00000015"


def test_a_damaged_best_checkpoint_is_named_with_those_to_score_instead() -> None:
    options = ("train.save_every=5", "train.keep=3", "train.eval_every=10", "optim.lr=0.0")  # the first one is best
    trained = run.train(compose("output_dir=out", *options))
    assert trained["best"]["step"] == 10
    cut = [Path("out/checkpoints") / f"step_{step:08d}" / "model.safetensors" for step in (10, 20)]
    for file in cut:
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CheckpointError) as caught:
        run.evaluate(compose("init.weights=out"))
    first, *rest = str(caught.value).splitlines()
    assert str(cut[0]) in first and [line.strip() for line in rest[1:]] == [
        "init.weights=out/checkpoints/step_00000015"
    ]
    scored = run.evaluate(compose(rest[1].strip()))
    assert scored["weights"] == "out/checkpoints/step_00000015" and scored["auc"] == trained["test"]["auc"]
    with pytest.raises(CheckpointError, match="step_00000010/model.safetensors"):
        next(run.predict(compose("output_dir=out", *options)))
    Path("out/best.json").unlink()  # as a run without validation: its last one, and no other in its place
    with pytest.raises(CheckpointError, match="(?s)step_00000020/model.safetensors.*weights=.*step_00000015"):
        run.evaluate(compose("init.weights=out"))


def test_predict_refuses_weights_of_other_data() -> None:
    run.train(compose("output_dir=out", "train.max_steps=1"))
    with pytest.raises(ConfigError, match="weights in out.* are of paddlerec.data.CtrToyData, .* as paddlecv.data"):
        next(run.predict(config.compose(["recipe=cv/lenet_mnist", "init.weights=out", "device=cpu"])))


def test_predict_needs_the_vocabulary_of_the_weights() -> None:
    torch.save({"embedding.weight": torch.zeros(3, 2)}, "w.pth")
    with pytest.raises(ConfigError, match="w.pth holds weights alone, and their vocabulary is needed"):
        next(run.predict(config.compose(["recipe=nlp/senta_bow_chnsenticorp", "init.weights=w.pth", "device=cpu"])))


def test_predict_takes_raw_rows_one_at_a_time() -> None:
    run.train(compose())
    rows = list(run.predict(compose()))
    assert len(rows) == 3 and all(0 <= row["probability"] <= 1 for row in rows)
    assert list(run.predict(compose(), [rows[1]["input"]])) == [rows[1]]


def test_a_predictor_answers_as_predict_does_and_leaves_the_callers_draws_alone() -> None:
    trained = run.train(compose())
    rows = list(run.predict(compose()))
    inputs = [row.pop("input") for row in rows]
    torch.manual_seed(7)
    predict = run.load_predictor("rec/deepfm_toy", f"init.weights={trained['run']}", "device=cpu")
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert drawn.equal(torch.rand(3))
    assert predict(*inputs) == rows and predict(inputs[1], batch_size=1) == [rows[1]] and predict() == []
    with pytest.raises(DataError, match="input 2 of 2: "):
        predict(inputs[0], {"user": 1})
    predict.data.bad_rows.on_bad_row = "skip"
    answers = predict(inputs[0], {"user": 1})
    assert answers[0] == rows[0] and list(answers[1]) == ["error"]
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        predict(inputs[0], batch_size=0)
    with pytest.raises(ConfigError, match="did you mean"):
        run.load_predictor("rec/deepfm_toyy")


def vision(*overrides: str) -> RunConfig:
    return config.compose(
        [
            "recipe=cv/lenet_mnist",
            "data.source=toy",
            "device=cpu",
            "data.batch_size=32",
            "train.max_epochs=null",
            "train.max_steps=3",
            "train.max_eval_batches=1",
            *overrides,
        ]
    )


def images(root: Path, classes: list[str]) -> None:
    from PIL import Image

    for split in ("train", "valid"):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("L", (28, 28), 60 * number + i).save(folder / f"{i}.png")


def test_fine_tuning_replaces_the_head_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = run.train(vision("output_dir=base"))
    images(tmp_path / "mine", ["cat", "dog", "owl"])
    tuned = run.train(vision("output_dir=tuned", "init.weights=base", "data.source=mine"))
    report = capsys.readouterr().err
    assert "re-initialised" in report and "loaded" in report and "[3, 84]" in report
    kept = hub.read_artefact(hub.resolve("tuned"))
    assert kept.data_state["labels"] == ["cat", "dog", "owl"]
    assert tuned["parameters"] < base["parameters"]
    (prediction,) = run.predict(
        vision("output_dir=tuned", "data.source=mine"), [str(tmp_path / "mine/valid/cat/0.png")]
    )
    assert prediction["label"] in ("cat", "dog", "owl")


@pytest.mark.parametrize("mode", ["smoke", "overfit", "profile"])
def test_debug_modes(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose(f"debug={mode}", *(["train.max_steps=30"] if mode == "overfit" else []))
    result = run.train(cfg)
    err = capsys.readouterr().err
    if mode == "smoke":
        assert result["steps"] == 2 and "dry run" in err
    elif mode == "overfit":
        assert result["test"] == {} and cfg.train.overfit_batches == 1
    else:
        assert (Path(result["run"]) / "profile.json").is_file()


@pytest.mark.parametrize("section", ["model", "task", "data", "optim"])
def test_a_section_that_names_a_class_of_another_kind_is_refused(section: str) -> None:
    cfg = compose()
    setattr(cfg, section, {**getattr(cfg, section), "_target_": "paddlecore.metric.Mean", "name": "x"})
    with pytest.raises(ConfigError, match=rf"^{section}._target_: expected a class derived from .*, got .*\.Mean"):
        run.train(cfg)


def test_deterministic_switch() -> None:
    with run._job(compose("train.deterministic=true")):
        assert torch.are_deterministic_algorithms_enabled()
    result = run.train(compose("train.deterministic=true", "train.max_steps=3"))
    assert math.isfinite(result["test"]["auc"])
    assert not torch.are_deterministic_algorithms_enabled()  # a program of one's own goes on as it was


def test_bench_measures_and_writes_nothing() -> None:
    measured = run.bench(compose(), steps=10)
    assert measured["slowest"] <= measured["examples_per_s"] <= measured["fastest"] and 0 <= measured["data_wait"] < 1
    assert not Path("runs").exists()


def test_check_data_gives_statistics() -> None:
    described: dict[str, Any] = run.check_data(compose())
    assert described["rows"] == {"train": 2000, "valid": 500, "test": 500} and described["bad_rows"] == 0


def test_a_batch_must_hold_all_pieces() -> None:
    with pytest.raises(ConfigError, match="cannot be split"):
        run.train(compose("data.batch_size=3", "train.accumulate=4"))


def test_length_is_part_of_a_run_only_where_the_schedule_ends_with_it() -> None:
    def folder(*overrides: str) -> str:
        return config.default_run_dir(compose(*overrides))

    constant = "optim.schedule.kind=constant"
    assert folder(constant) == folder(constant, "train.max_epochs=7", "train.log_every=3", "data.workers=2")
    assert folder() != folder("train.max_epochs=7")  # the recipe's cosine would be another one
    fixed = "optim.schedule.total_steps=100"
    assert folder(fixed) == folder(fixed, "train.max_epochs=7")
    assert len({folder(constant), folder(constant, "seed=2"), folder(constant, "optim.lr=0.1"),
                folder(constant, "data.batch_size=50"), folder(constant, "model.dim=8")}) == 5  # fmt: skip


def test_a_run_made_longer_has_the_plateaus_of_one_that_was_long() -> None:
    """The evaluation at the end of the shorter run is none of the longer one's."""
    plateau = ["optim.schedule.kind=plateau", "optim.schedule.min_delta=9", "train.eval_every=4", "train.early_stop=5"]
    for folder, lengths in (("in_two", (6, 12)), ("at_once", (12,))):
        for length in lengths:
            run.train(compose(f"output_dir={folder}", f"train.max_steps={length}", *plateau))
    two, one = (checkpoint.latest(Path(folder) / "checkpoints") for folder in ("in_two", "at_once"))
    assert two is not None and one is not None and two.name == one.name == "step_00000012"
    states = [files.read_json(folder / "trainer.json") for folder in (two, one)]
    assert states[0]["schedules"] == states[1]["schedules"]
    weights = [checkpoint.load_tensors(folder / "model.safetensors") for folder in (two, one)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_length_is_part_of_a_run_also_where_one_phase_ends_with_it() -> None:
    phases = "optim.phases={judge: {schedule: {kind: linear}}}"
    two, three = (
        config.identity(compose(phases, "optim.schedule.kind=constant", f"train.max_epochs={n}")) for n in (2, 3)
    )
    assert two != three


def test_bare_files_of_tensors(capfd: pytest.CaptureFixture[str]) -> None:
    """A safetensors file or a saved state dict gives weights to a model or to a part of it, and can be scored."""
    from safetensors.torch import save_file

    weights = {
        k.removeprefix("model."): v + 1
        for k, v in run.build_trainer(compose(), torch.device("cpu"))[0].task.state_dict().items()
    }
    save_file(weights, "whole.safetensors")
    torch.save(weights, "whole.pth")
    save_file({f"model.{k}": v for k, v in weights.items()}, "task.safetensors")  # as in a checkpoint
    names = ("whole.safetensors", "whole.pth", "task.safetensors")
    assert len({run.evaluate(compose(f"init.weights={name}"))["auc"] for name in names}) == 1
    torch.save({k.removeprefix("deep."): v for k, v in weights.items() if k.startswith("deep.")}, "part.pt")
    part = compose("init.weights=part.pt", "init.into=model.deep")
    state = run.build_trainer(part, torch.device("cpu"))[0].task.state_dict()
    assert all(
        torch.equal(state[f"model.{k}"], v) == k.startswith("deep.") for k, v in weights.items() if v.numel() > 1
    )
    assert "loaded" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="init.into=model.depe.*model.deep"):
        run.build_trainer(compose("init.weights=part.pt", "init.into=model.depe"), torch.device("cpu"))
    with pytest.raises(CheckpointError, match="not those of a CTR"):
        run.evaluate(compose("init.weights=part.pt"))
    torch.save({"epoch": 3, "state": weights}, "more.pth")
    with pytest.raises(CheckpointError, match="epoch, state"):
        run.evaluate(compose("init.weights=more.pth"))
    Path("none.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a readable"):
        run.evaluate(compose("init.weights=none.pth"))


def test_weights_of_data_that_learned_something_else_are_refused() -> None:
    """MovieLens counts users and items; a table's vocabularies say nothing of that, and names are no counts."""
    data = config.build({"_target_": "paddlerec.data.MovieLensData", "source": "toy"}, "data")
    for state in ({"vocabularies": {}, "scales": {}}, {"users": ["a"], "items": ["b"]}):
        weights = hub.Artefact(Path("other"), {}, {"data": {"_target_": "paddlerec.data.OtherData"}}, state, {})
        with pytest.raises(
            ConfigError, match="other are of paddlerec.data.OtherData, and MovieLensData cannot .* copy"
        ):
            run._restore(data, weights)


def test_a_vocabulary_that_came_with_no_weights_is_not_compared_with_theirs() -> None:
    task = Task(torch.nn.Linear(2, 1))
    data: Any = SimpleNamespace(vocabulary_state="vocabulary", vocabulary_of="tokens", unknown_share=lambda: 0.5)
    for state in ({}, {"vocabulary": ["a"]}):
        weights = hub.Artefact(Path("w.pt"), {}, {}, state, task.state_dict())
        said = run._fine_tuned(compose("init.weights=w.pt"), task, data, weights)
        assert ("50.0% of the tokens are not in that of the weights" in said) == bool(state)
