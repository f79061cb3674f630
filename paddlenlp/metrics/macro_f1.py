"""One class of several: F1, where accuracy is mostly that of the largest class."""

from __future__ import annotations

import torch
from torch import Tensor

from paddlecore.metric import Metric


class MacroF1(Metric):
    """The mean of the classes' F1 = 2 TP / (2 TP + FP + FN), over those that are a label or are said to be one.

    As `sklearn.metrics.f1_score(average="macro")` has it. States: three counts a class.
    """

    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.goals = {"f1": "max"}
        self.signature = f"f1|macro over the classes that occur|{num_classes} classes"
        self.add_state("counts", torch.zeros(3, num_classes, dtype=torch.int64))  # right, said, labels

    def update(self, said: Tensor, label: Tensor) -> None:
        """`said` and `label` [N] int64 in 0..num_classes-1."""
        said, label = said.cpu(), label.cpu()
        classes = self.counts.shape[1]
        self.counts += torch.stack([torch.bincount(x, minlength=classes) for x in (label[said == label], said, label)])

    def compute(self) -> dict[str, float]:
        right, said, label = self.counts.double()
        there = said + label > 0
        return {"f1": float((2 * right / (said + label))[there].mean())}
