"""Text classification: which one class does this text belong to?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paddlecore.metric import Accuracy, Mean, Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task


class TextClassification(Task):
    """Cross-entropy of one label a text, summed over the texts.

    Batch: tokens [B, T] int64, padded on the right; label [B] int64.
    Prediction: score [B, C] the logits, probability [B, C], label [B] int64 the most probable class.

    Args:
        model: maps tokens to logits [B, C].
        labels: names of the classes in order, for `render`; None = their numbers.
    """

    def __init__(self, model: nn.Module, labels: list[str] | None = None) -> None:
        super().__init__(model)
        self.labels = labels

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        score = self.model(batch["tokens"]).float()
        label = batch["label"]
        loss = nn.functional.cross_entropy(score, label, reduction="sum")
        right = (score.detach().argmax(1) == label).sum()
        return StepOutput(loss, torch.tensor(len(label)), {"acc": right})

    def predict(self, batch: Batch) -> Prediction:
        score = self.model(batch["tokens"]).float()
        return {"score": score, "probability": score.softmax(1), "label": score.argmax(1)}

    def metrics(self) -> list[Metric]:
        return [Accuracy(), Mean("loss")]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        accuracy, loss = metrics
        score, label = prediction["score"], batch["label"]
        accuracy.update(score, label)
        loss.update(nn.functional.cross_entropy(score, label, reduction="sum"), len(label))

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """label: the class's name; probability: the five most probable classes' names, best first."""
        best = prediction["probability"].topk(min(5, prediction["probability"].shape[1]))
        rows = []
        for label, values, classes in zip(prediction["label"].tolist(), *(t.tolist() for t in best), strict=True):
            named = {self._name(c): round(p, 6) for c, p in zip(classes, values, strict=True)}
            rows.append({"label": self._name(label), "probability": named})
        return rows

    def _name(self, label: int) -> str:
        return str(label) if self.labels is None else self.labels[label]
