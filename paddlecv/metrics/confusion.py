"""Which classes are taken for which: one matrix over the whole set, by itself or as the base of other scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paddlecore.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WRITTEN = 20  # up to this many classes, each cell of the figure says its count
NAMED = 100  # up to this many classes, each row and column says its name


class ConfusionMatrix(Metric):
    """Counts of truth against prediction, for a figure; it gives no number of its own.

    States: one matrix [C, C] int64, truth by prediction.

    Args:
        num_classes: classes, C.
        labels: their names, for the figure; None = their numbers.
        void: a truth that counts nowhere.
    """

    matrix: Tensor

    def __init__(self, num_classes: int, labels: list[str] | None = None, *, void: int = -1) -> None:
        super().__init__()
        self.num_classes, self.void = num_classes, void
        self.labels = labels or [str(i) for i in range(num_classes)]
        self.goals = {}
        self.signature = f"confusion|{num_classes} classes"
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64))

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Class ids of the same shape, integer; `prediction` in 0..C-1 wherever `truth` is not void."""
        known = truth != self.void
        n = self.num_classes
        pair = n * truth[known].long() + prediction[known].long()
        self.matrix += torch.bincount(pair, minlength=n * n).reshape(n, n).cpu()

    def compute(self) -> dict[str, float]:
        return {}

    def of_classes(self) -> Tensor:
        """[C] float64: what the figure says of each class, here the share of it that is right; NaN for an empty one."""
        return self.matrix.diagonal().double() / self.matrix.sum(1)

    def heading(self) -> str:
        """The figure's."""
        right, rows = int(self.matrix.trace()), int(self.matrix.sum())
        return f"{right:,} of {rows:,} right ({right / rows:.2%})"

    def figure(self) -> Figure | None:
        """The matrix: colours are shares of the truth's row, numbers are counts; beside a class's name its score."""
        from matplotlib.figure import Figure

        if not int(self.matrix.sum()):
            return None
        n, share = self.num_classes, self.matrix.double() / self.matrix.sum(1, keepdim=True).clamp(min=1)
        side = min(max(4.0, 0.5 * n), 20.0)
        figure = Figure(figsize=(side + 2, side), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="Blues"), label="share of the class")
        axes.set(xlabel="predicted", ylabel="truth", title=self.heading())
        if n <= NAMED:
            axes.set_xticks(range(n), self.labels, rotation=90)
            scores = self.of_classes().tolist()
            axes.set_yticks(range(n), [f"{name}  {v:.3f}" for name, v in zip(self.labels, scores, strict=True)])
        if n <= WRITTEN:
            for truth, predicted in self.matrix.nonzero().tolist():
                text, colour = (
                    f"{self.matrix[truth, predicted]:,}",
                    "white" if share[truth, predicted] > 0.5 else "black",
                )
                axes.text(predicted, truth, text, ha="center", va="center", color=colour, fontsize=8)
        return figure
