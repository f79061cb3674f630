"""Image classification: which one class does this image show?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paddlecore.metric import Accuracy, Mean, Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task


class ImageClassification(Task):
    """Cross-entropy of one label an image, summed over the images.

    Batch: image [B, channels, H, W] float32, label [B] int64.
    Prediction: score [B, C] the logits, probability [B, C], label [B] int64 the most probable class.

    Args:
        model: maps images to logits [B, C].
        labels: names of the classes in order, for `render`; None = their numbers.
        label_smoothing: share of the target that is spread evenly over all classes, in training only (Szegedy et al.,
            2016, "Rethinking the Inception Architecture for Computer Vision", section 7).
        top_k: an image counts as right in `acc@k` if its class is among the k best; the first one selects the
            checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        label_smoothing: float = 0.0,
        top_k: list[int] | tuple[int, ...] = (1,),
    ) -> None:
        super().__init__(model)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        if not top_k or min(top_k) < 1 or len(set(top_k)) != len(top_k):
            raise ValueError(f"task.top_k must be different positive numbers, got {list(top_k)}")
        self.labels, self.label_smoothing, self.top_k = labels, label_smoothing, tuple(top_k)

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        score = self.model(batch["image"]).float()
        label = batch["label"]
        loss = nn.functional.cross_entropy(score, label, reduction="sum", label_smoothing=self.label_smoothing)
        right = (score.detach().argmax(1) == label).sum()
        return StepOutput(loss, torch.tensor(len(label)), {"acc": right})

    def predict(self, batch: Batch) -> Prediction:
        score = self.model(batch["image"]).float()
        return {"score": score, "probability": score.softmax(1), "label": score.argmax(1)}

    def metrics(self) -> list[Metric]:
        return [Accuracy(self.top_k), Mean("loss")]

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
