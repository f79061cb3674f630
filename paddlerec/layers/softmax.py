"""Softmax cross-entropy over all items, without keeping a score."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SCORES = 4_000_000  # scores at a time on a CPU, so that all passes over them find them in the cache


def softmax_loss(queries: Tensor, items: Tensor, target: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """sum_b -log softmax(q_b . v_1 + c_1, ..., q_b . v_N-1 + c_N-1) at target b; item 0 is padding and no candidate.

    The same as `cross_entropy` of the [B, N] scores and their gradient, which is known in closed form
    (dL/ds = softmax(s) - one hot). Both are made in one go over slices of the batch: scores are written once, turned
    into exp(s - max) in place and read by the two products of the gradient; softmax's division is done on their small
    results. So the memory is that of one slice, whatever the size of the batch.

    Under autocast the products run in its type and exponentials are stored in it; their sums, the scores of the
    targets and the results are float32.

    Args:
        queries: [B, d].
        items: [N, d], row 0 included.
        target: [B] int64, in 1..N-1.
        bias: [N].

    Returns:
        [], the sum of the losses. It can be differentiated once.

    Raises:
        IndexError: a target that is no item. (On a GPU, to look would be to wait for it.)
    """
    kind = queries.device.type
    if kind == "cpu" and len(target) and not 1 <= int(target.min()) <= int(target.max()) < len(items):
        raise IndexError(f"targets must be items, 1..{len(items) - 1}; got {int(target.min())}..{int(target.max())}")
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else items.dtype
    loss: Tensor = _SoftmaxLoss.apply(queries, items, target, bias, dtype)
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, items: Tensor, target: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            wide = torch.promote_types(items.dtype, torch.float32)
            loss, d_queries, d_items, d_bias = _loss_and_gradient(queries.to(wide), items, target, bias, dtype)
        ctx.save_for_backward(d_queries, d_items, d_bias)
        ctx.dtype = queries.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_queries, d_items, d_bias = ctx.saved_tensors
        queries, items, _, bias, _ = ctx.needs_input_grad
        return (
            (d_queries * grad).to(ctx.dtype) if queries else None,
            d_items * grad if items else None,
            None,
            d_bias * grad if bias else None,
            None,
        )


def _loss_and_gradient(
    queries: Tensor, items: Tensor, target: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss [] and its gradients by queries [B, d], items [N, d] and bias [N]."""
    loss = queries.new_zeros(())
    d_queries, d_items = torch.empty_like(queries), torch.zeros_like(items)
    d_bias = None if bias is None else torch.zeros_like(bias)
    answers = items[target]  # [B, d]
    own = (queries * answers).sum(1) if bias is None else (queries * answers).sum(1) + bias[target]  # [B]
    candidates = items[1:].to(dtype)
    rows = max(1, (_SCORES if queries.device.type == "cpu" else 50 * _SCORES) // max(1, len(candidates)))
    buffer = candidates.new_empty(min(rows, len(queries)), len(candidates))  # new memory for each slice costs more
    for start in range(0, len(queries), rows):
        q = queries[start : start + rows]  # [b, d]
        scores = torch.mm(q.to(dtype), candidates.T, out=buffer[: len(q)])  # [b, N - 1]
        if bias is not None:
            scores += bias[1:].to(dtype)
        top = scores.amax(1, keepdim=True)
        weights = scores.sub_(top).exp_()
        total = weights.sum(1, dtype=queries.dtype).unsqueeze(1)  # [b, 1]
        loss += (total.log() + top).sum()
        d_queries[start : start + rows] = (weights @ candidates) / total
        d_items[1:] += weights.T @ (q / total).to(dtype)
        if d_bias is not None:
            d_bias[1:] += (weights.T @ (1.0 / total).to(dtype)).squeeze(1)
    loss -= own.sum()
    d_queries -= answers
    d_items.index_add_(0, target, queries.to(items.dtype), alpha=-1.0)
    if d_bias is not None:
        d_bias.index_add_(0, target, torch.ones_like(own, dtype=d_bias.dtype), alpha=-1.0)
    return loss, d_queries, d_items, d_bias
