"""How well candidates are ranked under each query: MAP, MRR, NDCG."""

from __future__ import annotations

import torch
from torch import Tensor

from paddlecore.metric import Metric


class GroupRanking(Metric):
    """Means over queries of what the ranking of each one's candidates is worth.

    With h_j = 1 where the candidate in place j = 1, 2, ... is right, and n right ones in all: average precision
    (1 / n) sum_j h_j (h_1 + ... + h_j) / j, whose mean is `map`; reciprocal rank 1 / (first j with h_j), `mrr`;
    `ndcg@k` = sum_{j<=k} h_j / log2(1 + j) over the same sum for the first min(n, k) places (Jarvelin and Kekalainen,
    2002, ACM TOIS 20, binary gains). Candidates of equal score are put in the order that is worst for the ranking, so a
    model that says the same of all has nothing from it. A score that is NaN comes last.

    Queries without a right candidate have no value, and those without a wrong one are ranked well by anything: both are
    left out and counted, as is usual for WikiQA (`drop_all_right=False` keeps the latter, as some papers do).

    States: a sum a measure and two counts.

    Args:
        cutoffs: the k of ndcg@k.
        drop_all_right: leave out queries whose candidates are all right.
    """

    totals: Tensor
    queries: Tensor
    skipped: Tensor

    def __init__(self, cutoffs: tuple[int, ...] = (3, 5), drop_all_right: bool = True) -> None:
        super().__init__()
        self.cutoffs, self.drop_all_right = cutoffs, drop_all_right
        names = ["map", "mrr", *(f"ndcg@{k}" for k in cutoffs)]
        self.goals = dict.fromkeys(names, "max")
        left_out = "none right or all right" if drop_all_right else "none right"
        self.signature = f"ranking by query|{','.join(names)}|binary gains|ties at their worst|left out: {left_out}"
        self.add_state("totals", torch.zeros(len(names), dtype=torch.float64))
        self.add_state("queries", torch.zeros((), dtype=torch.int64))
        self.add_state("skipped", torch.zeros((), dtype=torch.int64))

    def update(self, score: Tensor, label: Tensor, group: Tensor) -> None:
        """`score` [N] float, `label` [N] 0 or 1, `group` [N] int64: candidates of one query have one number, 0, 1, ...

        A query's candidates have to come in one update.
        """
        if not len(score):
            return
        score, label, group = (t.detach().cpu() for t in (score.double(), label.double(), group))
        # by group, then from the best score down, wrong before right where equal
        order = label.argsort(stable=True)
        order = order[torch.where(score.isnan(), torch.inf, -score)[order].argsort(stable=True)]
        order = order[group[order].argsort(stable=True)]
        h, group = label[order], group[order]
        count = int(group[-1]) + 1
        sizes = torch.bincount(group, minlength=count)
        first = sizes.cumsum(0) - sizes  # [G] where each group starts
        place = torch.arange(1, len(h) + 1) - first[group]  # [N] j, from 1

        def by_group(values: Tensor) -> Tensor:
            return torch.zeros(count, dtype=torch.float64).index_add_(0, group, values)

        right = by_group(h)
        running = h.cumsum(0)
        before = torch.cat([torch.zeros(1, dtype=torch.float64), running])[first]  # right ones of earlier groups
        precision = (running - before[group]) / place
        kept = (right > 0) & ~((right == sizes) & self.drop_all_right)
        values = [
            by_group(h * precision) / right,
            torch.zeros(count, dtype=torch.float64).scatter_reduce_(0, group, h / place, "amax"),
        ]
        discount = 1 / (place + 1).double().log2()
        ideal = (1 / torch.arange(2, max(self.cutoffs, default=0) + 2, dtype=torch.float64).log2()).cumsum(0)
        for k in self.cutoffs:
            values.append(by_group(h * discount * (place <= k)) / ideal[right.clamp(1, k).long() - 1])
        self.totals += torch.stack([value[kept].sum() for value in values])
        self.queries += kept.sum()
        self.skipped += ((sizes > 0) & ~kept).sum()

    def compute(self) -> dict[str, float]:
        queries = int(self.queries)
        totals = zip(self.goals, self.totals.tolist(), strict=True)
        return {name: total / queries if queries else float("nan") for name, total in totals}
