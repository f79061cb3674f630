"""Image classification: which one class does this image show?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Classification, Prediction
from paddlecv.metrics.confusion import ConfusionMatrix
from paddlecv.tasks.vision import VisionTask, scales_of, views


class ImageClassification(Classification, VisionTask):
    """Cross-entropy of one label an image: image [B, channels, H, W] float32, label [B] int64.

    Where the classes have names, `eval report=<folder>` draws which are taken for which.

    With `flip` or `scales`, probabilities are means over those views of an image (Simonyan, Zisserman, 2015, "Very Deep
    Convolutional Networks", section 3.2), and scores their logarithms.

    Args:
        model: image -> logits [B, C]; `scales` needs one that takes other sizes.
        flip: in evaluation, average over the image and its mirror image.
        scales: in evaluation, average over these factors of size.
        **options: see `Classification`.
    """

    input = "image"

    def __init__(
        self, model: nn.Module, *, flip: bool = False, scales: Sequence[float] = (1.0,), **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.flip, self.scales = flip, scales_of(scales)

    def predict(self, batch: Batch) -> Prediction:
        if self.scales == (1.0,) and not self.flip:
            return super().predict(batch)
        found = [self.model(view).float().log_softmax(1) for view, _ in views(batch["image"], self.scales, self.flip)]
        score = torch.stack(found).logsumexp(0) - math.log(len(found))
        return {"score": score, "probability": score.softmax(1), "label": score.argmax(1)}

    def metrics(self) -> list[Metric]:
        return super().metrics() + ([ConfusionMatrix(len(self.labels), self.labels)] if self.labels else [])

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        super().measure(metrics[:2], prediction, batch)
        for matrix in metrics[2:]:
            matrix.update(prediction["label"], batch["label"])
