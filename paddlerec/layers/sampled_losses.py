"""Losses over one positive and many sampled columns: a product of queries and items, its gradient in closed form.

Hidasi and Karatzoglou, 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM.

All of them are float32, also under autocast. With s_ij = <q_i, v_j> + b_j the score of column j for row i, each is a
function L of the scores of a row, so forward can turn the scores into dL/ds where they stand, and backward is two
products. Autograd would keep and sweep several matrices of that size. On a CPU that is done for a few rows at a time,
whose intermediate values stay in cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TINY = 1e-30  # least value that a logarithm is taken of: a row's loss is at most 69
_BLOCK = 1 << 17  # scores looked at together on a CPU: half a MiB


class _Loss(torch.autograd.Function):
    """sum over rows of L(scores of the row); subclasses write `slope`."""

    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor, *options: float) -> Tensor:
        """Each row's loss [b, 1]; `scores` [b, C] becomes dL/ds. `positive` is [b, 1], `hits` places in `scores`."""
        raise NotImplementedError

    @classmethod
    def forward(
        cls,
        ctx: Any,
        query: Tensor,
        items: Tensor,
        offset: Tensor | None,
        positive: Tensor,
        hits: Tensor,
        *options: float,
    ) -> Tensor:
        vectors, bias = items[:, :-1], items[:, -1]
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.addmm(bias if offset is None else bias + offset, query, vectors.t())  # [b, C]
        rows, columns = scores.shape
        positive = positive.unsqueeze(1)
        height = max(1, _BLOCK // columns) if scores.device.type == "cpu" else rows
        if rows <= height:
            loss = cls.slope(scores, positive, hits, *options).sum()
        else:
            starts = range(0, rows, height)
            edges = torch.searchsorted(hits, torch.tensor([*starts, rows]) * columns).tolist()
            blocks = zip(scores.split(height), positive.split(height), edges, edges[1:], starts, strict=False)
            losses = [
                cls.slope(part, own, hits[low:high] - first * columns, *options)
                for part, own, low, high, first in blocks
            ]
            loss = torch.cat(losses).sum()
        ctx.save_for_backward(query, vectors, scores)
        ctx.options = len(options)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, vectors, slope = ctx.saved_tensors
        # a column of ones gives the biases' gradient; the factor goes to the small results, not to [b, C]
        query_and_one = torch.cat([query, query.new_ones(len(query), 1)], 1)
        of_query, of_items = slope @ vectors, slope.t() @ query_and_one
        return of_query.mul_(grad), of_items.mul_(grad), None, None, None, *[None] * ctx.options


class _CrossEntropy(_Loss):
    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor, *_: float) -> Tensor:
        scores.view(-1).index_fill_(0, hits, -torch.inf)
        p = torch.softmax(scores, 1, out=scores)
        own = p.gather(1, positive)
        p.scatter_(1, positive, own - 1.0)
        return own.clamp_(min=_TINY).log_().neg_()


class _BPRMax(_Loss):
    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor, *options: float) -> Tensor:
        regularisation, elu = options
        o = _elu_(scores, elu) if elu else scores
        own = o.gather(1, positive)
        w = _others(o, positive, hits)
        s = torch.sub(own, o).sigmoid_()
        x = w * s
        a = x.sum(1, keepdim=True).clamp_(min=_TINY)  # sum_j w_j sigmoid(o_i - o_j)
        loss = -a.log()
        x.mul_(s)  # w_j s_j^2
        # d/do_j = w_j (1 - s_j^2 / a + reg (o_j^2 + 2 o_j - r)), and d/do_i = sum_j w_j s_j^2 / a - 1
        slope_own = (x.sum(1, keepdim=True) / a).sub_(1.0)
        if regularisation:
            y = torch.mul(w, o, out=s)
            r = (z := y * o).sum(1, keepdim=True)
            loss += regularisation * r
            w.mul_(1.0 - regularisation * r).add_(z, alpha=regularisation).add_(y, alpha=2 * regularisation)
        w.addcdiv_(x, a, value=-1.0)
        if elu:
            slope_own.mul_(torch.where(own > 0, 1.0, own + elu))
            torch.ops.aten.elu_backward.grad_input(w, elu, 1.0, 1.0, True, o, grad_input=scores)
        else:
            scores.copy_(w)
        scores.scatter_(1, positive, slope_own)
        return loss


class _TOP1Max(_Loss):
    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor, *_: float) -> Tensor:
        own = scores.gather(1, positive)
        w = _others(scores, positive, hits)
        s = torch.sub(scores, own).sigmoid_()
        t = scores.square().sigmoid_()
        u = s + t
        loss = (w * u).sum(1, keepdim=True)
        # d/ds_j = w_j (u_j - loss + s_j (1 - s_j) + 2 o_j t_j (1 - t_j)), and d/do_i = - sum_j w_j s_j (1 - s_j)
        s.addcmul_(s, s, value=-1.0)
        slope_own = -(w * s).sum(1, keepdim=True)
        t.addcmul_(t, t, value=-1.0)
        torch.mul(u.sub_(loss).add_(s).addcmul_(t, scores, value=2.0), w, out=scores)
        scores.scatter_(1, positive, slope_own)
        return loss


def _elu_(scores: Tensor, alpha: float) -> Tensor:
    """In place. torch's own is a slow expm1 on a CPU; that the sum here is exact to 1e-7 only does not matter."""
    below = scores.clamp(max=0.0).exp_()
    return scores.clamp_(min=0.0).add_(below, alpha=alpha).sub_(alpha)


def _others(scores: Tensor, positive: Tensor, hits: Tensor) -> Tensor:
    """Softmax over the columns that do not hold the row's own item; those that do get 0: [b, C].

    In `scores` these columns become 0, which with a weight of 0 counts for nothing.
    """
    scores.scatter_(1, positive, -torch.inf).view(-1).index_fill_(0, hits, -torch.inf)
    w = torch.softmax(scores, 1)
    scores.scatter_(1, positive, 0.0).view(-1).index_fill_(0, hits, 0.0)
    return w


def sampled_softmax(query: Tensor, items: Tensor, offset: Tensor | None, positive: Tensor, hits: Tensor) -> Tensor:
    """Cross-entropy of the positive column: -log softmax(s)_i (section 3.2). A sum over rows.

    Args:
        query: [b, d] float32.
        items: [C, d + 1] float32, vectors and, in the last column, biases.
        offset: [C] float32, added to the biases, or None.
        positive: [b] int64, the column of each row's own item.
        hits: [n] int64, ascending: places row * C + column of other columns that hold the row's own item. They are left
            out of the loss.
    """
    loss: Tensor = _CrossEntropy.apply(query, items, offset, positive, hits)
    return loss


def bpr_max(
    query: Tensor,
    items: Tensor,
    offset: Tensor | None,
    positive: Tensor,
    hits: Tensor,
    *,
    regularisation: float = 1.0,
    elu: float = 0.0,
) -> Tensor:
    """BPR-max (section 3.3, with the regularisation of section 3.3.3). A sum over rows of

    -log sum_{j != i} w_j sigmoid(o_i - o_j) + regularisation sum_{j != i} w_j o_j^2,

    w the softmax over the columns other than the positive one. At least one column has to be left.

    Args:
        query, items, offset, positive, hits: see `sampled_softmax`.
        regularisation: of the scores.
        elu: > 0 puts scores through an ELU of this alpha first: o = s, or elu (exp(s) - 1) for s < 0.
    """
    loss: Tensor = _BPRMax.apply(query, items, offset, positive, hits, regularisation, elu)
    return loss


def top1_max(query: Tensor, items: Tensor, offset: Tensor | None, positive: Tensor, hits: Tensor) -> Tensor:
    """TOP1-max (section 3.3). A sum over rows of sum_{j != i} w_j (sigmoid(s_j - s_i) + sigmoid(s_j^2)), w as above.

    Args:
        query, items, offset, positive, hits: see `sampled_softmax`. At least one column has to be left.
    """
    loss: Tensor = _TOP1Max.apply(query, items, offset, positive, hits)
    return loss
