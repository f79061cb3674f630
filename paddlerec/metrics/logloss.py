"""The mean negative log likelihood of binary labels."""

from __future__ import annotations

from torch import Tensor, nn

from paddlecore.metric import Mean


class LogLoss(Mean):
    """Mean binary cross-entropy in nats, from logits: nothing is clipped, however sure the model is.

    States: two sums.
    """

    def __init__(self) -> None:
        super().__init__("logloss")
        self.signature = "logloss|binary|nats|from logits"

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """`logits` [B] float, `labels` [B], 0 or 1."""
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits.detach().double().cpu(), labels.detach().double().cpu(), reduction="sum"
        )
        super().update(losses, len(labels))
