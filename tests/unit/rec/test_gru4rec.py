"""GRU4Rec against transcriptions of its papers: cells, losses, session-parallel steps; samples against their law."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from paddlecore.errors import DataError
from paddlerec.data.session_parallel import SessionPlan, SessionStreams
from paddlerec.layers import sampled_losses
from paddlerec.layers.gru import gru_cell
from paddlerec.layers.sampled_losses import bpr_max, sampled_softmax, top1_max
from paddlerec.models import GRU4Rec
from paddlerec.tasks import SessionParallel

# ------------------------------------------------------------------------------------------------ losses


def plain(kind: str, scores: Tensor, positive: list[int], gone: list[list[int]], reg: float, elu: float) -> Tensor:
    """The equations, row by row and column by column; `gone` are the columns that a row leaves out."""
    total = torch.zeros((), dtype=scores.dtype)
    for row, i, out in zip(scores, positive, gone, strict=True):
        if elu:
            row = torch.where(row > 0, row, elu * (row.exp() - 1))
        others = [j for j in range(len(row)) if j != i and j not in out]
        if kind == "cross-entropy":
            total = total - row[i] + torch.logsumexp(row[[i, *others]], 0)
            continue
        w = row[others].exp() / row[others].exp().sum()
        o = row[others]
        if kind == "bpr-max":
            total = total - torch.log((w * torch.sigmoid(row[i] - o)).sum()) + reg * (w * o**2).sum()
        else:
            total = total + (w * (torch.sigmoid(o - row[i]) + torch.sigmoid(o**2))).sum()
    return total


@pytest.mark.parametrize(
    ("kind", "reg", "elu"),
    [("cross-entropy", 0.0, 0.0), ("bpr-max", 0.0, 0.0), ("bpr-max", 0.9, 0.0), ("bpr-max", 0.9, 0.5),
     ("top1-max", 0.0, 0.0)],
)  # fmt: skip
@pytest.mark.parametrize("block", [1 << 17, 20, 1])  # all rows together, two at a time, one at a time
def test_losses_and_gradients_are_those_of_the_equations(
    kind: str, reg: float, elu: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    monkeypatch.setattr(sampled_losses, "_BLOCK", block)
    query, items, offset = torch.randn(5, 4).double(), torch.randn(9, 5).double(), torch.randn(9).double()
    positive, gone = [1, 0, 2, 3, 4], [[7], [], [5, 8], [], []]
    hits = torch.tensor([9 * row + column for row, columns in enumerate(gone) for column in columns])
    grads = []
    for own in (True, False):
        leaves = [t.clone().requires_grad_() for t in (query, items)]
        if own:
            arguments = (*leaves, offset, torch.tensor(positive), hits)
            loss = {
                "cross-entropy": lambda a=arguments: sampled_softmax(*a),
                "bpr-max": lambda a=arguments: bpr_max(*a, regularisation=reg, elu=elu),
                "top1-max": lambda a=arguments: top1_max(*a),
            }[kind]()
        else:
            loss = plain(kind, leaves[0] @ leaves[1][:, :-1].t() + leaves[1][:, -1] + offset, positive, gone, reg, elu)
        (3.0 * loss).backward()
        grads.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", [sampled_softmax, bpr_max, top1_max])
def test_losses_stay_finite_where_scores_are_huge(loss: object) -> None:
    query = torch.full((2, 1), 1e3, requires_grad=True)
    items = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = loss(query, items, None, torch.tensor([0, 1]), torch.empty(0, dtype=torch.int64))
    value.backward()
    assert value.isfinite() and query.grad.isfinite().all() and items.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------ batches


def streams(lengths: list[int], **options: object) -> SessionStreams:
    """Sessions of the given lengths whose clicks are all different, so that a click says where it is from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    given = {"slots": 3, "samples": 5, "alpha": 0.5, "seed": 1, "num_items": int(offsets[-1]) + 1, **options}
    return SessionStreams(1 + np.arange(offsets[-1]), offsets, **given)


LENGTHS = [4, 2, 1, 3, 7, 2, 5, 2, 3, 4]  # 23 events, one session without any


def test_a_slot_reads_sessions_one_click_after_the_other() -> None:
    rows = streams(LENGTHS)
    plan = SessionPlan(rows)
    assert plan.steps(0) == 7 and len(rows) == 23 and plan.size == 21
    ends = set(np.cumsum(LENGTHS).tolist())  # the last click of each session
    begins = {1, *(end + 1 for end in ends)}
    seen: list[list[tuple[int, int]]] = []
    for epoch in range(3):
        events, last = [], [0, 0, 0]
        for step in range(plan.steps(epoch)):
            batch = rows.fetch(plan.rows(epoch, step), epoch)
            clicks, targets = batch["history"][:, 0].tolist(), batch["target"].tolist()
            assert batch["slot"].tolist() == [0, 1, 2]
            assert batch["candidates"][:3].tolist() == targets
            for slot, (click, target) in enumerate(zip(clicks, targets, strict=True)):
                assert target == click + 1 and click not in ends
                # the state is kept exactly where the click is the target of the step before
                assert bool(batch["first"][slot]) == (step == 0 or click in begins)
                if not batch["first"][slot]:
                    assert click == last[slot]
            last = targets
            events += list(zip(clicks, targets, strict=True))
        assert len(set(events)) == 21  # no event twice
        seen.append(events)
    assert seen[0] != seen[1] != seen[2]
    assert len({e for events in seen for e in events}) == 23  # what one epoch leaves out, another has


def test_any_piece_of_any_step_can_be_made_at_once() -> None:
    """A batch depends on (seed, epoch, step) only: not on what was fetched before, nor on the piece."""
    rows, fresh = streams(LENGTHS), streams(LENGTHS)
    plan = SessionPlan(rows)
    for epoch in range(2):
        for step in range(plan.steps(epoch)):
            rows.fetch(plan.rows(epoch, step), epoch)
    whole, piece = rows.fetch(plan.rows(1, 4), 1), fresh.fetch(plan.rows(1, 4)[1:], 1)
    assert torch.equal(whole["candidates"], piece["candidates"])
    for name in ("history", "target", "slot", "first"):
        assert torch.equal(whole[name][1:], piece[name])
    other = streams(LENGTHS, seed=2).fetch(plan.rows(1, 4), 1)
    assert not torch.equal(whole["candidates"], other["candidates"])


def test_hits_are_the_other_columns_with_the_rows_own_item() -> None:
    clicks = np.array([1, 2, 3, 2, 2, 1, 2, 3, 2, 1, 2, 3])
    rows = SessionStreams(clicks, np.array([0, 4, 8, 12]), num_items=4, slots=4, samples=12, alpha=1.0, seed=1)
    plan = SessionPlan(rows)
    for piece in (slice(0, 4), slice(1, 3), slice(3, 4)):
        batch = rows.fetch(plan.rows(0, 1)[piece], 0)
        wanted = [
            row * 16 + column
            for row, (target, own) in enumerate(zip(batch["target"].tolist(), batch["slot"].tolist(), strict=True))
            for column, item in enumerate(batch["candidates"].tolist())
            if item == target and column != own
        ]
        assert sorted(batch["hits"].tolist()) == wanted and wanted


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_counts_to_the_power_alpha(alpha: float) -> None:
    random = np.random.default_rng(0)
    clicks = 1 + np.minimum(random.geometric(0.15, 4000) - 1, 19)
    rows = SessionStreams(clicks, np.arange(0, 4001, 4), num_items=25, slots=10, samples=200, alpha=alpha, seed=5)
    plan = SessionPlan(rows)
    drawn = Counter[int]()
    for step in range(100):
        drawn.update(rows.fetch(plan.rows(0, step), 0)["candidates"][10:].tolist())
    counts = np.bincount(clicks, minlength=25)
    expected = counts.astype(float) ** alpha
    expected[0] = 0.0  # padding
    expected *= 20_000 / expected.sum()
    there = expected > 0
    assert not any(drawn[i] for i in np.flatnonzero(~there))
    found = np.array([drawn[i] for i in np.flatnonzero(there)])
    assert stats.chisquare(found, expected[there]).pvalue > 0.01
    # log_q: how often each is to be expected among the candidates
    targets = np.bincount(clicks.reshape(-1, 4)[:, 1:].ravel(), minlength=25) / 3000
    np.testing.assert_allclose(np.exp(rows.log_q[there]), (10 * targets + expected / 100)[there], rtol=1e-5)


def test_too_few_events_for_the_slots() -> None:
    with pytest.raises(DataError, match="batch_size=30 exceeds the 23 events"):
        streams(LENGTHS, slots=30)


# ------------------------------------------------------------------------------------------------ model and task


def gru(cell: torch.nn.GRUCell, x: Tensor, h: Tensor) -> Tensor:
    """2016, eq. 1-4, with the reset gate behind the product, as in the authors' code."""
    (xr, xz, xn), (hr, hz, hn) = (
        (cell.weight_ih @ x + cell.bias_ih).chunk(3),
        (cell.weight_hh @ h + cell.bias_hh).chunk(3),
    )
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return (1 - z) * torch.tanh(xn + r * hn) + z * h


def walked(model: GRU4Rec, items: list[int]) -> Tensor:
    """One session, click by click -> the last layer's state."""
    states = [torch.zeros(width) for width in model.widths]
    for item in items:
        x = model.items.weight[item, :-1] if model.clicks is None else model.clicks.weight[item]
        for layer, cell in enumerate(model.cells):
            x = states[layer] = gru(cell, x, states[layer])
    return states[-1]


def test_the_cell_and_its_gradients_are_those_of_torch() -> None:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(3, 4).double()
    grads = []
    for step in (lambda x, h: gru_cell(cell, x, h), cell):
        cell.zero_grad()
        x, h = torch.randn(5, 3, dtype=torch.double), torch.randn(5, 4, dtype=torch.double)
        x, h = (t.copy_(torch.linspace(-1, 1, t.numel()).view_as(t)).requires_grad_() for t in (x, h))
        out = step(x, h)
        (out * torch.arange(20.0).view(5, 4)).sum().backward()
        grads.append([out, x.grad, h.grad, *(p.grad.clone() for p in cell.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("layers", [[5], [6, 4]])
def test_a_history_is_read_click_by_click(shared: bool, layers: list[int]) -> None:
    torch.manual_seed(0)
    model = GRU4Rec(num_items=12, layers=layers, shared=shared)
    history = torch.tensor([[3, 4, 3], [7, 0, 0], [0, 0, 0]])
    query = model.encode(history)
    torch.testing.assert_close(query[0], walked(model, [3, 4, 3]))
    torch.testing.assert_close(query[1], walked(model, [7]))
    assert not query[2].any()
    assert model.item_vectors().shape == (12, layers[-1]) and model.item_bias().shape == (12,)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("loss", "logq"), [("cross-entropy", 0.0), ("cross-entropy", 1.0), ("bpr-max", 0.0), ("top1-max", 0.0)]
)
def test_session_parallel_training_is_that_of_single_sessions(shared: bool, loss: str, logq: float) -> None:
    """Steps of the task against sessions walked one by one with frozen weights: states carried, and reset in time."""
    torch.manual_seed(0)
    rows = streams(LENGTHS)
    plan = SessionPlan(rows)
    task = SessionParallel(
        GRU4Rec(num_items=34, layers=[6, 4], shared=shared), slots=3, loss=loss, logq=logq, regularisation=0.5, elu=0.5
    )
    model = task.model
    read: list[list[int]] = [[], [], []]
    for epoch in range(2):
        for step in range(plan.steps(epoch)):
            batch = rows.fetch(plan.rows(epoch, step), epoch)
            for slot, first in enumerate(batch["first"].tolist()):
                read[slot] = [*([] if first else read[slot]), int(batch["history"][slot, 0])]
            out = task(batch)
            query = torch.stack([walked(model, items) for items in read])
            scores = query @ model.item_vectors()[batch["candidates"]].t() + model.item_bias()[batch["candidates"]]
            gone = [[] for _ in read]
            for place in batch["hits"].tolist():
                gone[place // 8].append(place % 8)
            wanted = plain(loss, scores - logq * batch["log_q"], [0, 1, 2], gone, 0.5, 0.5 if loss == "bpr-max" else 0)
            assert out.loss_sum.item() == pytest.approx(wanted.item(), rel=1e-4)
            torch.testing.assert_close(task.state[:, -4:], query.detach())


def test_a_corrected_sampled_softmax_has_the_gradient_of_the_full_one() -> None:
    """With logq = 1 and many samples, the loss minus its constant is that over all items."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    clicks = 1 + np.minimum(random.geometric(0.15, 4000) - 1, 19)
    rows = SessionStreams(clicks, np.arange(0, 4001, 4), num_items=21, slots=4, samples=20_000, alpha=0.5, seed=5)
    batch = rows.fetch(SessionPlan(rows).rows(0, 0), 0)
    query, items = torch.randn(4, 3), torch.randn(21, 3)
    own = items[batch["candidates"]]
    full = torch.logsumexp(query @ items[1:].t(), 1)
    estimate = torch.logsumexp(query @ own.t() - torch.from_numpy(rows.log_q)[batch["candidates"]], 1)
    torch.testing.assert_close(estimate, full, rtol=0.0, atol=0.03)
    assert math.isfinite(float(full.sum()))


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="layers"):
        GRU4Rec(num_items=10, layers=[])
    with pytest.raises(ValueError, match=r"task\.loss"):
        SessionParallel(GRU4Rec(num_items=10), slots=2, loss="bpr")


@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max", "top1-max"])
def test_under_autocast_a_step_is_that_of_float32(loss: str) -> None:
    """Elsewhere the products would be bfloat16 beside float32 states and gradients, which do not go together."""
    torch.manual_seed(1)
    task = SessionParallel(GRU4Rec(num_items=9, layers=[5, 4]), slots=2, loss=loss, logq=1.0)
    batch = {
        "history": torch.tensor([[1], [2]]), "slot": torch.arange(2), "first": torch.tensor([True, False]),
        "candidates": torch.tensor([3, 4, 5, 3]), "log_q": torch.rand(4), "hits": torch.tensor([3]),
    }  # fmt: skip
    found = []
    for enabled in (False, True):
        task.state.fill_(0.5)
        task.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = task(batch)
        out.loss_sum.backward()
        found.append([out.loss_sum.detach(), task.state.clone(), *(p.grad for p in task.parameters())])
    torch.testing.assert_close(found[1], found[0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert task.eval().predict({"history": torch.tensor([[1, 2, 0]])})["query"].dtype == torch.float32
