from __future__ import annotations

import errno
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import MLP

from paddlecore import checkpoint, config, files, hub
from paddlecore.errors import CheckpointError, ConfigError, DataError
from paddlecore.task import Task

ROOT = Path(__file__).resolve().parents[3]
MODEL = {"_target_": "torchvision.ops.MLP", "in_channels": 3, "hidden_channels": [4, 2]}
RECORD = {
    "recipe": "rec/one", "model": MODEL, "task": {"_target_": "paddlecore.task.Task"},
    "data": {"_target_": "paddlecore.data.DataModule", "source": "/home/me/rows.csv"},
}  # fmt: skip


def mlp(classes: int = 2, seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(3, [4, classes])


def make_run(
    folder: Path, *, seed: int = 0, auc: float = 0.9, ema: bool = False, max_steps: int | None = None, **options: Any
) -> Path:
    """A finished run: checkpoint 1 is the best one, 2 the last."""
    identity = {"seed": seed, "optim.lr": 0.1, **{f"data.{name}": value for name, value in options.items()}}
    for step in (1, 2):
        state = Task(mlp(seed=100 * seed + step)).state_dict()
        tensors = {"model": state} | ({"ema": {k: v + 1 for k, v in state.items()}} if ema else {})
        checkpoint.save(
            folder / "checkpoints", step, tensors=tensors, optimizer={},
            records={
                "trainer": {"data": {"fingerprint": "f" * 8}}, "data": {"state": {"labels": ["no", "yes"]}},
                "recipe": {**RECORD, "identity": identity},
            },
        )  # fmt: skip
    files.write_json(folder / "best.json", {"checkpoint": "step_00000001"})
    files.write_json(folder / "last.json", {"checkpoint": "step_00000002"})
    asked = config.compose(["recipe=rec/one", f"train.max_steps={max_steps or 'null'}"])
    (folder / "run_config.yaml").write_text(config.dump(asked))
    files.write_json(folder / "environment.json", {"commit": "c0ffee", "cpu": "a CPU", "threads": 2, "gpus": []})
    files.write_json(folder / "result.json", {
        "recipe": "rec/one", "seed": seed, "steps": 2, "parameters": 26, "seconds": 1.5,
        "best": {"metric": "auc", "metrics": {"auc": auc - 0.1}}, "test": {"auc": auc},
    })  # fmt: skip
    return folder


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipes rec/one, with weights, and rec/two, without; returns the artefact of rec/one."""
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs, ignore=lambda folder, names: {"recipe"} & set(names))
    (configs / "recipe" / "rec").mkdir(parents=True)
    for name, task in (("one", "ctr"), ("two", "ranking")):
        (configs / "recipe" / "rec" / f"{name}.yaml").write_text(
            "# @package _global_\n"
            f"about: {{title: A title, task: {task}, dataset: Rows, expected: auc 0.9}}\n"
            "model: {_target_: torchvision.ops.MLP, in_channels: 3, hidden_channels: [4, 2]}\n"
            "task: {_target_: paddlecore.task.Task}\n"
            "data: {_target_: paddlecore.data.DataModule}\n"
            "optim: {lr: 0.2}\n"
        )
    monkeypatch.setattr(config, "config_root", lambda: configs)
    monkeypatch.setattr(hub, "pretrained_root", lambda: tmp_path / "pretrained")
    return hub.write_artefact([make_run(tmp_path / "run")], tmp_path / "pretrained" / "rec" / "one")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------------------------------------------- loading


def test_all_fits() -> None:
    source, target = Task(mlp(seed=1)), Task(mlp(seed=2))
    report = hub.load_state(target, source.state_dict())
    assert same(target.state_dict(), source.state_dict())
    assert report.complete and str(report) == "loaded 4 of 4 tensors"


def test_another_head_keeps_its_fresh_weights_and_is_reported() -> None:
    source, target = mlp(2, seed=1), mlp(5, seed=2)
    fresh = {k: v.clone() for k, v in target.state_dict().items()}
    report = hub.load_state(target, Task(source).state_dict())  # a task's names, into a model
    assert report.loaded == ["0.weight", "0.bias"]
    assert report.reinitialised == [("3.weight", (2, 4), (5, 4)), ("3.bias", (2,), (5,))]
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[3].weight, fresh["3.weight"])
    assert "3.weight: [5, 4] here, [2, 4] in the file" in str(report) and not report.complete


def test_missing_and_unused_are_reported_and_the_tasks_own_tensors_are_not_the_models() -> None:
    state = Task(mlp()).state_dict() | {"class_weight": torch.ones(2), "model.old": torch.ones(1)}
    del state["model.0.bias"]
    report = hub.load_state(mlp(), state)
    assert report.missing == ["0.bias"] and report.unused == ["old"] and len(report.loaded) == 3


def test_a_part_called_model_is_no_task(tmp_path: Path) -> None:
    """A module of somebody's own, whose names may begin as a task's do: from its file, and from a task around it."""
    source, target = (nn.ModuleDict({"model": mlp(seed=seed), "head": nn.Linear(2, 1)}) for seed in (1, 2))
    checkpoint.save_tensors(tmp_path / "own.safetensors", source.state_dict())
    assert hub.load_pretrained(target, tmp_path / "own.safetensors", strict=True).complete
    assert same(target.state_dict(), source.state_dict())
    other = nn.ModuleDict({"model": mlp(seed=3), "head": nn.Linear(2, 1)})
    assert hub.load_state(other, Task(source).state_dict()).complete
    assert same(other.state_dict(), source.state_dict())


def test_what_a_task_carries_from_step_to_step_is_no_weight() -> None:
    class Carrying(Task):
        run_state = ("state",)

        def __init__(self, slots: int) -> None:
            super().__init__(mlp())
            self.register_buffer("state", torch.full((slots, 2), float(slots)))

    target = Carrying(3)
    assert "state" in target.state_dict()  # so a checkpoint has it
    for source in (Carrying(5), Task(mlp())):  # another batch size; an artefact, where it is left out
        assert hub.load_state(target, source.state_dict()).complete
    assert torch.equal(target.state, torch.full((3, 2), 3.0))


def test_weights_of_something_else_are_refused() -> None:
    target = nn.Linear(7, 7)
    before = target.weight.clone()
    with pytest.raises(CheckpointError, match="not those of a Linear"):
        hub.load_state(target, Task(mlp()).state_dict())
    assert torch.equal(target.weight, before)


def test_half_precision_weights_take_the_modules_dtype(zoo: Path, tmp_path: Path) -> None:
    hub.write_artefact([tmp_path / "run"], tmp_path / "half", bits=16)
    card = json.loads((tmp_path / "half" / "card.json").read_text())
    assert card["weights_dtype"] == "float16"
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < (zoo / "model.safetensors").stat().st_size
    target, exact = mlp(seed=7), mlp(seed=1)  # 1: the best checkpoint of seed 0
    assert hub.load_pretrained(target, tmp_path / "half").complete
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, exact[0].weight.half().float())


def test_weights_of_few_bits_are_float32_when_they_are_read(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    whole = hub.read_weights(run)
    whole.state_dict["model.table"] = torch.rand(100, 64)
    monkeypatch.setattr(hub, "read_weights", lambda *given: whole)
    out = hub.write_artefact([run], tmp_path / "packed", bits=5)
    assert json.loads((out / "card.json").read_text())["weights_dtype"] == "int5, the rest float16"
    assert checkpoint.load_tensors(out / "model.safetensors")["model.table@5"].numel() == 100 * 64 * 5 // 8
    read = hub.read_artefact(out).state_dict
    assert read.keys() == whole.state_dict.keys()
    assert read["model.table"].dtype == torch.float32
    assert torch.allclose(read["model.table"], whole.state_dict["model.table"], atol=0.1)
    shutil.copy(out / "model.safetensors", tmp_path / "alone.safetensors")  # says all that is needed itself
    assert same(hub.read_artefact(tmp_path / "alone.safetensors").state_dict, read)
    with pytest.raises(ConfigError, match="bits=12: numbers are stored in 32, 16, or 3 to 8 bits"):
        hub.write_artefact([run], tmp_path / "twelve", bits=12)


def test_a_shared_matrix_is_stored_once(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run2")
    best = checkpoint.load_tensors(run / "checkpoints" / "step_00000001" / "model.safetensors")
    tied = {**best, "model.output.weight": best["model.0.weight"].clone()}
    whole = hub.read_weights(run)
    whole.state_dict.update(tied)
    monkeypatch.setattr(hub, "read_weights", lambda *given: whole)
    out = hub.write_artefact([run], tmp_path / "tied", bits=16)
    assert "model.output.weight" not in checkpoint.load_tensors(out / "model.safetensors")
    found = hub.read_artefact(out)
    assert found.card["tied"] == {"model.output.weight": "model.0.weight"}
    assert same(found.state_dict, {name: tensor.half() for name, tensor in tied.items()})
    card = json.loads((out / "card.json").read_text())
    card["tied"]["model.output.weight"] = "model.9.weight"
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="model.9.weight.*not in the file"):
        hub.read_artefact(out)
    card["tied"] = ["model.output.weight"]
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="must map names"):
        hub.read_artefact(out)


def test_strict_refuses_and_changes_nothing(zoo: Path) -> None:
    target = mlp(5, seed=3)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match="3.weight"):
        hub.load_pretrained(target, "rec/one", strict=True)
    assert same(target.state_dict(), before)
    assert len(hub.load_pretrained(target, "rec/one").loaded) == 2


# ---------------------------------------------------------------------------------------------------- resolving


def test_resolve_takes_all_kinds_of_places(zoo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert hub.resolve("rec/one") == zoo == hub.resolve(zoo) == hub.resolve(zoo / "model.safetensors")
    assert hub.resolve(run) == run / "checkpoints" / "step_00000001"  # the best
    assert hub.resolve(run / "checkpoints" / "step_00000002").name == "step_00000002"
    (run / "best.json").unlink()
    assert hub.resolve(run).name == "step_00000002"  # the last
    files.write_json(run / "last.json", {"checkpoint": "step_00000001"})  # it went on from there: 2 is damaged
    assert hub.resolve(run).name == "step_00000001"


def test_resolve_says_what_there_is(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'rec/one'"):
        hub.resolve("rec/onne")
    with pytest.raises(ConfigError, match="paddlesuite train recipe=rec/two"):
        hub.resolve("rec/two")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        hub.resolve(tmp_path / "empty")
    with pytest.raises(ConfigError, match="holds no weights"):
        hub.resolve(tmp_path)


@pytest.mark.parametrize("name", ["../../pretrained", "step_00000003"])
def test_a_best_json_that_points_elsewhere_is_not_followed(zoo: Path, tmp_path: Path, name: str) -> None:
    files.write_json(tmp_path / "run" / "best.json", {"checkpoint": name})
    with pytest.raises(CheckpointError, match=f"(?s)names {name}, which is not there.*init.weights=.*step_00000002"):
        hub.resolve(tmp_path / "run")


# ---------------------------------------------------------------------------------------------------- artefacts


def test_an_artefact_has_the_weights_of_the_best_checkpoint_and_where_they_come_from(zoo: Path) -> None:
    artefact = hub.read_artefact(zoo)
    assert same(artefact.state_dict, Task(mlp(seed=1)).state_dict())
    assert artefact.recipe["model"] == MODEL and artefact.data_state == {"labels": ["no", "yes"]}
    card = artefact.card
    assert card["metrics"] == {"valid": {"auc": 0.8}, "test": {"auc": 0.9}} and card["seeds"] is None
    assert card["title"] == "A title" and card["target"] == "auc 0.9" and card["labels"] == ["no", "yes"]
    assert card["commit"] == "c0ffee" and card["data_sha256"] == "f" * 8 and card["hardware"] == "a CPU, 2 threads"
    assert card["data"]["source"] == "auto"  # no path of one machine
    # options that are not the recipe's own stand in the command (the recipe says lr 0.2, the run took 0.1)
    assert card["command"] == "paddlesuite train recipe=rec/one seed=0 optim.lr=0.1"
    assert {p.name for p in zoo.iterdir()} == {"model.safetensors", "data.json", "card.json"}
    assert [p.name for p in zoo.parent.iterdir()] == ["one"]  # nothing half written is left


def test_ema_weights_are_preferred(tmp_path: Path, zoo: Path) -> None:
    artefact = hub.read_artefact(hub.resolve(make_run(tmp_path / "averaged", ema=True)))
    raw = Task(mlp(seed=1)).state_dict()
    assert same(artefact.state_dict, {k: v + 1 for k, v in raw.items()})


def test_the_last_checkpoints_are_averaged(tmp_path: Path, zoo: Path) -> None:
    run = tmp_path / "several"
    states = []
    for step in range(1, 5):
        state = Task(nn.Sequential(mlp(seed=step), nn.BatchNorm1d(2))).state_dict()
        state["model.1.num_batches_tracked"] += step
        states.append({k: v.half() if "weight" in k else v for k, v in state.items()})
        checkpoint.save(
            run / "checkpoints", step, tensors={"model": states[-1]}, optimizer={},
            records={"trainer": {"keep": 3}, "data": {"state": {"step": step}}, "recipe": RECORD},
        )  # fmt: skip
    artefact = hub.read_weights(run, 3)
    assert artefact.data_state == {"step": 4}
    for name, value in artefact.state_dict.items():
        if name.endswith("tracked"):
            assert value == 4
        else:
            wanted = sum(state[name].double() for state in states[1:]) / 3
            torch.testing.assert_close(value.double(), wanted, atol=1e-7, rtol=1e-6)
    assert same(hub.read_weights(run, 1).state_dict, states[3])
    with pytest.raises(ConfigError, match="init.average=4: .*its last 3 checkpoints; train with train.keep=4"):
        hub.read_weights(run, 4)
    (run / "checkpoints/step_00000003/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="step_00000003"):
        hub.read_weights(run, 2)
    with pytest.raises(ConfigError, match="no run folder"):
        hub.read_weights(zoo, 2)
    with pytest.raises(ConfigError, match="averages already.*train.ema=null"):
        hub.read_weights(make_run(tmp_path / "ema", ema=True), 2)


def test_an_average_is_published(tmp_path: Path, zoo: Path) -> None:
    run = make_run(tmp_path / "one")
    artefact = hub.read_artefact(hub.write_artefact([run], tmp_path / "out", average=2))
    states = [Task(mlp(seed=step)).state_dict() for step in (1, 2)]
    for name, value in artefact.state_dict.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    assert artefact.card["weights_run"] == {"seed": 0, "average": 2}
    assert artefact.card["metrics"].keys() == {"test"}
    with pytest.raises(ConfigError, match="init.average=2: give one run"):
        hub.write_artefact([run, make_run(tmp_path / "two", seed=2)], tmp_path / "out", average=2)


def test_seeds_give_mean_and_sample_deviation(tmp_path: Path, zoo: Path) -> None:
    runs = [make_run(tmp_path / f"seed{i}", seed=i, auc=auc) for i, auc in enumerate((0.90, 0.92, 0.94))]
    card = hub.read_artefact(hub.write_artefact(runs, tmp_path / "out")).card
    assert card["seeds"]["n"] == 3 and card["seeds"]["split"] == "test"
    assert card["seeds"]["metrics"]["auc"]["mean"] == pytest.approx(0.92)
    assert card["seeds"]["metrics"]["auc"]["sd"] == pytest.approx(0.02)
    assert card["weights_run"] == {"seed": 0} and card["metrics"]["test"]["auc"] == 0.90  # of the weights in the folder


def test_folds_of_a_cross_validation(tmp_path: Path, zoo: Path) -> None:
    runs = [make_run(tmp_path / f"fold{i}", auc=auc, fold=i) for i, auc in enumerate((0.8, 0.9))]
    with pytest.raises(ConfigError, match=r"differ in data\.fold; if that is meant, give over=data\.fold"):
        hub.write_artefact(runs, tmp_path / "out")
    card = hub.read_artefact(hub.write_artefact(runs, tmp_path / "out", over="data.fold")).card
    assert card["seeds"]["over"] == "data.fold" and card["weights_run"] == {"data.fold": 0}
    assert card["seeds"]["metrics"]["auc"]["mean"] == pytest.approx(0.85)
    assert "mean 0.8500, sd 0.0707 of 2 runs over data.fold" in hub.card_markdown(card)
    assert card["command"] == "paddlesuite train recipe=rec/one seed=0 data.fold=0 optim.lr=0.1"


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, zoo: Path) -> None:
    first, again = make_run(tmp_path / "a", seed=1), make_run(tmp_path / "b", seed=1)
    other = make_run(tmp_path / "c", seed=2, rows=5)
    with pytest.raises(ConfigError, match="same seed"):
        hub.write_artefact([first, again], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"differ in data\.rows$"):  # and in their seeds
        hub.write_artefact([first, other], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"over=data\.row: .*did you mean 'data\.rows'"):
        hub.write_artefact([other], tmp_path / "out", over="data.row")
    (other / "result.json").unlink()
    with pytest.raises(ConfigError, match="not a finished run"):
        hub.write_artefact([other], tmp_path / "out")
    files.write_json(first / "last.json", {"checkpoint": "step_00000003"})
    with pytest.raises(ConfigError, match="result.json is of step 2.*step_00000003"):
        hub.write_artefact([first], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_artefact_is_not_replaced_by_runs_of_another_recipe(tmp_path: Path, zoo: Path) -> None:
    before = hub.read_artefact(zoo).card
    with pytest.raises(ConfigError, match="is a run of rec/one, not of rec/two"):
        hub.write_artefact([make_run(tmp_path / "a")], zoo, recipe="rec/two")
    assert hub.read_artefact(zoo).card == before
    hub.write_artefact([tmp_path / "a"], zoo, recipe="rec/one")


def test_only_an_artefact_is_replaced(tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = make_run(tmp_path / "a"), tmp_path / "precious"
    out.mkdir()
    hub.write_artefact([run], out)
    monkeypatch.chdir(out)
    hub.write_artefact([run], ".")
    (out / "card.json").rename(out / "thesis.txt")
    with pytest.raises(ConfigError, match="not an artefact"):
        hub.write_artefact([run], out)
    assert (out / "thesis.txt").is_file()


def test_a_card_alone_says_what_was_reached_and_has_no_weights(tmp_path: Path, zoo: Path) -> None:
    scored = []
    run = make_run(tmp_path / "a")
    hub.write_artefact([run], zoo, score=lambda folder: scored.append(hub.read_artefact(folder)), weights=False)
    assert len(scored) == 1 and [file.name for file in zoo.iterdir()] == ["card.json"]
    card = hub.read_card("rec/one")
    assert card["metrics"]["test"] == {"auc": 0.9} and card["parameters"] == 26 and card["files"] == {}
    assert "| test | auc | 0.9000 |" in hub.card_markdown(card) and "sha256" not in hub.card_markdown(card)
    assert hub.list_models(pretrained=True) == []
    with pytest.raises(ConfigError, match="has no published weights; train it"):
        hub.resolve("rec/one")
    with pytest.raises(CheckpointError, match="a card without weights; train them .`paddlesuite train recipe=rec/one"):
        hub.read_artefact(zoo)
    assert hub.create_model("rec/one") is not None
    hub.write_artefact([run], zoo)
    assert hub.list_models(pretrained=True) == ["rec/one"]


def test_a_card_alone_leaves_out_what_is_as_long_as_a_vocabulary(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**RECORD["model"], "sizes": [3] * 40}
    monkeypatch.setitem(RECORD, "model", {**short, "frequencies": [0.5] * 1001})
    run = make_run(tmp_path / "a")
    assert "frequencies" in hub.read_artefact(hub.write_artefact([run], tmp_path / "whole")).card["model"]
    hub.write_artefact([run], zoo, weights=False)
    assert hub.read_card("rec/one")["model"] == short


def test_a_cards_command_has_the_length_of_the_run_though_it_is_no_part_of_its_identity(
    tmp_path: Path, zoo: Path
) -> None:
    out = hub.write_artefact([make_run(tmp_path / "short", max_steps=70)], tmp_path / "out")
    assert hub.read_artefact(out).card["command"].endswith("seed=0 optim.lr=0.1 train.max_steps=70")


def test_a_card_names_no_folder_of_one_machine(tmp_path: Path, zoo: Path) -> None:
    made = hub._commands("rec/one", {"seed": 3, "init.weights": str(tmp_path / "trunk.safetensors")})
    assert made["command"] == "paddlesuite train recipe=rec/one seed=3 'init.weights=\"<folder>/trunk.safetensors\"'"


def test_the_commands_of_a_card_can_be_given_to_a_shell(zoo: Path) -> None:
    options = {
        "model.hidden_channels": [8, 2], "optim.groups": [{"match": "*.bias", "lr_scale": 0.5}], "seed": 3,
        "model.in_channels": 5, "train.best_metric": "it's \u00e9", "train.clip_norm": None,
    }  # fmt: skip
    made = hub._commands("rec/one", {**config.identity(config.compose(["recipe=rec/one"])), **options})
    train, score = (shlex.split(command) for command in made.values())
    assert train[:2] == ["paddlesuite", "train"] and score[:2] == ["paddlesuite", "eval"]
    again = config.flatten(config.compose(train[2:]))
    assert {name: again[name] for name in options} == options
    assert score[2:] == ["recipe=rec/one", "init.weights=rec/one", "model.hidden_channels=[8,2]", "model.in_channels=5"]
    assert "<this folder>" in hub._commands("mine.yaml", {"seed": 1})["eval_command"]


def test_an_artefact_is_scored_before_it_replaces_another(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hub.read_artefact(zoo)
    run = make_run(tmp_path / "better", auc=0.95)
    seen = []

    def fail(folder: Path) -> None:
        seen.append(hub.read_artefact(folder).card["metrics"])  # whole, and not at its place
        raise DataError("no test split here")

    with pytest.raises(DataError):
        hub.write_artefact([run], zoo, score=fail)
    assert seen == [{"valid": {"auc": pytest.approx(0.85)}, "test": {"auc": 0.95}}]
    after = hub.read_artefact(zoo)
    assert after.card == before.card and same(after.state_dict, before.state_dict)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, "the disk fails")
        return rename(self, target)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk fails"):
        patched.setattr(Path, "rename", refuse)
        hub.write_artefact([run], zoo)
    assert hub.read_artefact(zoo).card == before.card
    hub.write_artefact([run], zoo, score=lambda folder: hub.record_scores(folder, "test", {"auc": 0.94}, None))
    assert hub.read_artefact(zoo).card["metrics"]["test"] == {"auc": 0.94}
    assert [p.name for p in zoo.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["model.safetensors", "data.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_a_damaged_file_is_named(zoo: Path, name: str, damage: str) -> None:
    file = zoo / name
    content = file.read_bytes()
    if damage == "altered":
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif damage == "cut":
        file.write_bytes(content[:-5])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*publish"):
        hub.read_artefact(zoo)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 3}', '{"files": null}', '{"files": {"data.json": 3}}'])
def test_a_card_that_is_none_is_refused(zoo: Path, text: str) -> None:
    (zoo / "card.json").write_text(text)
    with pytest.raises(CheckpointError):
        hub.read_artefact(zoo)


def test_a_class_outside_the_allow_list_is_refused(zoo: Path) -> None:
    card = json.loads((zoo / "card.json").read_text())
    for section in ("model", "task_config", "data"):
        hostile = {**card, section: {"_target_": "os.system", "command": "true"}}
        (zoo / "card.json").write_text(json.dumps(hostile))
        with pytest.raises(ConfigError, match="os.system is not allowed"):
            hub.read_artefact(zoo)


def test_a_pickle_named_safetensors_is_not_run(zoo: Path, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (zoo / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    card = json.loads((zoo / "card.json").read_text())
    from paddlecore.files import sha256_of

    card["files"]["model.safetensors"] = sha256_of(zoo / "model.safetensors")  # even with a hash that fits
    (zoo / "card.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        hub.read_artefact(zoo)
    assert not (tmp_path / "ran").exists()


def test_the_card_takes_the_score_of_the_stored_weights(zoo: Path) -> None:
    hub.record_scores(zoo, "test", {"auc": 0.875}, ["auc|exact"])
    card = hub.read_artefact(zoo).card
    assert card["metrics"] == {"valid": {"auc": 0.8}, "test": {"auc": 0.875}} and card["signatures"] == ["auc|exact"]
    shown = hub.card_markdown(card)
    assert "| test | auc | 0.8750 |" in shown and "`paddlesuite eval recipe=rec/one init.weights=rec/one`" in shown
    assert "rounded" not in shown  # float32 is what was trained


def test_the_card_keeps_the_score_from_before_weights_were_rounded(tmp_path: Path, zoo: Path) -> None:
    out = hub.write_artefact([tmp_path / "run"], tmp_path / "half", bits=16)
    hub.record_scores(out, "test", {"auc": 0.875}, None)
    card = hub.read_artefact(out).card
    assert card["metrics"]["test"] == {"auc": 0.875} and card["before_rounding"] == {"test": {"auc": 0.9}}
    assert "- before the weights were rounded: auc 0.9000\n" in hub.card_markdown(card)
    files.write_json(
        out / "card.json", {**hub.read_card("rec/one"), "weights_dtype": "float16", "weights_run": {"average": 3}}
    )
    hub.record_scores(out, "test", {"auc": 0.88}, None)  # the run's own score is not that of its averaged weights
    assert "before_rounding" not in files.read_object(out / "card.json")


# ---------------------------------------------------------------------------------------------------- models


def test_names(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_classes", lambda suite: ["MLP"] if suite == "rec" else [])
    assert hub.list_models() == ["rec/one", "rec/two", "rec/MLP"]
    assert hub.list_models(task="ctr") == ["rec/one"]
    assert hub.list_models(data="rows") == ["rec/one", "rec/two"]
    assert hub.list_models(pretrained=True) == ["rec/one"]
    assert hub.list_models(suite="cv") == []
    with pytest.raises(ConfigError, match="expected rec, cv, nlp"):
        hub.list_models(suite="audio")
    assert hub.list_models(task="CTR", suite="cv") == []  # the other suites have it
    with pytest.raises(ConfigError, match=r"no recipe has task=crt; did you mean 'ctr'\? \(there are ctr"):
        hub.list_models(task="crt")
    with pytest.raises(ConfigError, match="no recipe has data=row; did you mean"):
        hub.list_models(data="row", pretrained=True)


@pytest.mark.parametrize("name", ["rec/one", "one"])
def test_a_published_recipe_by_name(zoo: Path, name: str) -> None:
    model = hub.create_model(name, pretrained=True)
    assert same(model.state_dict(), mlp(seed=1).state_dict()) and model.training
    torch.manual_seed(3)
    fresh = hub.create_model(name)
    assert same(fresh.state_dict(), mlp(seed=3).state_dict())


def test_published_weights_are_not_those_of_a_folder_of_that_name(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "here" / "rec" / "one", seed=5)
    monkeypatch.chdir(tmp_path / "here")
    assert same(hub.create_model("rec/one", pretrained=True).state_dict(), mlp(seed=1).state_dict())
    assert same(hub.create_model("rec/one", pretrained="rec/one").state_dict(), mlp(seed=501).state_dict())
    make_run(tmp_path / "here" / "rec" / "two", seed=5)
    with pytest.raises(ConfigError, match="rec/two has no published weights"):
        hub.create_model("rec/two", pretrained=True)


def test_other_sizes_and_other_weights(zoo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        model = hub.create_model("rec/one", pretrained=True, hidden_channels=[4, 7])
    assert model[3].weight.shape == (7, 4) and torch.equal(model[0].weight, mlp(seed=1)[0].weight)
    assert "re-initialised: 2" in caplog.text
    of_run = hub.create_model("rec/two", pretrained=tmp_path / "run" / "checkpoints" / "step_00000002")
    assert same(of_run.state_dict(), mlp(seed=2).state_dict())


def test_a_model_that_is_not_there(zoo: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'rec/one'"):
        hub.create_model("rec/onne")
    with pytest.raises(ConfigError, match="has no published weights"):
        hub.create_model("rec/two", pretrained=True)
    with pytest.raises(ConfigError, match="hidden_channel"):
        hub.create_model("rec/one", hidden_channel=[4, 2])
    with pytest.raises(ConfigError, match="rec/one is not of the suite nlp"):
        hub.create_model("rec/one", suite="nlp")


@pytest.mark.parametrize("suite", ["paddlerec", "paddlecv", "paddlenlp"])
def test_importing_a_suite_loads_nothing_heavy(suite: str) -> None:
    code = (
        f"import sys, {suite}; {suite}.create_model, {suite}.list_models, {suite}.load_pretrained;"
        "print([m for m in ('torch', 'hydra', 'tensorboard', 'pandas', 'paddlecore.trainer') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_each_suite_lists_its_own() -> None:
    import paddlecv
    import paddlenlp
    import paddlerec

    for short, suite in (("rec", paddlerec), ("cv", paddlecv), ("nlp", paddlenlp)):
        names = suite.list_models()
        assert names == hub.list_models(suite=short) and all(name.startswith(short + "/") for name in names)


def test_large_weights_are_stored_in_pieces(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hub.read_artefact(zoo)
    weights = zoo / "model.safetensors"
    monkeypatch.setattr(hub, "PIECE", weights.stat().st_size // 3 + 1)
    hub._cut(weights)
    pieces = sorted(zoo.glob("model.safetensors*"))
    assert [p.suffix for p in pieces] == [".00", ".01", ".02"]
    from paddlecore.files import sha256_of

    card = json.loads((zoo / "card.json").read_text())
    card["files"] = {"data.json": card["files"]["data.json"], **{p.name: sha256_of(p) for p in pieces}}
    (zoo / "card.json").write_text(json.dumps(card))
    read = hub.read_artefact(zoo)
    assert read.state_dict.keys() == whole.state_dict.keys()
    assert all(torch.equal(read.state_dict[name], value) for name, value in whole.state_dict.items())
    pieces[1].unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors.01 is missing"):
        hub.read_artefact(zoo)


def test_more_than_a_hundred_pieces_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(101))
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(hub, "PIECE", 1)
    hub._cut(tmp_path / "model.safetensors")
    assert b"".join(piece.read_bytes() for piece in sorted(tmp_path.iterdir())) == content
