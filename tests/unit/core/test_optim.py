"""Phase optimisers against torch's own on ordinary embeddings, schedules against formulas, averages, stored state."""

from __future__ import annotations

import io
import json
import math
import os
import socket
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paddlecore import distributed
from paddlecore.errors import CheckpointError, ConfigError
from paddlecore.optim import EMA, LRSchedule, PhaseOptimizer, build
from paddlecore.sparse import RowTable

ROWS, DIM = 30, 4


class Model(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table
        self.layer = nn.Linear(DIM, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.table(ids).sum(1)))).squeeze(1)


class Holder(nn.Module):
    """As a task is: parameters are called model.<...>."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.model = Model(table)


def pair() -> tuple[Holder, Holder]:
    """The same net on a RowTable and on an nn.Embedding."""
    torch.manual_seed(0)
    ours, plain = Holder(RowTable(ROWS, DIM, init_std=1.0)), Holder(nn.Embedding(ROWS, DIM))
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(ROWS - 5, (6, 2), generator=generator), torch.randn(6, generator=generator)


def loss_of(task: Holder, step: int) -> Tensor:
    ids, y = batch(step)
    return (task.model(ids) - y).square().sum()


def optimizer(task: nn.Module, phase: str = "main", globs: tuple[str, ...] = ("*",), **section: Any) -> PhaseOptimizer:
    return build(task, {"_target_": "torch.optim.Adam", "lr": 0.02, **section}, phase, globs)


def train(task: Holder, opt: PhaseOptimizer, steps: range | int, lr_factor: float = 1.0) -> None:
    for step in range(steps) if isinstance(steps, int) else steps:
        loss_of(task, step).backward()
        opt.collect()
        opt.scale(torch.tensor(1 / 6))
        opt.step(lr_factor)
        opt.zero()


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max(
        float((x - y).abs().max()) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------------------------------------ dense tables


CASES = [
    ("Adam", {"betas": [0.8, 0.9]}),
    ("AdamW", {"weight_decay": 0.0}),
    ("SGD", {"momentum": 0.9}),
    ("Adagrad", {}),
    ("RMSprop", {}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_dense_is_torch_on_an_embedding(name: str, arguments: dict[str, Any], decay: float) -> None:
    """Also L2 in all rows: coupled by torch, or added here for the optimiser whose own decay is not L2."""
    ours, plain = pair()
    opt = optimizer(
        ours, _target_=f"torch.optim.{name}", **arguments, tables_weight_decay=decay, tables_decay_rows="all"
    )
    reference = getattr(torch.optim, name)(plain.parameters(), lr=0.02, **arguments)
    for step in range(50):
        (loss_of(plain, step) / 6).backward()
        plain.model.table.weight.grad.add_(plain.model.table.weight.detach(), alpha=decay)
        reference.step()
        reference.zero_grad()
    train(ours, opt, 50)
    assert largest_difference(ours, plain) < 2e-6
    assert not torch.equal(ours.model.table.weight[0], pair()[0].model.table.weight[0])


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_l2_of_the_batch_counts_each_row_once(tables: str) -> None:
    ours, plain = pair()
    section = {"_target_": "torch.optim.SGD", "tables_rule": "sgd", "tables": tables, "tables_weight_decay": 0.5}
    opt = optimizer(ours, **section)
    reference = torch.optim.SGD(plain.parameters(), lr=0.02)
    for step in range(10):
        (loss_of(plain, step) / 6).backward()
        weight = plain.model.table.weight
        touched = batch(step)[0].unique()
        weight.grad[touched] += 0.5 * weight.detach()[touched]
        reference.step()
        reference.zero_grad()
    train(ours, opt, 10)
    assert largest_difference(ours, plain) < 1e-6
    assert torch.equal(ours.model.table.weight[-5:], pair()[0].model.table.weight[-5:])


def test_the_gradient_buffer_is_clean_between_steps() -> None:
    ours, _ = pair()
    opt = optimizer(ours)
    train(ours, opt, 3)
    (table,) = opt._dense
    assert table.buffer is not None and not table.buffer.any() and table.weight.grad is None


def test_a_weight_that_is_also_used_whole() -> None:
    """Tied output weights: lookups and a product with the whole table, as one gradient; `rows` cannot have that."""
    ours, plain = pair()
    opt = optimizer(ours, tables_weight_decay=0.1)
    reference = torch.optim.Adam(plain.parameters(), lr=0.02)
    for step in range(5):
        for task in (ours, plain):
            ids, y = batch(step)
            scores = task.model.table(ids).sum(1) @ task.model.table.weight.T
            (loss_of(task, step) + nn.functional.cross_entropy(scores, ids[:, 0], reduction="sum")).backward()
        weight = plain.model.table.weight
        touched = batch(step)[0].unique()
        weight.grad[touched] += 0.1 * weight.detach()[touched]
        reference.step()
        reference.zero_grad()
        opt.collect()
        norm = opt.norm()
        assert float(norm) > 0
        opt.step()
        opt.zero()
    assert largest_difference(ours, plain) < 2e-6
    ours, _ = pair()
    opt = optimizer(ours, tables="rows")
    ours.model.table.weight.sum().backward()
    with pytest.raises(ConfigError, match="tables=dense"):
        opt.collect()


# ------------------------------------------------------------------------------------------------ rows


def test_rows_is_dense_for_sgd() -> None:
    ours, plain = pair()
    opt = optimizer(ours, _target_="torch.optim.SGD", tables="rows", tables_rule="sgd")
    reference = torch.optim.SGD(plain.parameters(), lr=0.02)
    for step in range(30):
        (loss_of(plain, step) / 6).backward()
        reference.step()
        reference.zero_grad()
    train(ours, opt, 30)
    assert largest_difference(ours, plain) < 1e-6


def test_rows_is_dense_for_adagrad_with_one_column() -> None:
    class Sum(nn.Module):
        def __init__(self, table: nn.Module) -> None:
            super().__init__()
            self.table = table

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids).sum((1, 2))

    ours, plain = Sum(RowTable(ROWS, 1, init_std=1.0)), Sum(nn.Embedding(ROWS, 1))
    plain.load_state_dict(ours.state_dict())
    arguments = {"eps": 1e-6, "initial_accumulator_value": 0.1}
    opt = build(
        ours, {"_target_": "torch.optim.Adagrad", "lr": 0.1, "tables": "rows", "tables_rule": "adagrad", **arguments},
        "main", ("*",),
    )  # fmt: skip
    reference = torch.optim.Adagrad(plain.parameters(), lr=0.1, **arguments)
    for step in range(40):
        ids, y = batch(step)
        for model in (ours, plain):
            (model(ids) - y).square().mean().backward()
        opt.collect()
        opt.step()
        opt.zero()
        reference.step()
        reference.zero_grad()
    assert opt.optimizer is None
    assert largest_difference(ours, plain) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "within"), [({}, 1e-5), ({"betas": [0.0, 0.9]}, 1e-5), ({"betas": [0.9, 0.98], "eps": 1e-2}, 3e-4)]
)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_dense_adam_by_rows_is_dense_adam(arguments: dict[str, Any], within: float, decay: float) -> None:
    """Rows that come and go, under a rate that changes: the same losses at each step, and once settled the same table,
    which goes on to be the same after it was settled in between. An eps as large as gradients are, in early steps, is
    where the sum is approximate.
    """
    rows, dense = pair()[0], pair()[0]
    options = {**arguments, "tables_weight_decay": decay}
    by_rows = optimizer(rows, tables="rows", tables_rule="dense_adam", **options)
    runs = [(rows, by_rows), (dense, optimizer(dense, **options))]
    for step in range(120):
        losses = []
        for task, opt in runs:
            loss = loss_of(task, 1000 * (step // 40) + step % 4)  # few rows for a while, then others
            loss.backward()
            opt.collect()
            opt.step(1.0 + math.sin(step))
            opt.zero()
            losses.append(float(loss.detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        if step in (50, 51):
            by_rows.settle()
            assert largest_difference(rows, dense) < within
    assert largest_difference(rows, dense) > 1e-4 or arguments.get("betas", [1])[0] == 0.0  # they do lag behind
    seen = batch(2000)[0]
    with torch.no_grad():
        lagging = [task.eval().model(seen) for task, _ in runs]
        assert torch.allclose(*lagging, atol=1e-4)  # no lookup sees it
    by_rows.settle()
    assert largest_difference(rows, dense) < within
    before = rows.model.table.weight.detach().clone()
    by_rows.settle()
    assert torch.equal(before, rows.model.table.weight)


def test_momentum_that_never_fades_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tables_rule=dense_adam: betas=\(0.9, 0.8\)"):
        optimizer(pair()[0], tables="rows", tables_rule="dense_adam", betas=[0.9, 0.8])


def test_two_micro_batches_are_one() -> None:
    results = []
    for parts in (1, 2):
        ours, _ = pair()
        opt = optimizer(ours, tables="rows")
        for step in range(5):
            ids, y = batch(step)
            for i in range(parts):
                part = slice(i * 6 // parts, (i + 1) * 6 // parts)
                (ours.model(ids[part]) - y[part]).square().sum().backward()
            opt.collect()
            opt.scale(1 / 6)
            opt.step()
            opt.zero()
        results.append(ours)
    assert largest_difference(*results) < 1e-5


def test_same_inputs_same_bits() -> None:
    results = []
    for _ in range(2):
        ours, _ = pair()
        train(ours, optimizer(ours, tables="rows", tables_weight_decay=0.01), 10)
        results.append(ours)
    assert largest_difference(*results) == 0


def test_a_step_without_lookups() -> None:
    """Dense as torch does it (no gradient, no move); rows: time goes on."""
    for tables in ("dense", "rows"):
        ours, _ = pair()
        opt = optimizer(ours, tables=tables)
        train(ours, opt, 2)
        before = ours.model.table.weight.detach().clone()
        ours.model.head(torch.ones(1, 3)).sum().backward()
        opt.collect()
        opt.step()
        opt.zero()
        assert torch.equal(before, ours.model.table.weight)
        train(ours, opt, 1)
        assert not torch.equal(before, ours.model.table.weight)


# ------------------------------------------------------------------------------------------------ norm, clip, scale


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_norm_clip_and_scale(tables: str) -> None:
    ours, plain = pair()
    opt = optimizer(ours, tables=tables)
    loss_of(plain, 0).backward()
    loss_of(ours, 0).backward()
    opt.collect()
    expected = float(torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()]))  # type: ignore[misc]
    assert float(opt.norm()) == pytest.approx(expected, rel=1e-5)
    opt.scale(0.5)
    assert float(opt.norm()) == pytest.approx(expected / 2, rel=1e-5)
    opt.scale(torch.tensor(2.0))
    assert float(opt.clip(1e9)) == pytest.approx(expected, rel=1e-5)
    assert float(opt.norm()) == pytest.approx(expected, rel=1e-5)
    assert float(opt.clip(0.1)) == pytest.approx(expected, rel=1e-5)
    assert float(opt.norm()) == pytest.approx(0.1, rel=1e-4)
    opt.scale(math.nan)
    assert math.isnan(float(opt.norm()))


def test_no_gradient_no_norm() -> None:
    ours, _ = pair()
    opt = optimizer(ours)
    opt.collect()
    opt.scale(2.0)
    assert float(opt.norm()) == 0
    opt.step()
    assert largest_difference(ours, pair()[0]) == 0


# ------------------------------------------------------------------------------------------------ groups, freezing


def group_of(opt: PhaseOptimizer, parameter: Tensor) -> dict[str, Any]:
    assert opt.optimizer is not None
    (found,) = [g for g in opt.optimizer.param_groups if any(p is parameter for p in g["params"])]
    return found


def test_groups() -> None:
    ours, _ = pair()
    groups = [
        {"match": "*.bias", "weight_decay": 0.0},
        {"match": "model.layer.*", "lr_scale": 0.1},
        {"match": "*layer*", "lr": 9.0},
    ]
    opt = optimizer(ours, _target_="torch.optim.AdamW", groups=groups, weight_decay=0.3)
    model = ours.model
    bias, layer, head, table = (
        group_of(opt, p) for p in (model.layer.bias, model.layer.weight, model.head.weight, model.table.weight)
    )
    assert (bias["lr"], bias["weight_decay"]) == (0.02, 0.0)
    assert (layer["lr"], layer["weight_decay"]) == (pytest.approx(0.002), 0.3)
    assert (head["lr"], head["weight_decay"]) == (0.02, 0.3)
    assert (table["lr"], table["weight_decay"]) == (0.02, 0.0)
    train(ours, opt, 1, lr_factor=0.5)
    assert opt.lr == 0.01 and layer["lr"] == pytest.approx(0.001)
    train(ours, opt, 1)
    assert opt.lr == 0.02 and layer["lr"] == pytest.approx(0.002)


def test_learning_rate_of_a_rows_table() -> None:
    ours, plain = pair()
    opt = optimizer(
        ours, _target_="torch.optim.SGD", tables="rows", tables_rule="sgd", groups=[{"match": "table.*", "lr": 0.5}]
    )
    loss_of(plain, 0).backward()
    expected = plain.model.table.weight - 0.25 * plain.model.table.weight.grad / 6
    train(ours, opt, 1, lr_factor=0.5)
    assert torch.allclose(ours.model.table.weight, expected, atol=1e-6)


def test_freezing() -> None:
    ours, _ = pair()
    opt = optimizer(ours, freeze=["layer.*", "table.weight"])
    train(ours, opt, 3)
    fresh = pair()[0]
    assert torch.equal(ours.model.layer.weight, fresh.model.layer.weight)
    assert torch.equal(ours.model.table.weight, fresh.model.table.weight)
    assert not torch.equal(ours.model.head.weight, fresh.model.head.weight)
    assert not ours.model.table.adopted and not ours.model.layer.weight.requires_grad
    assert set(opt.parameters) == {"model.head.weight", "model.head.bias"}


def test_phases() -> None:
    ours, _ = pair()
    section = {
        "_target_": "torch.optim.Adam", "lr": 0.02, "betas": [0.5, 0.9], "freeze": ["head.bias"],
        "phases": {"b": {"_target_": "torch.optim.SGD", "lr": 1.0}, "c": {"lr": 0.3}},
    }  # fmt: skip
    a, b = build(ours, section, "a", ("model.table.*",)), build(ours, section, "b", ("model.layer.*", "model.head.*"))
    c = build(ours, section, "c", ("head.*",))
    assert isinstance(a.optimizer, torch.optim.Adam) and a.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert isinstance(b.optimizer, torch.optim.SGD) and b.lr == 1.0
    assert isinstance(c.optimizer, torch.optim.Adam) and c.lr == 0.3
    assert set(b.parameters) == {"model.layer.weight", "model.layer.bias", "model.head.weight"}
    a.requires_grad_(False)
    loss_of(ours, 0).backward()
    a.collect()
    assert float(a.norm()) == 0 and not ours.model.table._lookups


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"freeze": ["tabel.weight"]}, ["optim.freeze", "'tabel.weight'", "table.weight"]),
        ({"groups": [{"match": "haed.*"}]}, ["optim.groups.0.match", "'haed.*'", "head."]),
        ({"groups": [{"match": "*", "lr": 1, "lr_scale": 2}]}, ["optim.groups.0", "not both"]),
        ({"freeze": ["*"]}, ["no parameter to train"]),
        ({"_target_": "torch.optim.LBFGS", "freeze": ["table.*"]}, ["LBFGS", "several times"]),
        ({"_target_": "os.system"}, ["not allowed"]),
        ({"betas": [2.0, 0.9]}, ["Adam", "beta"]),
        ({"tables": "rows", "tables_weight_decay": 0.1, "tables_decay_rows": "all"}, ["tables=dense"]),
        ({"tables": "rows", "groups": [{"match": "table.*", "weight_decay": 0.1}]}, ["tables=dense"]),
        ({"tables_weight_decay": 0.1, "groups": [{"match": "table.*", "weight_decay": 0.1}]}, ["one of the two"]),
    ],
)
def test_refused(section: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        optimizer(pair()[0], **section)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_fused_where_torch_can() -> None:
    assert optimizer(pair()[0]).optimizer.defaults["fused"] is True  # type: ignore[union-attr]
    assert not optimizer(pair()[0], fused=False).optimizer.defaults["fused"]  # type: ignore[union-attr]
    assert optimizer(pair()[0], foreach=True).optimizer.defaults["foreach"] is True  # type: ignore[union-attr]
    train(task := pair()[0], optimizer(task, _target_="torch.optim.Adadelta"), 1)  # has no fused form


# ------------------------------------------------------------------------------------------------ state


RULES = [{}, *[{"tables": "rows", "tables_rule": rule} for rule in ("adam", "dense_adam", "adagrad")]]


@pytest.mark.parametrize("section", RULES)
def test_stopping_and_going_on_is_bit_identical(section: dict[str, Any]) -> None:
    whole, _ = pair()
    train(whole, opt := optimizer(whole, **section), 5)
    opt.settle()  # as the trainer does at each save, whether it stops there or not
    train(whole, opt, range(5, 8))
    first, _ = pair()
    train(first, opt := optimizer(first, **section), 5)
    file = io.BytesIO()
    torch.save({"main": opt.state_dict()}, file)
    file.seek(0)
    second, _ = pair()
    second.load_state_dict(first.state_dict())
    opt = optimizer(second, **section)
    opt.load_state_dict(torch.load(file, weights_only=True)["main"])
    train(second, opt, range(5, 8))
    assert largest_difference(whole, second) == 0


def test_state_goes_by_name_and_keeps_settings() -> None:
    """Groups and their order may change between saving and loading; the learning rate is the new run's."""
    ours, _ = pair()
    train(ours, opt := optimizer(ours), 3)
    groups = [{"match": "head.*", "lr": 0.5}, {"match": "table.*"}]
    other = optimizer(ours, lr=0.7, groups=groups)
    other.load_state_dict(opt.state_dict())
    assert opt.optimizer is not None and other.optimizer is not None
    for parameter in ours.parameters():
        assert torch.equal(opt.optimizer.state[parameter]["exp_avg"], other.optimizer.state[parameter]["exp_avg"])
    train(ours, other, 1)
    assert group_of(other, ours.model.head.weight)["lr"] == 0.5
    assert group_of(other, ours.model.layer.weight)["lr"] == 0.7


def test_state_that_does_not_fit_is_refused() -> None:
    ours, _ = pair()
    train(ours, opt := optimizer(ours, tables="rows"), 1)
    state = opt.state_dict()
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"tables": "rows", "_target_": "torch.optim.SGD"}, ["Adam", "SGD"]),
        ({"tables": "dense"}, ["model.table.weight", "rule adam, now with dense"]),
        ({"tables": "rows", "tables_rule": "sgd"}, ["rule adam, now with sgd"]),
        ({"tables": "rows", "freeze": ["layer.*"]}, ["model.layer.weight was trained"]),
    ]
    for section, words in cases:
        with pytest.raises(CheckpointError) as error:
            optimizer(pair()[0], **section).load_state_dict(state)
        assert all(word in str(error.value) for word in words), str(error.value)
    wide = pair()[0]
    wide.model.head = nn.Linear(3, 2)
    wide.model.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"model.head.weight had the shape \[1, 3\], now \[2, 3\]"):
        optimizer(wide, tables="rows").load_state_dict(state)
    with pytest.raises(CheckpointError, match="model.extra.weight has no state stored"):
        optimizer(wide, tables="rows").load_state_dict(state)


# ------------------------------------------------------------------------------------------------ ranks


def _rank(rank: int, port: int, path: str, tables: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    ours, _ = pair()
    opt = optimizer(ours, tables=tables, tables_weight_decay=0.01)
    for step in range(5):
        ids, y = batch(step)
        part = slice(0, 4) if rank == 0 else slice(4, 6)
        (ours.model(ids[part]) - y[part]).square().sum().backward()
        for parameter in opt._plain:  # as DDP does
            parameter.grad = distributed.all_reduce(parameter.grad) / 2  # type: ignore[arg-type]
        opt.collect()
        opt.scale(2 / 6)
        opt.clip(0.5)
        opt.step()
        opt.zero()
    torch.save(ours.state_dict(), f"{path}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("tables", ["dense", "rows"])
def test_two_ranks_are_one(tables: str, tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_rank, (port, str(tmp_path / "w"), tables), nprocs=2, start_method="fork")
    ours, _ = pair()
    opt = optimizer(ours, tables=tables, tables_weight_decay=0.01)
    for step in range(5):
        loss_of(ours, step).backward()
        opt.collect()
        opt.scale(1 / 6)
        opt.clip(0.5)
        opt.step()
        opt.zero()
    zero, one = (torch.load(f"{tmp_path}/w.{r}") for r in range(2))
    for name, value in ours.state_dict().items():
        assert torch.equal(zero[name], one[name])
        assert torch.allclose(zero[name], value, atol=2e-6)


# ------------------------------------------------------------------------------------------------ schedules


def torch_factors(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


lr_scheduler = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        ({}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        ({"kind": "step", "every_steps": 7, "factor": 0.5}, lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
        ({"kind": "step", "every_epochs": 2, "factor": 0.5}, lambda o: lr_scheduler.StepLR(o, 10, 0.5)),
        ({"kind": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, 40)),
        ({"kind": "cosine", "min_factor": 0.2}, lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.2)),
        ({"kind": "linear", "min_factor": 0.1}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=40)),
        ({"kind": "linear", "total_steps": 20}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=20)),
    ],
)
def test_schedules_are_torchs(schedule: dict[str, Any], make: Any) -> None:
    ours = LRSchedule(schedule, 40, 5)
    assert [ours.factor(s) for s in range(40)] == pytest.approx(torch_factors(make, 40), abs=1e-9)
    assert ours.factor(10**6) == pytest.approx(ours.factor(10**6 + 1))


def test_warm_up() -> None:
    ours = LRSchedule({"kind": "cosine", "warmup_steps": 4}, 10, 5)
    assert [ours.factor(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert ours.factor(7) == pytest.approx(0.5)  # half way from 4 to 10
    assert LRSchedule({"warmup_steps": 2}, None, 5).factor(0) == 0.5


def test_inverse_square_root_is_vaswanis_equation_3() -> None:
    ours = LRSchedule({"kind": "inverse_sqrt", "warmup_steps": 16}, None, 5)
    for step in range(200):
        n = step + 1
        assert ours.factor(step) == pytest.approx(4 * min(n**-0.5, n * 16**-1.5))
    assert LRSchedule({"kind": "inverse_sqrt"}, None, 5).factor(3) == 0.5
    assert LRSchedule({"kind": "inverse_sqrt", "min_factor": 0.3}, None, 5).factor(10**6) == 0.3


@pytest.mark.parametrize("goal", ["max", "min"])
def test_plateau_is_torchs(goal: str) -> None:
    options = {"kind": "plateau", "factor": 0.5, "patience": 1, "min_delta": 0.01, "min_factor": 0.1}
    ours = LRSchedule(options, None, 5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, goal, factor=0.5, patience=1, threshold=0.01, threshold_mode="abs", min_lr=0.1, eps=0
    )
    values = torch.rand(30, generator=torch.Generator().manual_seed(3)).cumsum(0).sin().tolist()
    factors = []
    for value in values:
        ours.observe(value, goal)
        reference.step(value)
        assert ours.factor(0) == pytest.approx(optimizer.param_groups[0]["lr"])
        again = LRSchedule(options, None, 5)
        again.load_state_dict(json.loads(json.dumps(ours.state_dict())))
        assert again.state_dict() == ours.state_dict()
        factors.append(ours.factor(0))
    assert len(set(factors)) >= 4


def test_plateau_counts_nan_as_no_gain() -> None:
    ours = LRSchedule({"kind": "plateau"}, None, 5)
    ours.observe(math.nan, "max")
    assert ours.factor(0) == pytest.approx(0.1)
    ours.observe(0.5, "max")
    assert ours.factor(0) == pytest.approx(0.1) and ours.best == 0.5


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"kind": "cosine"}, "train.max_steps"),
        ({"kind": "linear", "total_steps": 5, "warmup_steps": 5}, "warmup_steps=5"),
        ({"kind": "step"}, "every_steps"),
        ({"kind": "step", "every_steps": 1, "every_epochs": 1}, "one of"),
    ],
)
def test_schedules_refused(schedule: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LRSchedule(schedule, None, 5)


# ------------------------------------------------------------------------------------------------ average


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight  # one tensor, two names
        self.table = RowTable(4, 3)


def change(task: Normed) -> None:
    with torch.no_grad():
        for value in task.state_dict().values():
            value.add_(1)


def test_average_is_the_formula() -> None:
    task = Normed()
    expected = {n: v.clone().double() for n, v in task.state_dict().items()}
    ema = EMA(task, 0.9)
    for _ in range(20):
        change(task)
        ema.update()
        for name, value in task.state_dict().items():
            is_buffer = "running" in name or "num_batches" in name
            expected[name] = value.double() if is_buffer else 0.9 * expected[name] + 0.1 * value.double()
    state = ema.state_dict()
    assert list(state) == list(task.state_dict())
    assert all(torch.allclose(state[n].double(), v, atol=1e-4) for n, v in expected.items())
    assert state["norm.num_batches_tracked"].dtype == torch.int64


def test_average_swaps_in_and_out_exactly() -> None:
    task = Normed()
    ema = EMA(task, 0.5)
    change(task)
    ema.update()
    own = {n: v.clone() for n, v in task.state_dict().items()}
    average = {n: v.clone() for n, v in ema.state_dict().items()}
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert all(torch.equal(v, average[n]) for n, v in task.state_dict().items())
        raise ZeroDivisionError
    assert all(torch.equal(v, own[n]) for n, v in task.state_dict().items())
    assert all(torch.equal(v, average[n]) for n, v in ema.state_dict().items())
    assert task.a.weight is task.b.weight


def test_average_follows_a_task_that_moved() -> None:
    task = nn.Conv2d(2, 2, 3)
    ema = EMA(task, 0.5)
    task.to(memory_format=torch.channels_last)  # replaces the storage
    with torch.no_grad():
        task.weight.zero_()
    before = ema.state_dict()["weight"].clone()
    ema.update()
    assert torch.allclose(ema.state_dict()["weight"], before / 2)


def test_average_state() -> None:
    task, other = Normed(), Normed()
    ema, again = EMA(task, 0.5), EMA(other, 0.5)
    again.load_state_dict(ema.state_dict())
    assert all(torch.equal(v, ema.state_dict()[n]) for n, v in again.state_dict().items())
    with pytest.raises(CheckpointError, match="a.weight"):
        again.load_state_dict({n: v for n, v in ema.state_dict().items() if n != "a.weight"})
    with pytest.raises(ConfigError):
        EMA(task, 1.0)


def test_a_run_cut_short_may_end_in_its_warm_up_but_a_schedule_may_not() -> None:
    short = LRSchedule({"kind": "cosine", "warmup_steps": 10}, 4, 4)
    assert [short.factor(s) for s in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ConfigError, match="leaves nothing of total_steps=4"):
        LRSchedule({"kind": "cosine", "warmup_steps": 10, "total_steps": 4}, 100, 4)
