"""The area under the ROC curve within each user."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from paddlecore.metric import Metric


class GAUC(Metric):
    """The mean over users of each one's own AUC, weighted by the user's rows (impressions): how well the items of one
    and the same user are told apart (Zhu et al., 2017, "Optimized Cost per Click in Taobao Display Advertising", KDD;
    DIN, section 6).

    A user whose rows are all of one class has no AUC and is left out; `left_out` counts them after `compute`. Where
    nobody is left, or a score is NaN, the number is not defined: NaN, and a warning that says why. Ties count one half.

    States: user, score and label of every row, 13 bytes a row; and about 100 bytes a row for a moment in `compute`.
    """

    users: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"gauc": "max"}
        self.signature = "gauc|exact|weight:rows of the user|users of one class left out|ties:half|scores:float32"
        self.add_state("users", torch.empty(0, dtype=torch.int64), "cat")
        self.add_state("scores", torch.empty(0, dtype=torch.float32), "cat")
        self.add_state("labels", torch.empty(0, dtype=torch.uint8), "cat")
        self.left_out = 0

    def update(self, scores: Tensor, labels: Tensor, users: Tensor) -> None:
        """`scores` [B] float, of any monotone scale; `labels` [B], 0 or 1; `users` [B] int."""
        self.users.append(users.detach().to("cpu", torch.int64))
        self.scores.append(scores.detach().float().cpu())
        self.labels.append(labels.detach().to("cpu", torch.uint8))

    def compute(self) -> dict[str, float]:
        users, scores, labels = (self.cat(name).numpy() for name in ("users", "scores", "labels"))
        if np.isnan(scores).any():
            return self._undefined("a score is NaN")
        if not len(users):
            return self._undefined("there is no row")
        order = np.lexsort((scores, users))
        users, scores, up = users[order], scores[order], labels[order].astype(np.float64)
        ties = _starts(users[1:] != users[:-1], scores[1:] != scores[:-1])  # first row of each user's run of ties
        whole = _starts(users[ties][1:] != users[ties][:-1])  # first run of each user
        up = np.add.reduceat(up, ties)  # positives and negatives of each run
        down = np.diff([*ties, len(users)]) - up
        positive, negative = np.add.reduceat(up, whole), np.add.reduceat(down, whole)  # of each user
        user = np.repeat(np.arange(len(whole)), np.diff([*whole, len(ties)]))  # of each run
        below = np.cumsum(down) - down - (np.cumsum(negative) - negative)[user]  # the user's negatives under each run
        right = np.bincount(user, up * (below + 0.5 * down), minlength=len(whole))
        both = positive * negative > 0
        self.left_out = int((~both).sum())
        if not both.any():
            return self._undefined(f"none of {len(whole)} users has both classes")
        weight = (positive + negative)[both]
        return {"gauc": float((weight * right[both] / (positive * negative)[both]).sum() / weight.sum())}

    def _undefined(self, why: str) -> dict[str, float]:
        warnings.warn(f"gauc is not defined: {why}", RuntimeWarning, stacklevel=3)
        return {"gauc": float("nan")}


def _starts(*changes: np.ndarray) -> np.ndarray:
    """First rows of runs: row 0, and each row before which something changes."""
    return np.flatnonzero(np.concatenate([[True], np.logical_or.reduce(changes)]))
