"""The area under the ROC curve, exactly."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from paddlecore.metric import Metric


def auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray | None = None) -> float:
    """The probability that a positive scores higher than a negative, ties counting one half (Mann and Whitney, 1947).

    Args:
        scores: [n] float.
        positive: [n] weight of the row among the positives: labels 0 and 1, or a probability p.
        negative: [n] weight among the negatives; default 1 - positive.

    Returns:
        NaN where either class is empty or a score is NaN.
    """
    positive = np.asarray(positive, dtype=np.float64)
    negative = 1.0 - positive if negative is None else np.asarray(negative, dtype=np.float64)
    pairs = positive.sum() * negative.sum()
    if len(scores) == 0 or pairs == 0 or np.isnan(scores).any():
        return float("nan")
    order = np.argsort(scores, kind="stable")
    scores = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))  # first row of each run of ties
    up = np.add.reduceat(positive[order], starts)
    down = np.add.reduceat(negative[order], starts)
    below = np.cumsum(down) - down  # negatives under each run; whole numbers, so exact to 2^53 rows
    return float((up * (below + 0.5 * down)).sum() / pairs)


class AUC(Metric):
    """Area under the ROC curve over all rows, as scikit-learn's `roc_auc_score` gives it, ties included.

    States: score and label of every row, 5 bytes a row; and about 60 bytes a row for a moment in `compute`. No binning,
    so the number does not depend on how the scores are spread.

    With one class only (or no row, or a NaN score) the area is not defined: NaN, and a warning that says why.
    """

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"auc": "max"}
        self.signature = "auc|exact|ties:half|scores:float32"
        self.add_state("scores", torch.empty(0, dtype=torch.float32), "cat")
        self.add_state("labels", torch.empty(0, dtype=torch.uint8), "cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """`scores` [B] float, of any monotone scale; `labels` [B], 0 or 1."""
        self.scores.append(scores.detach().float().cpu())
        self.labels.append(labels.detach().to("cpu", torch.uint8))

    def compute(self) -> dict[str, float]:
        scores, labels = self.cat("scores").numpy(), self.cat("labels").numpy()
        area = auc(scores, labels)
        if np.isnan(area):
            why = "a score is NaN" if np.isnan(scores).any() else f"{int(labels.sum())} of {len(labels)} labels are 1"
            warnings.warn(f"auc is not defined: {why}", RuntimeWarning, stacklevel=2)
        return {"auc": area}
