"""Row tables and row rules against slow loops, dense optimisers and a count of what they allocate."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from parts import Largest
from torch import Tensor, nn

from paddlecore import sparse
from paddlecore.sparse import RowTable


def random_pairs(n: int, rows: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(rows, (n,), generator=generator), torch.randn(n, dim, generator=generator)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 1), (0, 5), ()])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("adopted", [False, True])
def test_lookup_is_indexing(shape: tuple[int, ...], dtype: torch.dtype, adopted: bool) -> None:
    table = RowTable(11, 3, init_std=1.0)
    if adopted:
        table.adopt()
    ids = torch.randint(11, shape, dtype=dtype)
    assert torch.equal(table(ids), table.weight[ids.long()])


@pytest.mark.parametrize("bad", [-1, 11])
@pytest.mark.parametrize("adopted", [False, True])
def test_an_id_outside_the_table_is_refused(bad: int, adopted: bool) -> None:
    table = RowTable(11, 3)
    if adopted:
        table.adopt()
    with pytest.raises((RuntimeError, IndexError)):
        table(torch.tensor([3, bad]))
    with pytest.raises((RuntimeError, IndexError)), torch.no_grad():
        table(torch.tensor([3, bad]))


def test_initial_spread() -> None:
    torch.manual_seed(0)
    weight = RowTable(1000, 50, init_std=0.3).weight.data
    assert abs(float(weight.std()) - 0.3) < 0.01 and abs(float(weight.mean())) < 0.01
    with pytest.raises(ValueError, match="0 x 4"):
        RowTable(0, 4)


def test_a_table_of_its_own_trains_like_an_embedding() -> None:
    table, plain = RowTable(9, 4, init_std=1.0), nn.Embedding(9, 4)
    plain.weight.data.copy_(table.weight.data)
    ids, target = torch.tensor([[1, 1], [8, 0]]), torch.randn(2, 2, 4)
    for module in (table, plain):
        (module(ids) * target).sum().backward()
    assert torch.equal(table.weight.grad, plain.weight.grad)  # type: ignore[arg-type]


def test_pairs_add_up_to_the_dense_gradient() -> None:
    """Several lookups and micro-batches, one that no loss reaches, ids of both widths, under bf16 autocast, too."""
    table, plain = RowTable(9, 4, init_std=1.0), nn.Embedding(9, 4)
    plain.weight.data.copy_(table.weight.data)
    table.adopt()
    layer = nn.Linear(4, 4)
    for micro in range(2):
        ids = torch.randint(9, (5, 3), dtype=torch.int32 if micro else torch.int64)
        for module in (table, plain):
            with torch.autocast("cpu", torch.bfloat16):
                module(ids + 0)  # looked up, not used
                loss = layer(module(ids)).square().sum() + module(ids[:, 0]).sum()
            loss.backward()
    ids, grads = table.take()
    assert table.weight.grad is None and grads.dtype == torch.float32
    assert ids.shape == (2 * (15 + 5),) and grads.shape == (40, 4)
    total = torch.zeros(9, 4).index_add_(0, ids, grads)
    assert torch.allclose(total, plain.weight.grad, atol=1e-6)  # type: ignore[arg-type]
    ids, grads = table.take()
    assert ids.shape == (0,) and grads.shape == (0, 4)


def test_nothing_is_kept_outside_training() -> None:
    table = RowTable(9, 4)
    table.adopt()
    ids = torch.tensor([1, 2])
    with torch.no_grad():
        table(ids)
    table.eval()(ids)
    table.train().weight.requires_grad_(False)
    assert not table(ids).requires_grad and not table._lookups
    table.weight.requires_grad_(True)
    assert table(ids).requires_grad and len(table._lookups) == 1


def test_compiled_model_keeps_its_lookups() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = RowTable(9, 4)
            self.table.adopt()

        def forward(self, ids: Tensor) -> Tensor:
            return (self.table(ids) * 3).sum()

    net = Net()
    net.compile(backend="eager")
    net(torch.tensor([[1, 2]])).backward()
    ids, grads = net.table.take()
    assert ids.tolist() == [1, 2] and grads.tolist() == [[3.0] * 4] * 2


@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("contiguous", [True, False])
def test_put_is_assignment(dim: int, dtype: torch.dtype, contiguous: bool) -> None:
    rows, values = torch.tensor([7, 0, 3]), torch.randn(dim, 3, dtype=dtype).t()
    values = values.contiguous() if contiguous else values
    ours, expected = torch.zeros(9, dim, dtype=dtype), torch.zeros(9, dim, dtype=dtype)
    expected[rows] = values
    sparse.put_(ours, rows, values)
    assert torch.equal(ours, expected)
    sparse.put_(ours, rows[:0], values[:0])
    assert torch.equal(ours, expected)
    with pytest.raises(IndexError):
        sparse.put_(ours, torch.tensor([9]), values[:1])


@pytest.mark.parametrize("size", [20, 2**63])
def test_coalesce(size: int) -> None:
    ids, grads = random_pairs(200, 20, 5)
    rows, sums = sparse.coalesce(ids, grads, size=size)
    assert rows.dtype == torch.int64 and rows.tolist() == sorted(set(ids.tolist()))
    for row, total in zip(rows.tolist(), sums, strict=True):
        expected = torch.zeros(5)
        for i in (ids == row).nonzero().flatten().tolist():
            expected += grads[i]  # in order of occurrence: equal to the bit
        assert torch.equal(total, expected)


def test_coalesce_of_nothing_and_of_large_ids() -> None:
    rows, sums = sparse.coalesce(torch.empty(0, dtype=torch.int32), torch.empty(0, 3), size=9)
    assert rows.dtype == torch.int64 and rows.shape == (0,) and sums.shape == (0, 3)
    rows, _ = sparse.coalesce(torch.tensor([2**40, 3, 2**40]), torch.ones(3, 1))
    assert rows.tolist() == [3, 2**40]


def test_coalesce_does_not_depend_on_threads() -> None:
    ids, grads = random_pairs(50_000, 3_000, 8)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(sparse.coalesce(ids, grads)[1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def slow_adagrad(w: list[float], s: float, g: list[float], lr: float, eps: float) -> tuple[list[float], float]:
    s += sum(x * x for x in g) / len(g)
    return [a - lr * b / (math.sqrt(s) + eps) for a, b in zip(w, g, strict=True)], s


def test_adagrad_against_a_loop() -> None:
    weight = torch.randn(6, 3)
    slow_w, slow_s = weight.double().tolist(), [0.1] * 6
    squares = torch.full((6,), 0.1)
    for step in range(50):
        rows, grads = sparse.coalesce(*random_pairs(4, 6, 3, seed=step))
        sparse.adagrad_(weight, squares, rows, grads, lr=0.1, eps=1e-8)
        for r, g in zip(rows.tolist(), grads.double().tolist(), strict=True):
            slow_w[r], slow_s[r] = slow_adagrad(slow_w[r], slow_s[r], g, 0.1, 1e-8)
    assert torch.allclose(weight.double(), torch.tensor(slow_w, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(squares.double(), torch.tensor(slow_s, dtype=torch.float64), rtol=1e-5)


@pytest.mark.parametrize("b1", [0.9, 0.0])
def test_adam_against_a_loop(b1: float) -> None:
    lr, b2, eps = 0.01, 0.99, 1e-8
    weight = torch.randn(30, 3)
    first, second, last = torch.zeros(30, 3), torch.zeros(30, 3), torch.zeros(30, dtype=torch.int32)
    w, m, v = weight.double().tolist(), [[0.0] * 3 for _ in range(30)], [[0.0] * 3 for _ in range(30)]
    touched = [0] * 30
    for t in range(1, 51):
        rows, grads = sparse.coalesce(*random_pairs(4, 30, 3, seed=t))
        sparse.adam_(weight, first, second, last, rows, grads, step=t, lr=lr, betas=(b1, b2), eps=eps)
        for r, g in zip(rows.tolist(), grads.double().tolist(), strict=True):
            k, touched[r] = t - touched[r], t
            for j in range(3):
                m[r][j] = b1**k * m[r][j] + (1 - b1) * g[j]
                v[r][j] = b2**k * v[r][j] + (1 - b2) * g[j] ** 2
                w[r][j] -= lr * m[r][j] / (1 - b1**t) / (math.sqrt(v[r][j] / (1 - b2**t)) + eps)
    assert last.tolist() == touched
    assert torch.allclose(weight.double(), torch.tensor(w, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(second.double(), torch.tensor(v, dtype=torch.float64), rtol=1e-4)


def test_adam_moments_are_those_of_dense_adam() -> None:
    """Rows come and go; at each touch m and v equal dense Adam's, and with a touch each step the weights do, too."""
    weight = torch.randn(8, 3)
    dense = nn.Parameter(weight.clone())
    adam = torch.optim.Adam([dense], lr=0.01)
    first, second, last = torch.zeros(8, 3), torch.zeros(8, 3), torch.zeros(8, dtype=torch.int32)
    for t in range(1, 41):
        ids, grads = random_pairs(5, 6, 3, seed=t)
        rows, grads = sparse.coalesce(torch.cat([ids, torch.tensor([7])]), torch.cat([grads, grads[:1]]))
        dense.grad = torch.zeros(8, 3).index_copy_(0, rows, grads)
        adam.step()
        sparse.adam_(weight, first, second, last, rows, grads, step=t, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
        state = adam.state[dense]
        assert torch.allclose(first[rows], state["exp_avg"][rows], atol=1e-6)
        assert torch.allclose(second[rows], state["exp_avg_sq"][rows], rtol=1e-4)
    assert torch.allclose(weight[7], dense[7], atol=1e-6)  # touched in each step
    assert torch.equal(weight[6], dense[6])  # never
    assert not torch.allclose(weight[:6], dense[:6], atol=1e-4)  # the documented difference


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@pytest.mark.parametrize(("start", "within"), [(0, None), (100, 2e-3), (700, 1e-4)])
def test_fading_is_dense_adam_without_gradients(eps: float, start: int, within: float | None) -> None:
    """Rows last touched in any step, with gradients from far below eps to far above, and a rate that changes."""
    b1, b2, steps = 0.9, 0.999, 400
    fading = sparse.Fading(start, betas=(b1, b2), eps=eps, device=torch.device("cpu"))
    last = start + torch.arange(steps + 1)
    m = (10.0 ** torch.linspace(-12, 2, 57, dtype=torch.float64)).expand(steps + 1, -1)
    v = (1 - b2) * (m / (1 - b1)).square()  # as one gradient leaves them
    moved = torch.zeros(steps + 1, 57, dtype=torch.float64)
    for t in range(start + 1, start + steps + 1):
        lr = 0.01 * (1 + math.sin(t))
        fading.add(lr)
        k = (t - last).unsqueeze(1)
        step = lr / (1 - b1**t) * b1**k * m / ((v * b2**k / (1 - b2**t)).sqrt() + eps)
        moved += torch.where(k > 0, step, 0.0)
    ours = fading.move(m.float(), v.float(), last.int()).double()
    assert (ours[-1] == 0).all()  # touched in the last step
    away = ((ours - moved) / moved)[1:-1].abs()
    assert away[:, v[0].sqrt() >= 10 * eps].max() < 2e-5
    if within is not None:
        assert away[:, v[0].sqrt() > 1e-15].max() < within  # below, the square is no number of float32
    never = fading.move(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([start], dtype=torch.int32))
    assert torch.equal(never, torch.zeros(1, 2))


def test_decay_over_a_long_absence() -> None:
    first, second = torch.ones(2, 1), torch.ones(2, 1)
    last = torch.tensor([5, 0], dtype=torch.int32)
    rows, grads = torch.tensor([0]), torch.zeros(1, 1)
    sparse.adam_(torch.zeros(2, 1), first, second, last, rows, grads, step=3005, lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    assert float(second[0]) == pytest.approx(0.999**3000, rel=1e-6)
    assert float(first[0]) == pytest.approx(0.9**3000) and float(first[1]) == 1.0


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "adam"])
def test_cost_follows_the_rows_not_the_table(rule: str) -> None:
    size, dim, n = 5_000, 4, 50
    table = RowTable(size, dim)
    table.adopt()
    state = {
        "sgd": {},
        "adagrad": {"squares": torch.zeros(size)},
        "adam": {
            "first": torch.zeros(size, dim), "second": torch.zeros(size, dim), "last": torch.zeros(size).int(),
        },
    }[rule]  # fmt: skip
    options: dict[str, Any] = {
        "sgd": {"lr": 0.1},
        "adagrad": {"lr": 0.1, "eps": 1e-8},
        "adam": {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "step": 1},
    }[rule]  # type: ignore[assignment]
    before = copy.deepcopy(table.weight.data)
    ids = torch.randint(size, (n,))
    with Largest() as largest:
        table(ids).square().sum().backward()
        rows, grads = sparse.coalesce(*table.take(), size=size)
        getattr(sparse, rule + "_")(table.weight.data, **state, rows=rows, grads=grads, **options)
    assert n * dim <= largest.numel <= 2 * n * dim
    changed = (table.weight.data != before).any(1).nonzero().flatten()
    assert changed.tolist() == rows.tolist()


def test_a_copy_or_pickle_of_an_adopted_table_is_a_plain_one() -> None:
    """It belongs to no optimiser: its lookups once were kept in the original, and its like could not be pickled."""
    table = RowTable(5, 2, init_std=1.0)
    table.adopt()
    table(torch.tensor([1]))
    for again in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert not again._lookups and torch.equal(again.weight, table.weight)
        again(torch.tensor([0, 3, 3])).sum().backward()
        assert again.weight.grad.sum(1).tolist() == [2, 0, 0, 4, 0]
    assert len(table._lookups) == 1 and table.adopted
