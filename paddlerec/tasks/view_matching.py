"""Matching by views: which of these items suits this user better?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.metrics import OrderRate, Ranking
from paddlerec.tasks.candidates import rank_of_first, rivals


class ViewMatching(Task):
    """Pairwise hinge: an item that the user took should score `margin` above each one that the user did not take.

    The loss of a row is the mean over its negatives of max(0, margin - positive + negative). For evaluation the pair
    order rate, and the rank of the first item among the others; an item that is the same as the first makes no pair
    and is no rival.

    Batch: user.<view> [B, T] int64 and item.<view> [B, C, T] int64, padded on the right with 0, for each view of the
    model; candidates [B, C] int64, the numbers of the items, the one that was taken first, filled up with 0.
    Prediction: item [B, C] the candidates, score [B, C], -inf for 0.

    Args:
        model: maps the views of users and items, {view: ids}, to scores [B, C].
        margin: of the hinge.
        measures: rankings that are measured beside the order rate, see `Ranking`.
        top: items that `render` lists.
    """

    def __init__(
        self,
        model: nn.Module,
        margin: float = 0.1,
        measures: list[str] | tuple[str, ...] = ("hr@10", "ndcg@10"),
        top: int = 10,
    ) -> None:
        super().__init__(model)
        if margin <= 0 or top < 1:
            raise ValueError(f"task.margin must be above 0 and task.top at least 1, got {margin}, {top}")
        Ranking(measures)  # refuses names it does not know
        self.margin, self.measures, self.top = margin, list(measures), top

    def score(self, batch: Batch) -> Tensor:
        """[B, C] float32."""
        user = {name[5:]: ids for name, ids in batch.items() if name.startswith("user.")}
        item = {name[5:]: ids for name, ids in batch.items() if name.startswith("item.")}
        return self.model(user, item).float()

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        score, pair = self.score(batch), rivals(batch["candidates"])
        hinge = (self.margin - score[:, :1] + score[:, 1:]).clamp(min=0) * pair  # [B, C - 1]
        loss = (hinge.sum(1) / pair.sum(1).clamp(min=1)).sum()
        return StepOutput(loss, torch.tensor(len(score)), {})

    def predict(self, batch: Batch) -> Prediction:
        items = batch["candidates"]
        return {"item": items, "score": self.score(batch).masked_fill(items == 0, -torch.inf)}

    def metrics(self) -> list[Metric]:
        return [OrderRate(), Ranking(self.measures)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        order_rate, ranking = metrics
        assert isinstance(ranking, Ranking)
        score, items = prediction["score"], prediction["item"]
        order_rate.update(score[:, :1], score[:, 1:], rivals(items))
        ranking.update_ranks(rank_of_first(score, items))

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """items: the `top` best as {item: its number, score}, best first."""
        rows = []
        for items, scores in zip(prediction["item"].tolist(), prediction["score"].tolist(), strict=True):
            best = sorted(zip(scores, items, strict=True), key=lambda pair: -pair[0])[: self.top]
            rows.append({"items": [{"item": i, "score": round(s, 6)} for s, i in best if i]})
        return rows
