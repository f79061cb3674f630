"""Candidates: which of these items does this user take?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.layers.topk import UNRANKED
from paddlerec.metrics import Ranking


def rivals(candidates: Tensor) -> Tensor:
    """[B, C] bool: which of the others is another item than the first of `candidates` [B, 1 + C], and no padding."""
    return (candidates[:, 1:] != candidates[:, :1]) & (candidates[:, 1:] != 0)


def rank_of_first(score: Tensor, candidates: Tensor) -> Tensor:
    """How many of its `rivals` stand before the first candidate: [B] int64.

    A tie counts against the first, and so does a score that is NaN, its own or that of a rival. `UNRANKED` where the
    first is 0, an unknown item.

    Args:
        score: [B, 1 + C] float.
        candidates: [B, 1 + C] int64 items, filled up with 0.
    """
    rank = (rivals(candidates) & ~(score[:, 1:] < score[:, :1])).sum(1)
    return rank.masked_fill(candidates[:, 0] == 0, UNRANKED)


class Candidates(Task):
    """Log loss of single pairs of user and item; evaluation ranks a held-out item among given negatives.

    Where a negative is the held-out item itself (156 places in MovieLens-1M's published negatives), it is not a rival,
    as in the program of He et al., which keeps scores by item; other ties count against the held-out item.

    Batch: in training user [B], item [B] int64, label [B] float32; else user [B] and candidates [B, 1 + C] int64, the
    held-out item first, filled up with 0, which is never ranked.
    Prediction: item [B, 1 + C] the candidates, score [B, 1 + C] their logits, -inf for 0.

    Args:
        model: maps user and item, int64 of one shape, to logits of that shape.
        measures: see `Ranking`; the first selects the checkpoint.
        top: items that `render` lists.
        labels: names of the items by id, id 0 included; None = results give ids.
    """

    def __init__(
        self,
        model: nn.Module,
        measures: list[str] | tuple[str, ...] = ("hr@10", "ndcg@10"),
        top: int = 10,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(model)
        if top < 1:
            raise ValueError(f"task.top must be at least 1, got {top}")
        Ranking(measures)  # refuses names it does not know
        self.measures, self.top, self.labels = list(measures), top, labels

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        logit = self.model(batch["user"], batch["item"]).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logit, batch["label"], reduction="sum")
        return StepOutput(loss, torch.tensor(len(logit)), {})

    def predict(self, batch: Batch) -> Prediction:
        # a training row (debug=overfit evaluates on them) is a candidate by itself
        items = batch["candidates"] if "candidates" in batch else batch["item"].unsqueeze(1)
        score = self.model(batch["user"].unsqueeze(1).expand_as(items), items).float()
        return {"item": items, "score": score.masked_fill(items == 0, -torch.inf)}

    def metrics(self) -> list[Metric]:
        return [Ranking(self.measures)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        (ranking,) = metrics
        assert isinstance(ranking, Ranking)
        ranking.update_ranks(rank_of_first(prediction["score"], prediction["item"]))

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """items: the `top` best as {item: its name or id, probability}, best first."""
        order = prediction["score"].argsort(dim=1, descending=True, stable=True)[:, : self.top]
        items = prediction["item"].gather(1, order).tolist()
        chances = prediction["score"].gather(1, order).sigmoid().tolist()
        rows = [[(i, p) for i, p in zip(*pair, strict=True) if i] for pair in zip(items, chances, strict=True)]
        named = [[(self.labels[i] if self.labels else i, p) for i, p in some] for some in rows]
        return [{"items": [{"item": item, "probability": round(p, 6)} for item, p in some]} for some in named]
