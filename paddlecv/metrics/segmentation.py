"""Scores of semantic segmentation, all from one confusion matrix over the pixels of the whole set."""

from __future__ import annotations

from torch import Tensor

from paddlecv.metrics.confusion import ConfusionMatrix


class MeanIoU(ConfusionMatrix):
    """Mean over the classes of intersection / union, and the share of pixels that are right.

    The matrix is added up over the whole set before any quotient is taken (Everingham et al., 2015, "The Pascal Visual
    Object Classes Challenge: A Retrospective", section 3.2; Long, Shelhamer, Darrell, 2015, section 5). A class that is
    neither in the truth nor in a prediction has no IoU and is left out of the mean. Pixels whose truth is void count
    nowhere.

    States: one matrix [C, C] int64, truth by prediction.

    Args:
        num_classes: classes, C.
        labels: their names, for `per_class` and the figure; None = their numbers.
        per_class: give the IoU of each class as well, as `iou/<label>`.
        void: id in the truth of pixels that have no class.
    """

    def __init__(
        self, num_classes: int, labels: list[str] | None = None, *, per_class: bool = False, void: int = 255
    ) -> None:
        super().__init__(num_classes, labels, void=void)
        self.per_class = per_class
        self.goals = {"miou": "max", "pixel_acc": "max"}
        if per_class:
            self.goals |= {f"iou/{label}": "max" for label in self.labels}
        self.signature = f"miou|{num_classes} classes|void left out|matrix over the set|absent classes left out"

    def iou(self) -> Tensor:
        """[C] float64; NaN for a class that is nowhere."""
        both = self.matrix.diagonal().double()
        return both / (self.matrix.sum(0) + self.matrix.sum(1) - both)

    def compute(self) -> dict[str, float]:
        iou = self.iou()
        right, pixels = int(self.matrix.trace()), int(self.matrix.sum())
        found = {"miou": float(iou.nanmean()), "pixel_acc": right / pixels if pixels else float("nan")}
        if self.per_class:
            found |= {f"iou/{label}": float(value) for label, value in zip(self.labels, iou, strict=True)}
        return found

    def of_classes(self) -> Tensor:
        return self.iou()

    def heading(self) -> str:
        return f"mIoU {self.compute()['miou']:.4f}"
