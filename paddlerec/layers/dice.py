"""Dice: an activation that follows the distribution of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s, p = sigmoid((s - E[s]) / sqrt(Var[s] + eps)), for each unit on its own.

    Zhou et al., 2018, "Deep Interest Network for Click-Through Rate Prediction", KDD, eq. 9. Mean and variance are
    those of the batch in training and their running averages afterwards, as in batch norm, which is what computes
    them: over all ranks, too. alpha starts at 0 and is learned.

    Args:
        units: width.
        eps: the paper's is 1e-8.

    Shapes: [n, units] -> [n, units]. In training n must be at least 2.
    """

    def __init__(self, units: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(units, eps=eps, affine=False)
        self.alpha = nn.Parameter(torch.zeros(units))

    def forward(self, s: Tensor) -> Tensor:
        p = self.norm(s).sigmoid()
        return s * (p + (1 - p) * self.alpha)
