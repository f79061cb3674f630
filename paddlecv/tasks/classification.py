"""Image classification: which one class does this image show?"""

from __future__ import annotations

from collections.abc import Sequence

from paddlecore.metric import Metric
from paddlecore.task import Batch, Classification, Prediction
from paddlecv.metrics.confusion import ConfusionMatrix
from paddlecv.tasks.vision import VisionTask


class ImageClassification(Classification, VisionTask):
    """Cross-entropy of one label an image: image [B, channels, H, W] float32, label [B] int64.

    Where the classes have names, `eval report=<folder>` draws which are taken for which.
    """

    input = "image"

    def metrics(self) -> list[Metric]:
        return super().metrics() + ([ConfusionMatrix(len(self.labels), self.labels)] if self.labels else [])

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        super().measure(metrics[:2], prediction, batch)
        for matrix in metrics[2:]:
            matrix.update(prediction["label"], batch["label"])
