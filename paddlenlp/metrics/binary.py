"""Yes or no: accuracy, and F1 of yes."""

from __future__ import annotations

import torch
from torch import Tensor

from paddlecore.metric import Metric


class BinaryF1(Metric):
    """Accuracy, and F1 = 2 TP / (2 TP + FP + FN) of the class 1, of scores whose sign decides.

    A score above 0 says 1; NaN says 0. F1 is 0 where nothing is 1 and nothing is said to be. States: four counts.
    """

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"acc": "max", "f1": "max"}
        self.signature = "binary|acc, f1 of class 1|threshold 0 on the logit"
        self.add_state("counts", torch.zeros(4, dtype=torch.int64))  # by 2 x label + said

    def update(self, score: Tensor, label: Tensor) -> None:
        """`score` [N] float, `label` [N] int64, 0 or 1."""
        said = (score > 0).long()
        self.counts += torch.bincount((2 * label.long() + said).cpu(), minlength=4)

    def compute(self) -> dict[str, float]:
        true_negative, false_positive, false_negative, true_positive = self.counts.tolist()
        rows = int(self.counts.sum())
        if not rows:
            return dict.fromkeys(self.goals, float("nan"))
        wrong = false_positive + false_negative
        f1 = 2 * true_positive / (2 * true_positive + wrong) if true_positive or wrong else 0.0
        return {"acc": (true_positive + true_negative) / rows, "f1": f1}
