"""Pair order rate: how often a relevant item scores higher than another one of the same query."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from paddlecore.metric import Metric


class OrderRate(Metric):
    """The share of (positive, negative) pairs of a query that are in the right order, over all pairs; ties count half.

    That is the complement of the error rate by which search engines compare rankers (pnr = right / wrong pairs gives
    the same order). A query with many pairs counts for as many; a score that is NaN makes its pairs wrong.

    States: two sums. Without any pair the rate is NaN, and a warning says so.
    """

    right: Tensor
    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"order_rate": "max"}
        self.signature = "order_rate|all pairs of a query|ties:half"
        self.add_state("right", torch.zeros((), dtype=torch.float64))
        self.add_state("pairs", torch.zeros((), dtype=torch.int64))

    def update(self, positive: Tensor, negative: Tensor, pair: Tensor) -> None:
        """`positive` [B, 1] and `negative` [B, C] float scores; `pair` [B, C] bool: which pairs there are."""
        right = (positive > negative).double() + 0.5 * (positive == negative).double()
        self.right += (right * pair).sum().cpu()
        self.pairs += pair.sum().cpu()

    def compute(self) -> dict[str, float]:
        if not self.pairs:
            warnings.warn("order_rate: not defined, there is no pair to order", RuntimeWarning, stacklevel=2)
        return {"order_rate": float(self.right) / int(self.pairs) if self.pairs else float("nan")}
