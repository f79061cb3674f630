"""The mean negative log likelihood of binary labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric


class LogLoss(Metric):
    """Mean binary cross-entropy in nats, from logits: nothing is clipped, however sure the model is.

    States: two sums.
    """

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"logloss": "min"}
        self.signature = "logloss|binary|nats|from logits"
        self.add_state("total", torch.zeros((), dtype=torch.float64))
        self.add_state("rows", torch.zeros((), dtype=torch.int64))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """`logits` [B] float, `labels` [B], 0 or 1."""
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits.detach().double().cpu(), labels.detach().double().cpu(), reduction="sum"
        )
        self.total += losses
        self.rows += len(labels)

    def compute(self) -> dict[str, float]:
        rows = int(self.rows)
        return {"logloss": float(self.total) / rows if rows else float("nan")}
