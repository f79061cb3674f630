"""The loop, against plain PyTorch loops and against itself."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import parts
import pytest
import torch
from parts import Largest, Net, Regression, largest_difference, rows, trainer, weights
from torch import nn

from paddlecore import checkpoint
from paddlecore.data import ArrayRows, Plan
from paddlecore.errors import CheckpointError, ConfigError, NonFiniteLoss, Stopped
from paddlecore.metric import Mean, Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlecore.trainer import is_better


def test_equals_a_plain_loop() -> None:
    """Adam with clipping over a plain nn.Embedding, written out."""
    run = trainer(max_steps=15, clip_norm=0.5)
    torch.manual_seed(5)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    data, plan, losses = rows(), Plan(103, 16, seed=5), []
    for step in range(15):
        batch = data.fetch(plan.rows(step // plan.steps(0), step % plan.steps(0)), 0)
        loss = nn.functional.mse_loss(net(batch["ids"], batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    outcome = run.fit()
    assert outcome["step"] == 15 and outcome["rows"] == 103 + 103 + 16
    assert parts.largest_difference(weights(run.task.model), weights(net)) < 2e-6
    assert run.journal.of("train", "loss") == pytest.approx(losses, rel=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.3},
        {"section": {"tables": "rows", "tables_rule": "adagrad"}},
        {"section": {"tables_weight_decay": 0.1, "tables_decay_rows": "all"}},
    ],
)
def test_accumulation_is_the_same_step(options: dict[str, object]) -> None:
    whole = trainer(batch_size=15, max_steps=12, **options)  # type: ignore[arg-type]
    parts_ = trainer(batch_size=15, accumulate=4, max_steps=12, **options)  # type: ignore[arg-type]
    whole.fit()
    parts_.fit()
    assert largest_difference(weights(whole.task), weights(parts_.task)) < 1e-6
    a, b = whole.journal.of("train", "loss"), parts_.journal.of("train", "loss")  # type: ignore[union-attr]
    assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_a_step_with_fewer_rows_than_pieces_loses_none(norm: bool) -> None:
    """3 rows in 4 pieces: batch norm could not work on a piece of one row."""
    a, b = (trainer(Regression(Net(batch_norm=norm)), rows(3), batch_size=3, accumulate=n, max_steps=4) for n in (1, 4))
    b.task.load_state_dict(a.task.state_dict())
    assert a.fit()["rows"] == b.fit()["rows"] == 12
    assert largest_difference(weights(a.task), weights(b.task)) < 1e-6


def test_epochs_or_steps_whichever_ends_first() -> None:
    assert trainer(max_epochs=2, max_steps=None).fit()["step"] == 14
    assert trainer(max_epochs=2, max_steps=5).fit()["step"] == 5
    with pytest.raises(ConfigError, match="never end"):
        trainer(max_epochs=None, max_steps=None)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_follows_fp32(precision: str) -> None:
    full, low = trainer(max_steps=20), trainer(max_steps=20, precision=precision)
    if low.scaler is not None:
        low.scaler.scale.fill_(64.0)  # the search for the scale leaves steps out, see the next test
    full.fit()
    low.fit()
    a, b = full.journal.of("train", "loss"), low.journal.of("train", "loss")  # type: ignore[union-attr]
    assert a != b and b == pytest.approx(a, rel=0.05)
    assert all(v.dtype == torch.float32 for v in low.task.state_dict().values())


def test_fp16_leaves_out_steps_that_overflow_and_finds_its_scale() -> None:
    run = trainer(max_steps=60, precision="fp16")
    run.fit()
    scales = run.journal.of("train", "loss_scale")  # type: ignore[union-attr]
    assert scales[-1] < 2.0**16 and scales[-1] == scales[-20]
    losses = run.journal.of("train", "loss")  # type: ignore[union-attr]
    assert sum(losses[-7:]) < sum(losses[:7]) / 2 and all(map(math.isfinite, losses))


def test_the_scale_of_fp16_goes_on_where_it_was(tmp_path: Path) -> None:
    first = trainer(folder=tmp_path, max_steps=8, precision="fp16")
    first.fit()
    last = checkpoint.latest(tmp_path / "checkpoints")
    second = trainer(folder=tmp_path, max_steps=8, precision="fp16", resume_from=last)
    second.fit()  # there is no step left
    assert first.scaler is not None and second.scaler is not None and first.scaler.scale < 2.0**16
    assert second.scaler.state_dict() == first.scaler.state_dict()


def test_an_earlier_step_is_found_again_over_the_ends_of_epochs() -> None:
    """A loss on a GPU is looked at when a line is logged: many steps later, perhaps in another epoch."""
    run = trainer(data=rows(48), max_steps=10)  # three steps an epoch
    run.fit()
    assert [run._position(step) for step in range(11)] == [divmod(step, 3) for step in range(11)]


def test_activation_checkpointing_changes_nothing_but_memory() -> None:
    def make(on: bool) -> object:
        torch.manual_seed(1)
        return trainer(Regression(Net(dropout=0.3, batch_norm=True)), activation_checkpointing=on)

    a, b = make(False), make(True)
    a.fit()  # type: ignore[attr-defined]
    b.fit()  # type: ignore[attr-defined]
    assert largest_difference(weights(a.task), weights(b.task)) == 0  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no blocks"):
        trainer(_Plain(nn.Linear(3, 1)), activation_checkpointing=True)


class _Plain(Regression):
    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        out = self.model(batch["x"]).squeeze(1)
        return StepOutput((out - batch["y"]).square().sum(), torch.tensor(len(out)), {})

    def predict(self, batch: Batch) -> Prediction:
        return {"y": self.model(batch["x"]).squeeze(1)}


class _Uncounted(_Plain):
    """A loss that counts nothing, as a detector's on pictures without an object."""

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        return super().forward(batch, phase)._replace(weight=torch.tensor(0))


def test_a_step_without_weight_is_divided_by_one() -> None:
    torch.manual_seed(0)
    run = trainer(_Uncounted(nn.Linear(3, 1)), max_steps=1, batch_size=8, log_every=1)
    torch.manual_seed(0)
    net, batch = nn.Linear(3, 1), rows().fetch(Plan(103, 8, seed=5).rows(0, 0), 0)
    (net(batch["x"]).squeeze(1) - batch["y"]).square().sum().backward()
    run.fit()
    norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()  # type: ignore[union-attr]
    assert run.journal.of("train", "grad_norm") == pytest.approx([float(norm)], rel=1e-5)  # type: ignore[union-attr]


def test_ema_is_the_average_and_is_what_is_evaluated() -> None:
    torch.manual_seed(0)
    run = trainer(_Plain(nn.Linear(3, 1)), max_steps=5, ema=0.8, valid=rows(40, 1))
    expected = run.task.model.weight.detach().clone()  # type: ignore[union-attr]
    seen = []
    advance = run._advance

    def spy(sums: list[torch.Tensor]) -> None:
        nonlocal expected
        expected = 0.8 * expected + 0.2 * run.task.model.weight.detach()  # type: ignore[union-attr]
        seen.append(expected)
        advance(sums)

    run._advance = spy  # type: ignore[method-assign]
    outcome = run.fit()
    assert torch.allclose(run.ema.state_dict()["model.weight"], expected, atol=1e-6)  # type: ignore[union-attr]
    batch = rows(40, 1).fetch(np.arange(40), 0)
    bias = run.ema.state_dict()["model.bias"]  # type: ignore[union-attr]
    mse = ((batch["x"] @ expected.T + bias).squeeze(1) - batch["y"]).square().mean()
    assert outcome["final"]["mse"] == pytest.approx(mse.item(), rel=1e-5)
    assert not torch.allclose(run.task.model.weight, expected)  # type: ignore[arg-type, union-attr]


def test_early_stop_and_best_checkpoint(tmp_path: Path) -> None:
    """The validation scores are given: 3, 2, 2.5, 2.6 - the best is the second, and patience 2 ends after the
    fourth.
    """
    scores = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    run = trainer(max_steps=100, eval_every=2, early_stop=2, folder=tmp_path, valid=rows(8), keep=1)
    run.evaluate = lambda _: {"mse": next(scores)}  # type: ignore[method-assign]
    outcome = run.fit()
    assert outcome["step"] == 8 and outcome["best"]["step"] == 4 and outcome["best"]["value"] == 2.0
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "step_00000004"
    assert json.loads((tmp_path / "last.json").read_text())["checkpoint"] == "step_00000008"
    assert [p.name for p in checkpoint.steps(tmp_path / "checkpoints")] == ["step_00000004", "step_00000008"]


def test_a_longer_run_stops_early_where_one_that_was_long_does(tmp_path: Path) -> None:
    """The evaluation at the end of the shorter run, the best of all, is none of the longer one's."""
    scores = {4: 3.0, 6: 1.0, 8: 2.0, 12: 1.5, 16: 1.2, 20: 1.6, 24: 1.7}
    last = None
    for steps in (6, 40):
        run = trainer(
            max_steps=steps, eval_every=4, early_stop=2, folder=tmp_path, valid=rows(8), keep=9, resume_from=last
        )
        run.evaluate = lambda _, run=run: {"mse": scores[run.step]}  # type: ignore[method-assign, misc]
        outcome = run.fit()
        last = checkpoint.latest(tmp_path / "checkpoints")
    assert outcome["step"] == 24 and outcome["best"]["step"] == 6


def test_the_evaluation_at_the_end_is_saved_where_a_checkpoint_is_due_before_it(tmp_path: Path) -> None:
    """Saved every 5 steps, evaluated every 7: the run's end at 10 is an evaluation of its own, and the best one."""
    options = {"max_steps": 10, "save_every": 5, "eval_every": 7, "folder": tmp_path, "valid": rows(8)}
    run = trainer(**options)  # type: ignore[arg-type]
    scores = iter([3.0, 2.0])
    run.evaluate = lambda _: {"mse": next(scores)}  # type: ignore[method-assign]
    assert run.fit()["best"]["step"] == 10

    def best() -> str:
        return str(json.loads((tmp_path / "best.json").read_text())["checkpoint"])

    assert best() == "step_00000010"
    saved = json.loads((tmp_path / "checkpoints" / best() / "trainer.json").read_text())
    assert saved["best"]["step"] == saved["evaluated_at"] == 10

    shutil.rmtree(tmp_path / "checkpoints")
    stopped = trainer(**options)  # type: ignore[arg-type]
    scores = iter([3.0, 2.0])
    stopped.evaluate = lambda _: {"mse": next(scores)}  # type: ignore[method-assign]
    advance = stopped._advance

    def ask(sums: list[torch.Tensor]) -> None:
        stopped._stop_asked = stopped.step == 8  # seen in the last step
        advance(sums)

    stopped._advance = ask  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        stopped.fit()
    assert best() == "step_00000007"
    again = trainer(**options, resume_from=tmp_path / "checkpoints" / "step_00000010")  # type: ignore[arg-type]
    again.evaluate = lambda _: {"mse": next(scores)}  # type: ignore[method-assign]
    assert again.fit()["best"]["step"] == 10 and best() == "step_00000010"
    once = trainer(**options, resume_from=tmp_path / "checkpoints" / "step_00000010")  # type: ignore[arg-type]
    once.evaluate = None  # type: ignore[method-assign, assignment] # it is not done again
    assert once.fit()["best"]["step"] == 10


def test_is_better_knows_the_goal_and_nan() -> None:
    assert (
        is_better(2, 1, "max") and not is_better(1, 2, "max") and is_better(1, 2, "min") and not is_better(1, 1, "min")
    )
    assert (
        not is_better(math.nan, 1, "max") and is_better(1, math.nan, "max") and not is_better(math.nan, math.nan, "max")
    )


def test_best_metric_must_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mse'"):
        trainer(best_metric="mze")
    with pytest.raises(ConfigError, match="validation"):
        trainer(early_stop=1)
    with pytest.raises(ConfigError, match="plateau needs validation"):
        trainer(section={"schedule": {"kind": "plateau"}})


def test_plateau_lowers_the_rate() -> None:
    run = trainer(max_steps=8, eval_every=2, valid=rows(8), section={"schedule": {"kind": "plateau", "factor": 0.1}})
    scores = iter([1.0, 2.0, 2.0, 0.5])
    run.evaluate = lambda _: {"mse": next(scores)}  # type: ignore[method-assign]
    run.fit()
    # type: ignore[union-attr]
    assert run.journal.of("train", "lr") == pytest.approx([0.01] * 4 + [1e-3] * 2 + [1e-4] * 2)


def test_what_waits_to_be_read_takes_no_place_among_a_steps_tensors() -> None:
    """On a CPU small blocks that live on would keep the next step's large ones from the places of the last one's."""
    run = trainer(_Plain(nn.Linear(3, 1)), max_steps=3, batch_size=8, log_every=100)
    kept = []
    advance = run._advance
    run._advance = lambda sums: (advance(sums), kept.append(list(run.counted)))  # type: ignore[method-assign]
    run.fit()
    assert [len(steps) for steps in kept] == [1, 2, 3]
    assert all(type(number) is float for step in kept[-1] for phase in step for number in phase)


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tmp_path: Path, log_every: int) -> None:
    data = rows()
    plan = Plan(103, 16, seed=5)
    poisoned = int(plan.rows(0, 4)[2])
    data.columns["x"][poisoned] = np.inf
    run = trainer(data=data, folder=tmp_path, save_every=2, max_steps=20, log_every=log_every)
    with pytest.raises(NonFiniteLoss) as caught:
        run.fit()
    text = str(caught.value)
    assert "step 5 " in text and str(poisoned) in text and "step_00000004" in text and "optim.lr" in text
    assert all(v.isfinite().all() for v in run.task.state_dict().values())  # the bad step was not taken
    assert NonFiniteLoss.exit_code == 4


def test_weights_that_a_gradient_spoiled_are_not_saved(tmp_path: Path) -> None:
    """The square root of zero: a finite loss, a gradient that is not."""

    class Rooted(Regression):
        def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
            output = super().forward(batch, phase)
            if run.step == 3:
                output = output._replace(loss_sum=output.loss_sum + (output.loss_sum * 0).sqrt())
            return output

    run = trainer(Rooted(Net()), folder=tmp_path, save_every=2)
    with pytest.raises(NonFiniteLoss, match=r"not finite after step 4, though .*step_00000002"):
        run.fit()
    assert [p.name for p in checkpoint.steps(tmp_path / "checkpoints")] == ["step_00000002"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [3, 7, 12])
def test_stop_and_go_on_is_bit_identical(tmp_path: Path, at: int, workers: int) -> None:
    def make(folder: Path, steps: int, resume: Path | None = None) -> object:
        torch.manual_seed(2)
        return trainer(
            Regression(Net(dropout=0.2, batch_norm=True)),
            folder=folder,
            resume_from=resume,
            max_steps=steps,
            ema=0.9,
            eval_every=4,
            save_every=5,
            log_every=3,
            valid=rows(30, 1),
            workers=workers,
            accumulate=2,
            section={"schedule": {"kind": "plateau"}, "tables": "rows", "tables_weight_decay": 0.01},
        )

    whole = make(tmp_path / "whole", 15)
    first = make(tmp_path / "parts", at)
    whole.fit()  # type: ignore[attr-defined]
    first.fit()  # type: ignore[attr-defined]
    second = make(tmp_path / "parts", 15, checkpoint.latest(tmp_path / "parts" / "checkpoints"))
    second.fit()  # type: ignore[attr-defined]
    a, b = (tmp_path / n / "checkpoints" / "step_00000015" for n in ("whole", "parts"))
    for name in ("model.safetensors", "ema.safetensors", "optimizer.pt"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    lines = {s: v["loss"] for s, k, v in whole.journal.lines if k == "train"}  # type: ignore[attr-defined]
    resumed = {s: v["loss"] for s, k, v in second.journal.lines if k == "train"}  # type: ignore[attr-defined]
    assert resumed and all(lines[s] == v for s, v in resumed.items())


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_a_resumed_run_holds_on_to_nothing_in_the_file(tmp_path: Path, tables: str) -> None:
    trainer(folder=tmp_path, section={"tables": tables}, max_steps=3).fit()
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None
    run = trainer(section={"tables": tables})
    run.resume(last)
    before = checkpoint.load_plain(last / "optimizer.pt")["main"]["state"]
    with open(last / "optimizer.pt", "r+b") as file:
        file.write(bytes((last / "optimizer.pt").stat().st_size))
    after = run.optimizers["main"].state_dict()["state"]
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(after[name][k])) for k, v in state.items()), name


def test_training_scoring_and_saving_make_nothing_as_large_as_a_table(tmp_path: Path) -> None:
    size = 5_000
    task = Regression(Net(rows=size))
    run = trainer(task, folder=tmp_path, section={"tables": "rows"}, max_steps=3, eval_every=2, valid=rows(30, 1))
    with Largest() as largest:
        run.fit()
    assert largest.numel < size / 2 and (tmp_path / "last.json").is_file()


def test_other_data_or_another_model_is_refused(tmp_path: Path) -> None:
    trainer(folder=tmp_path, max_steps=2).fit()
    last = checkpoint.latest(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="other training data"):
        trainer(data=rows(50), resume_from=last).fit()
    with pytest.raises(CheckpointError, match="shape"):
        trainer(Regression(Net(dim=5)), resume_from=last).fit()
    assert last is not None
    state = json.loads((last / "trainer.json").read_text())
    del state["log_names"]
    (last / "trainer.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="lacks log_names: another version wrote it"):
        trainer(resume_from=last).fit()


@pytest.mark.parametrize("ema", [None, 0.9])
def test_rows_that_lag_behind_are_settled_before_anyone_reads_the_table(tmp_path: Path, ema: float | None) -> None:
    """Evaluations, averages, checkpoints and what is left after training are those of dense Adam."""
    runs = []
    for section in ({}, {"tables": "rows", "tables_rule": "dense_adam"}):
        folder = tmp_path / str(len(runs))
        options = {"max_steps": 13, "eval_every": 4, "save_every": 3, "ema": ema, "keep": 9, "valid": rows(30, 1)}
        runs.append((trainer(section=section, folder=folder, **options), folder))  # type: ignore[arg-type]
        runs[-1][0].fit()
    (dense, a), (by_rows, b) = runs
    assert largest_difference(weights(dense.task), weights(by_rows.task)) < 1e-5
    for kind, name in (("train", "loss"), ("eval", "mse")):
        one, other = (run.journal.of(kind, name) for run in (dense, by_rows))  # type: ignore[union-attr]
        assert one and one == pytest.approx(other, rel=1e-4)
    saved = sorted(p.name for p in (b / "checkpoints").iterdir())
    assert len(saved) >= 5
    for step in saved:
        for name in ("model.safetensors", "ema.safetensors")[: 1 if ema is None else 2]:
            tensors = [checkpoint.load_tensors(folder / "checkpoints" / step / name) for folder in (a, b)]
            assert largest_difference(*tensors) < 1e-5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_save_and_leave(tmp_path: Path, number: signal.Signals) -> None:
    run = trainer(folder=tmp_path, max_steps=10_000)
    advance = run._advance

    def at_step_5(sums: list[torch.Tensor]) -> None:
        advance(sums)
        if run.step == 5:
            os.kill(os.getpid(), number)

    run._advance = at_step_5  # type: ignore[method-assign]
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="saved"):
        run.fit()
    assert run.step in (5, 6) and run.saved_at == run.step  # the flag is read where the step's sums are reduced
    assert checkpoint.latest(tmp_path / "checkpoints").name == f"step_{run.step:08d}"  # type: ignore[union-attr]
    assert signal.getsignal(number) == before and Stopped.exit_code == 75


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    run = trainer(folder=tmp_path, max_steps=10_000)
    advance = run._advance

    def at_step_5(sums: list[torch.Tensor]) -> None:
        advance(sums)
        for _ in range(2 * (run.step == 5)):
            os.kill(os.getpid(), signal.SIGINT)

    run._advance = at_step_5  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    assert run.step == 5 and checkpoint.latest(tmp_path / "checkpoints") is None


def test_trains_in_a_thread_that_may_not_catch_signals() -> None:
    run = trainer(max_steps=2)
    thread = threading.Thread(target=run.fit)
    thread.start()
    thread.join(60)
    assert run.step == 2


class Gan(Task):
    """A generator of one number and a linear judge; losses with a closed form, so the loop can be written out."""

    phases = {"generator": ("model.0.*",), "judge": ("model.1.*",)}

    def forward(self, batch: Batch, phase: str = "generator") -> StepOutput:
        generator, judge = self.model[0], self.model[1]  # type: ignore[index]
        noise, real = batch["x"], batch["y"][:, None]
        if phase == "generator":
            loss = nn.functional.softplus(-judge(generator(noise))).sum()
        else:
            with torch.no_grad():
                fake = generator(noise)
            loss = nn.functional.softplus(judge(fake)).sum() + nn.functional.softplus(-judge(real)).sum()
        return StepOutput(loss, torch.tensor(len(noise)), {"d": loss.detach()} if phase == "judge" else {})

    def predict(self, batch: Batch) -> Prediction:
        return {"y": self.model[0](batch["x"]).squeeze(1)}  # type: ignore[index]

    def metrics(self) -> list[Metric]:
        return [Mean("mse")]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        metrics[0].update((prediction["y"] - batch["y"]).square().sum(), len(batch["y"]))


def gan() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 1), nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))


def test_a_gan_needs_no_second_loop(tmp_path: Path) -> None:
    """Two phases through the same loop equal alternating steps written out; and it resumes."""
    section = {"lr": 0.02, "phases": {"judge": {"lr": 0.05}}}
    run = trainer(Gan(gan()), section=section, max_steps=9, folder=tmp_path, save_every=4)
    run.fit()
    net = gan()
    g, d = torch.optim.Adam(net[0].parameters(), lr=0.02), torch.optim.Adam(net[1].parameters(), lr=0.05)
    data, plan = rows(), Plan(103, 16, seed=5)
    for step in range(9):
        batch = data.fetch(plan.rows(step // plan.steps(0), step % plan.steps(0)), 0)
        g.zero_grad()
        nn.functional.softplus(-net[1](net[0](batch["x"]))).mean().backward()
        g.step()
        d.zero_grad()
        fake = net[0](batch["x"]).detach()
        judged = (
            nn.functional.softplus(net[1](fake)).mean() + nn.functional.softplus(-net[1](batch["y"][:, None])).mean()
        )
        judged.backward()
        d.step()
    assert largest_difference(weights(run.task.model), weights(net)) < 2e-6
    assert all(p.requires_grad for p in run.task.parameters())  # as before, for another run on it
    assert run.journal.of("train", "judge/d") == run.journal.of("train", "judge/loss")  # type: ignore[union-attr]
    again = trainer(Gan(gan()), section=section, max_steps=9, resume_from=tmp_path / "checkpoints" / "step_00000008")
    again.fit()
    assert largest_difference(weights(run.task), weights(again.task)) == 0
    halves = trainer(Gan(gan()), section=section, max_steps=9, accumulate=2)
    halves.fit()
    assert largest_difference(weights(run.task), weights(halves.task)) < 1e-6


class _Twice(_Plain):
    phases = {"first": ("*",), "second": ("model.weight",)}


def test_phases_may_share_parameters() -> None:
    torch.manual_seed(0)
    run = trainer(_Twice(nn.Linear(3, 1)), max_steps=5, section={"_target_": "torch.optim.SGD"})
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    data, plan = rows(), Plan(103, 16, seed=5)
    for step in range(5):
        batch = data.fetch(plan.rows(0, step), 0)
        for parameters in ([net.weight, net.bias], [net.weight]):
            net.zero_grad()
            (net(batch["x"]).squeeze(1) - batch["y"]).square().mean().backward()
            torch.optim.SGD(parameters, lr=0.01).step()
    run.fit()
    assert largest_difference(weights(run.task.model), weights(net)) < 1e-6


def test_profile_leaves_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(folder=tmp_path, max_steps=22, profile=True).fit()
    assert "traceEvents" in (tmp_path / "profile.json").read_text() and "Self CPU" in capsys.readouterr().err


def test_a_run_too_short_to_profile_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(folder=tmp_path, max_steps=3, profile=True).fit()
    assert "no step was traced: that begins after 10, and 3 were done here" in capsys.readouterr().err


def test_compile_gives_the_same_losses() -> None:
    plain, compiled = trainer(max_steps=4), trainer(max_steps=4, compile=True)
    plain.fit()
    compiled.fit()
    assert compiled.task.state_dict().keys() == plain.task.state_dict().keys()
    a, b = plain.journal.of("train", "loss"), compiled.journal.of("train", "loss")  # type: ignore[union-attr]
    assert a == pytest.approx(b, rel=1e-4)


def test_each_line_has_what_a_user_watches() -> None:
    run = trainer(max_steps=4, log_every=2)
    run.fit()
    step, kind, values = run.journal.lines[0]  # type: ignore[union-attr]
    assert (step, kind) == (2, "train")
    assert values.keys() >= {"loss", "lr", "grad_norm", "examples_per_s", "data_wait", "memory_gb", "seconds_left"}
    assert values["size"] == 1 and 0 <= values["data_wait"] <= 1 and values["memory_gb"] > 0.05


def test_the_time_left_is_that_of_the_rows_that_steps_have() -> None:
    """Here a few more than `batch_size`; often half of it, where batches are made by tokens."""
    run = trainer(batch_size=100, max_steps=10, log_every=4)
    run.fit()
    _, _, values = run.journal.lines[0]  # type: ignore[union-attr]
    assert values["seconds_left"] * values["examples_per_s"] == pytest.approx(6 * 103)


def test_rows_are_fed_in_the_plan_s_order() -> None:
    seen: list[int] = []

    class Spy(Regression):
        def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
            seen.extend(batch["row"].tolist())
            return super().forward(batch, phase)

    data = ArrayRows({**rows().columns, "row": np.arange(103)})
    trainer(Spy(Net()), data, max_epochs=1, max_steps=None, accumulate=3).fit()
    assert seen == Plan(103, 16, seed=5).order(0).tolist()
