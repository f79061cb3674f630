"""How far up a ranking the relevant items stand."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from paddlecore.metric import Metric

_KINDS = ("recall", "hr", "precision", "mrr", "ndcg")


class Ranking(Metric):
    """Means over rows (users, sessions) of what the first k places of a ranking hold.

    With h_j = 1 where the item in place j = 1, 2, ... is relevant, and n relevant items in all:
    recall@k = sum_{j<=k} h_j / n; hr@k = 1 if any h_j; precision@k = sum h_j / k; mrr@k = 1 / (first j with h_j), or 0;
    ndcg@k = sum h_j / log2(1 + j), divided by the same sum for the first min(n, k) places (Jarvelin and Kekalainen,
    2002, ACM TOIS 20, with binary gains).

    States: one sum a measure and two counts. A row without anything relevant has no recall: it is left out of all
    means and counted in `skipped`. With no row left every mean is NaN, and a warning says so.

    Args:
        measures: names as `recall@20`; the first selects the best checkpoint.
    """

    totals: Tensor
    rows: Tensor
    skipped: Tensor

    def __init__(self, measures: Sequence[str] = ("recall@20", "mrr@20")) -> None:
        super().__init__()
        parsed = [re.fullmatch(rf"({'|'.join(_KINDS)})@([1-9]\d*)", m) for m in measures]
        if not parsed or None in parsed or len(set(measures)) != len(measures):
            raise ValueError(f"measures must be different names like recall@20 ({', '.join(_KINDS)}), got {measures}")
        self.measures = [(m[1], int(m[2])) for m in parsed if m]
        self.goals = dict.fromkeys(measures, "max")
        self.signature = f"ranking|{','.join(measures)}|binary gains|rows with nothing relevant left out"
        self.add_state("totals", torch.zeros(len(measures), dtype=torch.float64))
        self.add_state("rows", torch.zeros((), dtype=torch.int64))
        self.add_state("skipped", torch.zeros((), dtype=torch.int64))

    @property
    def max_k(self) -> int:
        """The longest list that is looked at: how many columns `update` needs."""
        return max(k for _, k in self.measures)

    def update(self, hits: Tensor, relevant: Tensor) -> None:
        """`hits` [B, K] bool, K >= max_k: is the item in each place relevant; `relevant` [B] int64: how many are."""
        if hits.shape[1] < self.max_k:
            raise ValueError(f"{'/'.join(self.goals)} need {self.max_k} places, got {hits.shape[1]}")
        hits, relevant = hits.detach().cpu(), relevant.detach().cpu()
        some = relevant > 0
        self.skipped += (~some).sum()
        hits, relevant = hits[some, : self.max_k].double(), relevant[some].double()
        discount = 1 / torch.arange(2, self.max_k + 2, dtype=torch.float64).log2()
        ideal = discount.cumsum(0)
        for m, (kind, k) in enumerate(self.measures):
            top = hits[:, :k]
            if kind == "recall":
                value = top.sum(1) / relevant
            elif kind == "hr":
                value = top.amax(1)
            elif kind == "precision":
                value = top.mean(1)
            elif kind == "mrr":
                value = (top / torch.arange(1, k + 1)).amax(1)
            else:
                value = top @ discount[:k] / ideal[relevant.clamp(max=k).long() - 1]
            self.totals[m] += value.sum()
        self.rows += len(hits)

    def update_ranks(self, rank: Tensor) -> None:
        """One relevant item a row: `rank` [B] int64, its place from 0 (as `rank_of` gives it)."""
        places = torch.arange(self.max_k, device=rank.device)
        self.update(rank[:, None] == places, torch.ones_like(rank))

    def compute(self) -> dict[str, float]:
        rows = int(self.rows)
        if not rows:
            why = f"none of {int(self.skipped)} rows has an item to find" if self.skipped else "there is no row"
            warnings.warn(f"{', '.join(self.goals)}: not defined, {why}", RuntimeWarning, stacklevel=2)
        return {m: float(t) / rows if rows else float("nan") for m, t in zip(self.goals, self.totals, strict=True)}
