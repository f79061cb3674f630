"""Metrics that stream, and that are exact over ranks: states are reduced, results are never averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paddlecore import distributed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Metric:
    """Base of all metrics: `reset`, `update` (once a batch), `sync` (once, over ranks), `compute`.

    A subclass calls `add_state` in its constructor and then uses the states as attributes. A `sum` state is one tensor
    whose size does not grow; a `cat` state is a list of tensors [n_i, ...] that grows with what is evaluated, and the
    subclass states its bound in its docstring. States live on the CPU, counts and sums in float64 or int64.

    Attributes:
        goals: for each name that `compute` returns, "max" or "min": which direction is better. The first is the main
            one.
        signature: everything that decides the number (name, variant, k, version of the reference tool), stored with it.
    """

    goals: dict[str, str]
    signature: str

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, Tensor]] = {}

    def add_state(self, name: str, default: Tensor, reduce: str = "sum") -> None:
        """Declare a state. For `cat`, `default` is an empty tensor of the right dtype and trailing shape, [0, ...]."""
        if reduce not in ("sum", "cat"):
            raise ValueError(f"reduce must be 'sum' or 'cat', got {reduce!r}")
        self._kinds[name] = (reduce, default)
        setattr(self, name, default.clone() if reduce == "sum" else [])

    def reset(self) -> None:
        for name, (reduce, default) in self._kinds.items():
            setattr(self, name, default.clone() if reduce == "sum" else [])

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The numbers, by name, of all that was given since `reset` (on this rank, or on all after `sync`)."""
        raise NotImplementedError

    def figure(self) -> Figure | None:
        """What the states look like, for `eval report=<folder>`: a matplotlib figure; None where there is nothing."""
        return None

    def cat(self, name: str) -> Tensor:
        """A `cat` state as one tensor [n, ...]."""
        parts = getattr(self, name)
        return torch.cat(parts) if parts else self._kinds[name][1]

    def sync(self) -> None:
        """Reduce the states over all ranks; every rank then computes the same number. Call it once, on every rank."""
        for name, (reduce, _) in self._kinds.items():
            if reduce == "sum":
                setattr(self, name, distributed.all_reduce(getattr(self, name)))
            else:
                setattr(self, name, [distributed.gather_rows(self.cat(name))])


class Mean(Metric):
    """Weighted mean of a quantity, e.g. a loss. States: two numbers."""

    total: Tensor
    count: Tensor

    def __init__(self, name: str, goal: str = "min") -> None:
        super().__init__()
        self.goals = {name: goal}
        self.signature = f"{name}|mean"
        self.add_state("total", torch.zeros((), dtype=torch.float64))
        self.add_state("count", torch.zeros((), dtype=torch.float64))

    def update(self, total: Tensor, count: Tensor | float) -> None:
        """Add the sum `total` [] over `count` things."""
        self.total += total.detach().double().cpu()
        self.count += float(count)

    def compute(self) -> dict[str, float]:
        return {name: float(self.total / self.count) if self.count else float("nan") for name in self.goals}


class Accuracy(Metric):
    """Top-k accuracy. States: one count for each k, and the number of rows.

    Ties are counted as a careful user would: a label is in the top k if fewer than k classes score strictly higher AND
    it is not beaten by an equal score of a lower index, which is what `argmax` does on the CPU for k = 1.
    """

    right: Tensor
    rows: Tensor

    def __init__(self, top_k: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.top_k = top_k
        self.goals = {"acc" if k == 1 else f"acc@{k}": "max" for k in top_k}
        self.signature = "accuracy|" + ",".join(f"top{k}" for k in top_k)
        self.add_state("right", torch.zeros(len(top_k), dtype=torch.int64))
        self.add_state("rows", torch.zeros((), dtype=torch.int64))

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """`scores` [B, C] float, `labels` [B] int64 in 0..C-1."""
        own = scores.gather(1, labels[:, None])  # [B, 1]
        index = torch.arange(scores.shape[1], device=scores.device)
        ahead = (scores > own) | ((scores == own) & (index < labels[:, None]))
        # NaN compares false with everything and would otherwise count as right
        place = ahead.sum(1) + own.isnan().squeeze(1) * scores.shape[1]
        self.right += torch.stack([(place < k).sum() for k in self.top_k]).cpu()
        self.rows += len(labels)

    def compute(self) -> dict[str, float]:
        rows = int(self.rows)
        return {name: int(n) / rows if rows else float("nan") for name, n in zip(self.goals, self.right, strict=True)}
