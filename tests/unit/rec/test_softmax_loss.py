"""The softmax loss without scores against PyTorch's own with them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from paddlerec.layers import softmax, softmax_loss


def both(dtype: torch.dtype, bias: bool, autocast: bool = False) -> list[list[torch.Tensor]]:
    """Loss and gradients, ours and theirs; the loss is weighted, so that the gradient of the loss is not 1."""
    torch.manual_seed(2)
    start = [torch.randn(37, 12), torch.randn(50, 12), *([torch.randn(50)] if bias else [])]
    target = torch.randint(1, 50, (37,))
    target[:5] = 7  # the same item again
    found = []
    for ours in (True, False):
        tensors = [t.to(dtype).requires_grad_() for t in start]
        queries, items, *rest = tensors
        if ours:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = softmax_loss(queries, items, target, bias=rest[0] if bias else None)
        else:
            scores = queries @ items.T + (rest[0] if bias else 0.0)
            loss = cross_entropy(scores[:, 1:], target - 1, reduction="sum")
        (0.3 * loss).backward()
        found.append([loss.detach(), *(t.grad for t in tensors)])
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 1000])
def test_loss_and_gradients_are_those_of_cross_entropy(bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "_SCORES", rows * 49)  # rows of the batch at a time
    for ours, theirs in zip(*both(torch.float64, bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*both(torch.float32, bias), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=2e-6)


def test_padding_gets_no_gradient_and_large_scores_do_not_overflow() -> None:
    queries = torch.tensor([[300.0, 0.0], [0.0, -300.0]], requires_grad=True)
    items = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], requires_grad=True)
    loss = softmax_loss(queries, items, torch.tensor([2, 3]))
    loss.backward()
    assert float(loss) == pytest.approx(300.0)
    assert not items.grad[0].any() and items.grad.isfinite().all()


def test_in_bfloat16_it_stays_near() -> None:
    (loss, *ours), (expected, *theirs) = both(torch.float32, True, autocast=True)
    assert float(loss) == pytest.approx(float(expected), rel=1e-3) and loss.dtype == torch.float32
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32 and float((a - b).norm() / b.norm()) < 0.01


@pytest.mark.parametrize("target", [0, 4, -1])
def test_a_target_that_is_no_item_is_refused(target: int) -> None:
    with pytest.raises(IndexError, match=r"1\.\.3"):
        softmax_loss(torch.randn(1, 2), torch.randn(4, 2), torch.tensor([target]))


def test_parts_that_need_no_gradient_get_none() -> None:
    queries, items = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2)
    softmax_loss(queries, items, torch.tensor([1, 2, 3])).backward()
    assert queries.grad is not None and items.grad is None
    assert float(softmax_loss(torch.empty(0, 2), items, torch.empty(0, dtype=torch.int64))) == 0.0
