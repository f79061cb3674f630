"""Text classification: which one class does this text belong to?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Classification, Prediction
from paddlenlp.metrics import MacroF1


class TextClassification(Classification):
    """Cross-entropy of one label a text: tokens [B, T] int64, padded on the right; label [B] int64.

    Args:
        model: tokens -> logits [B, C].
        labels: see `Classification`.
        f1: also measure macro F1; with train.best_metric=f1 it selects the checkpoint.
        **options: see `Classification`.
    """

    input = "tokens"

    def __init__(self, model: nn.Module, labels: list[str] | None = None, *, f1: bool = False, **options: Any) -> None:
        super().__init__(model, labels, **options)
        if f1 and not labels:
            raise ConfigError("task.f1 is a mean over the classes: give task.labels, as data modules do")
        self.f1 = f1

    def metrics(self) -> list[Metric]:
        return super().metrics() + ([MacroF1(len(self.labels))] if self.f1 and self.labels else [])

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        super().measure(metrics[:2], prediction, batch)
        for f1 in metrics[2:]:
            f1.update(prediction["label"], batch["label"])
