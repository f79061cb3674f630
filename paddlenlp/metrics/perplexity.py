"""Perplexity: exp of the mean negative log-likelihood of a token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paddlecore.metric import Metric


class Perplexity(Metric):
    """exp(sum of -log P(token) / tokens). States: two numbers.

    Args:
        unit: what is counted, for the signature, e.g. `piece` or `word`.
        name: of the number.
    """

    total: Tensor
    count: Tensor

    def __init__(self, unit: str = "piece", name: str = "perplexity") -> None:
        super().__init__()
        self.goals = {name: "min"}
        self.signature = f"{name}|per {unit}, end token included"
        self.add_state("total", torch.zeros((), dtype=torch.float64))
        self.add_state("count", torch.zeros((), dtype=torch.float64))

    def update(self, total: Tensor, count: Tensor | float) -> None:
        """Add the sum `total` [] of -log P over `count` tokens, natural logarithm."""
        self.total += total.detach().double().cpu()
        self.count += float(count)

    def compute(self) -> dict[str, float]:
        """Infinite where the mean is too large for a float."""
        mean = float(self.total / self.count) if self.count else math.nan
        return {name: math.exp(mean) if not mean > 700 else math.inf for name in self.goals}
