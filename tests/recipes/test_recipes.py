"""Every recipe under configs/recipe, held to the same promises, on toy data and the CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from paddlecore import checkpoint, config, run, testing
from paddlecore.errors import ConfigError
from paddlecore.task import Task
from paddlecore.testing import largest_difference, tiny, tiny_trainer, weights

RECIPES = config.list_recipes()
SHARED = sorted(config.config_root().glob("recipe/*/_base_*.yaml"))  # parts that recipes name, no recipes themselves
GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"


def test_how_many_recipes_there_are() -> None:
    """A recipe that the sweep does not find is a recipe that nobody tests."""
    files = [path for path in config.config_root().rglob("*.yaml") if "recipe" in path.parts]
    assert len(RECIPES) + len(SHARED) == len(files) >= 71, RECIPES


def test_small_overrides_are_of_recipes_that_exist() -> None:
    assert json.loads((Path(__file__).parent / "small.json").read_text()).keys() <= set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_composes_and_says_what_it_is(recipe: str) -> None:
    about = config.compose([f"recipe={recipe}"]).about
    assert about.title and about.paper and about.task and about.dataset and about.expected


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("section", ["model", "task", "data", "optim", "train", "init"])
def test_refuses_an_unknown_key(recipe: str, section: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}.wrongkey"):
        config.compose([f"recipe={recipe}", f"{section}.wrongkey=1"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_parameter_gets_a_gradient_and_moves(recipe: str) -> None:
    cfg = tiny(recipe)
    data = run._data(cfg)
    data.prepare()
    task = run._task(cfg, data)
    rows = data.rows("train")
    batch = rows.fetch(data.plan(rows).rows(0, 0), 0)
    for phase in task.phases:
        task(batch, phase).loss_sum.backward()
    dead = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert not dead
    trainer, _ = tiny_trainer(recipe)
    before = weights(trainer)
    trainer.fit()
    after = weights(trainer)
    trained = [name for name, p in trainer.task.named_parameters() if p.requires_grad]
    assert not [name for name in trained if torch.equal(before[name], after[name])]


WAITS = {  # recipes whose training waits for a GPU in each step, and for what
    "cv/faster_rcnn_bccd": "proposals that remain",
    "cv/mask_rcnn_pennfudan": "proposals that remain",
    "cv/yolov3_bccd": "boxes that have a cell",
    "nlp/rnn_attention_multi30k": "lengths, for packing",
    "rec/srgnn_diginetica": "the graphs of the sessions",
    "rec/srgnn_yoochoose": "the graphs of the sessions",
}
PARTS = [RECIPES[part::12] for part in range(12)]  # a process each


@pytest.mark.parametrize("recipes", PARTS, ids="+".join)
def test_on_another_device_it_is_the_same(recipes: list[str]) -> None:
    """Training, evaluation and answers, where tensors may not meet those of the host; see elsewhere.py."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this version of torch cannot have a device made of Python")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("elsewhere.py")), *recipes], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["recipe"] for one in told] == recipes
    for one in told:
        there, here, name = one["there"], one["here"], one["recipe"]
        assert bool(one["waits"]) == (name in WAITS), (name, one["waits"])
        assert there["losses"] == pytest.approx(here["losses"], rel=1e-3), name  # Adam, as below
        assert there["scores"] == pytest.approx(here["scores"], rel=1e-3, abs=0.01, nan_ok=True), name
        # scores hold what is predicted; of an untrained model's many near ties, the order is a matter of rounding
        assert [answer.keys() for answer in there["answers"]] == [answer.keys() for answer in here["answers"]], name


@pytest.mark.parametrize("recipe", RECIPES)
def test_overfits_a_tiny_batch(recipe: str) -> None:
    trainer, _ = tiny_trainer(
        recipe,
        "train.overfit_batches=1",
        "train.max_steps=60",
        # plain SGD needs its own, which is larger; the detectors of two stages diverge at 0.01 before they learn
        f"optim.lr={0.003 if 'rcnn' in recipe else max(0.01, tiny(recipe).optim['lr'])}",
        "optim.schedule.kind=constant",
        "optim.schedule.warmup_steps=0",
        "optim.tables_weight_decay=0",
        quiet=True,
    )
    trainer.fit()
    losses = testing.losses(trainer)
    assert losses[-1] < 0.3 * losses[0], losses


@pytest.mark.parametrize("recipe", RECIPES)
def test_stop_and_resume_in_mid_epoch_is_bit_exact(recipe: str, tmp_path: Path) -> None:
    whole, _ = tiny_trainer(recipe, folder=tmp_path / "a")
    whole.fit()
    first, _ = tiny_trainer(recipe, folder=tmp_path / "b")
    first.options.max_steps = 2  # stopped on the way: its schedule is that of the whole run
    first.fit()
    last = checkpoint.latest(tmp_path / "b" / "checkpoints")
    second, _ = tiny_trainer(recipe, folder=tmp_path / "b", last=last)
    second.fit()
    for name in ("model.safetensors", "optimizer.pt", "data.json"):
        a, b = (tmp_path / n / "checkpoints" / "step_00000004" / name for n in ("a", "b"))
        assert a.read_bytes() == b.read_bytes(), name
    assert testing.losses(whole)[2:] == testing.losses(second)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_halves_are_one_batch(recipe: str) -> None:
    runs = []
    for accumulate in (1, 2):
        trainer, _ = tiny_trainer(recipe, f"train.accumulate={accumulate}", quiet=True)
        testing.frozen_statistics(trainer.task)
        trainer.fit()
        runs.append(trainer)
    assert testing.losses(runs[0]) == pytest.approx(testing.losses(runs[1]), rel=1e-5)
    difference, where = largest_difference(weights(runs[0]), weights(runs[1]))
    assert difference < 1e-4, where  # Adam turns rounding errors of tiny gradients into steps


@pytest.mark.parametrize("recipe", RECIPES)
def test_saved_weights_score_and_predict_the_same(recipe: str, tmp_path: Path) -> None:
    trainer, data = tiny_trainer(recipe, folder=tmp_path)
    trainer.fit()
    expected = trainer.evaluate(data.rows(data.splits[-1]))
    cfg = tiny(recipe, f"init.weights={tmp_path}")
    scored = run.evaluate(cfg)
    quicker = type(trainer.task).for_inference is not Task.for_inference  # the same but for rounding
    expected = {k: v if math.isfinite(v) else None for k, v in expected.items()}
    assert {k: scored[k] for k in expected} == pytest.approx(expected, rel=1e-4 if quicker else 0, abs=0)
    predictions = list(run.predict(cfg))
    assert len(predictions) == len(data.examples()) > 0
    assert json.dumps(predictions)
    assert (
        list(
            run.predict(
                cfg, [json.dumps(data.examples()[0]) if isinstance(data.examples()[0], dict) else data.examples()[0]]
            )
        )[0].keys()
        == predictions[0].keys()
    )
    # what is beside an input in a batch changes nothing, and each input has its line
    text, numbers = parted(predictions)
    alone, expected_numbers = parted(list(run.predict(cfg, batch_size=1)))
    rounding = 0.011 if '"box"' in text else 2e-5  # sides of boxes have two decimals
    assert text == alone and numbers == pytest.approx(expected_numbers, rel=1e-5, abs=rounding)
    mixed = [b"\xff", data.examples()[0], "", *data.examples()[1:], "{"]
    answers = list(run.predict(tiny(recipe, f"init.weights={tmp_path}", "data.on_bad_row=skip"), mixed))
    assert [answer["input"] for answer in answers] == ["\ufffd", *mixed[1:]]
    assert "UTF-8" in answers[0]["error"]
    assert parted([answers[1], *answers[3:-1]])[0] == text


def parted(answers: list[dict[str, Any]]) -> tuple[str, list[float]]:
    """Answers as text without their floats, and the floats."""
    floats: list[float] = []
    return json.dumps(json.loads(json.dumps(answers), parse_float=lambda text: floats.append(float(text)))), floats


@pytest.mark.parametrize("recipe", RECIPES)
def test_golden_losses(recipe: str) -> None:
    """The first losses of a recipe do not change unnoticed. PADDLE_UPDATE_GOLDEN=1 writes them anew."""
    trainer, _ = tiny_trainer(recipe, quiet=True)
    trainer.fit()
    losses = testing.losses(trainer)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("PADDLE_UPDATE_GOLDEN"):
        GOLDEN.write_text(
            json.dumps({**golden, recipe: [round(v, 6) for v in losses]}, indent=1, sort_keys=True) + "\n"
        )
    golden = json.loads(GOLDEN.read_text())
    assert recipe in golden, f"run with PADDLE_UPDATE_GOLDEN=1 -k 'golden and {recipe}' to write them down"
    assert losses == pytest.approx(golden[recipe], rel=1e-3)


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """One job of two gloo processes runs every recipe that this session tests on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    names = {item.name for item in request.session.items}
    wanted = [recipe for recipe in RECIPES if f"test_two_ranks_are_one[{recipe}]" in names]
    for done in testing.launch(["-m", "paddlecore.testing", str(folder), *wanted], ranks=2):
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_are_one(recipe: str, on_two_ranks: Path) -> None:
    name = recipe.replace("/", "_")
    trainer, data = tiny_trainer(recipe, quiet=True)
    trainer.fit()
    theirs = json.loads((on_two_ranks / f"{name}.json").read_text())
    assert testing.losses(trainer) == pytest.approx(theirs["losses"], rel=1e-5)
    difference, where = largest_difference(weights(trainer), load_file(on_two_ranks / f"{name}.safetensors"))
    assert difference < 5e-4, where  # Adam turns rounding errors of tiny gradients into steps
    ours = trainer.evaluate(data.rows(data.splits[-1]))
    assert ours.keys() == theirs["metrics"].keys()
    for key, value in ours.items():
        assert value == pytest.approx(theirs["metrics"][key], rel=1e-4, nan_ok=True), key
