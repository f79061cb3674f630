"""Losses over one positive and many sampled columns: a product of queries and items, its gradient in closed form.

Hidasi and Karatzoglou, 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM.

With s_ij = <q_i, v_j> + b_j the score of column j for row i, all of these are a function L of the scores of a row, so
forward can turn the scores into dL/ds where they stand, and backward is two products. Autograd would keep and sweep
several matrices of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TINY = 1e-30  # least value that a logarithm is taken of: a row's loss is at most 69


class _Loss(torch.autograd.Function):
    """sum over rows of L(scores of the row); subclasses write `slope`."""

    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor, *options: float) -> tuple[Tensor, Tensor]:
        """The losses' sum [], and dL/ds [b, C], which may be `scores` itself, overwritten. `positive` is [b, 1]."""
        raise NotImplementedError

    @classmethod
    def forward(
        cls, ctx: Any, query: Tensor, items: Tensor, bias: Tensor, positive: Tensor, hits: Tensor, *options: float
    ) -> Tensor:
        scores = torch.addmm(bias, query, items.t())  # [b, C]
        loss, slope = cls.slope(scores, positive.unsqueeze(1), hits, *options)
        ctx.save_for_backward(query, items, slope)
        ctx.options = len(options)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, items, slope = ctx.saved_tensors
        # the factor goes to the small results, not to [b, C]
        of_query, of_items, of_bias = slope @ items, slope.t() @ query, slope.sum(0)
        return of_query.mul_(grad), of_items.mul_(grad), of_bias.mul_(grad), None, None, *[None] * ctx.options


class _CrossEntropy(_Loss):
    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        scores.view(-1).index_fill_(0, hits, -torch.inf)
        p = torch.softmax(scores, 1, out=scores)
        own = p.gather(1, positive)
        p.scatter_(1, positive, own - 1.0)
        return -own.clamp_(min=_TINY).log_().sum(), p


class _BPRMax(_Loss):
    @staticmethod
    def slope(
        scores: Tensor, positive: Tensor, hits: Tensor, regularisation: float, elu: float
    ) -> tuple[Tensor, Tensor]:
        o = torch.nn.functional.elu(scores, elu) if elu else scores
        own = o.gather(1, positive)
        w = _others(o, positive, hits)
        s = torch.sub(own, o).sigmoid_()
        a = _dot(w, s)  # [b, 1] sum_j w_j sigmoid(o_i - o_j)
        r = _dot(w, o.square()) if regularisation else None
        loss = -a.clamp(min=_TINY).log_().sum()
        # d/do_j = w_j (1 - s_j^2 / a + reg (o_j^2 + 2 o_j - r)), and d/do_i = sum_j w_j s_j^2 / a - 1
        s.square_().mul_(w)  # w_j s_j^2
        a.clamp_(min=_TINY)
        slope_own = (s.sum(1, keepdim=True) / a).sub_(1.0)
        slope = s.div_(a).neg_().add_(w)
        if r is not None:
            loss = loss + regularisation * r.sum()
            slope.addcmul_(w, (o + 2.0).mul_(o).sub_(r), value=regularisation)
        slope.scatter_(1, positive, slope_own)
        if elu:
            slope.mul_(torch.where(scores > 0, 1.0, o + elu))
        return loss, slope


class _TOP1Max(_Loss):
    @staticmethod
    def slope(scores: Tensor, positive: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        own = scores.gather(1, positive)
        w = _others(scores, positive, hits)
        s = torch.sub(scores, own).sigmoid_()
        t = scores.square().sigmoid_()
        u = s + t
        loss = _dot(w, u)
        # d/ds_j = w_j (u_j - loss + s_j (1 - s_j) + 2 o_j t_j (1 - t_j)), and d/do_i = - sum_j w_j s_j (1 - s_j)
        s.addcmul_(s, s, value=-1.0)
        slope_own = -_dot(w, s)
        t.addcmul_(t, t, value=-1.0)
        slope = u.sub_(loss).add_(s).addcmul_(t, scores, value=2.0).mul_(w)
        return loss.sum(), slope.scatter_(1, positive, slope_own)


def _others(scores: Tensor, positive: Tensor, hits: Tensor) -> Tensor:
    """Softmax over the columns that do not hold the row's own item; those that do get 0: [b, C]."""
    w = scores.scatter(1, positive, -torch.inf)
    w.view(-1).index_fill_(0, hits, -torch.inf)
    return torch.softmax(w, 1, out=w)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, [b, C], [b, C] -> [b, 1], without a matrix in between."""
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).squeeze(2)


def sampled_softmax(query: Tensor, items: Tensor, bias: Tensor, positive: Tensor, hits: Tensor) -> Tensor:
    """Cross-entropy of the positive column: -log softmax(s)_i (section 3.2). A sum over rows.

    Args:
        query: [b, d] float32.
        items: [C, d] float32.
        bias: [C] float32.
        positive: [b] int64, the column of each row's own item.
        hits: [n] int64, places row * C + column of other columns that hold the row's own item: left out of the loss.
    """
    loss: Tensor = _CrossEntropy.apply(query, items, bias, positive, hits)
    return loss


def bpr_max(
    query: Tensor,
    items: Tensor,
    bias: Tensor,
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
        query, items, bias, positive, hits: see `sampled_softmax`.
        regularisation: of the scores.
        elu: > 0 puts scores through an ELU of this alpha first: o = s, or elu (exp(s) - 1) for s < 0.
    """
    loss: Tensor = _BPRMax.apply(query, items, bias, positive, hits, regularisation, elu)
    return loss


def top1_max(query: Tensor, items: Tensor, bias: Tensor, positive: Tensor, hits: Tensor) -> Tensor:
    """TOP1-max (section 3.3). A sum over rows of sum_{j != i} w_j (sigmoid(s_j - s_i) + sigmoid(s_j^2)), w as above.

    Args:
        query, items, bias, positive, hits: see `sampled_softmax`. At least one column has to be left.
    """
    loss: Tensor = _TOP1Max.apply(query, items, bias, positive, hits)
    return loss
