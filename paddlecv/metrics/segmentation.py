"""Scores of semantic segmentation, all from one confusion matrix over the pixels of the whole set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paddlecore.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MeanIoU(Metric):
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

    matrix: Tensor

    def __init__(
        self, num_classes: int, labels: list[str] | None = None, *, per_class: bool = False, void: int = 255
    ) -> None:
        super().__init__()
        self.num_classes, self.per_class, self.void = num_classes, per_class, void
        self.labels = labels or [str(i) for i in range(num_classes)]
        self.goals = {"miou": "max", "pixel_acc": "max"}
        if per_class:
            self.goals |= {f"iou/{label}": "max" for label in self.labels}
        self.signature = f"miou|{num_classes} classes|void left out|matrix over the set|absent classes left out"
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Class ids of the same shape, integer; `prediction` in 0..C-1 wherever `truth` is not void."""
        known = truth != self.void
        pair = self.num_classes * truth[known].long() + prediction[known].long()
        n = self.num_classes
        self.matrix += torch.bincount(pair, minlength=n * n).reshape(n, n).cpu()

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

    def figure(self) -> Figure | None:
        """The matrix, each row as shares of the truth's pixels, and the IoU of each class beside its name."""
        from matplotlib.figure import Figure

        if not int(self.matrix.sum()):
            return None
        share = self.matrix.double() / self.matrix.sum(1, keepdim=True).clamp(min=1)
        side = max(4.0, 0.5 * self.num_classes)
        figure = Figure(figsize=(side + 2, side), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="Blues")
        figure.colorbar(drawn, label="share of the class's pixels")
        axes.set_xticks(range(self.num_classes), self.labels, rotation=90)
        axes.set_yticks(
            range(self.num_classes), [f"{n}  {v:.3f}" for n, v in zip(self.labels, self.iou().tolist(), strict=True)]
        )
        axes.set(xlabel="predicted", ylabel="truth and its IoU", title=f"mIoU {self.compute()['miou']:.4f}")
        return figure
