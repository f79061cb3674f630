"""Next item: which item follows this history?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput
from paddlerec.layers.softmax import softmax_loss
from paddlerec.layers.topk import rank_among, rank_of
from paddlerec.metrics import Ranking
from paddlerec.tasks.item_ranking import ItemRanking


class NextItem(ItemRanking):
    """Softmax cross-entropy over all items, or against sampled negatives; full ranking, or among given negatives.

    The score of item i is <encode(history), item_vectors_i> + item_bias_i. Item 0 (padding, unknown) is never ranked
    nor recommended, and is not in the softmax. Where it is the target the row counts as a miss; training refuses it.

    Batch: history [B, T] int64, right-padded with 0; target [B] int64. In training the target may be [B, T], right-
    padded with 0: then each place of the history has a target of its own, the model itself gives the states [B, T, d]
    to score with, a target counts as a row does, and places [M] int64 says where targets are in the flat [B * T]. With
    loss `bce`, negatives [M, K] int64 of each target (M = B where target is [B]). In evaluation, optionally negatives
    [B, n]: the target is ranked among these only; or seen [B, S], items that are neither ranked nor recommended; both
    padded with 0.
    Prediction: query [B, d], and seen if the batch has it, from which `recommend` makes the best items; `render` does
    so for a readable result.

    Args:
        model: has `encode(history) -> [B, d]`, `item_vectors() -> [N, d]` with row 0, optionally `item_bias() -> [N]`;
            with loss `bce`, `item_vectors(ids [M, K]) -> [M, K, d]`, which saves a gradient of the table's size. One
            with `of_each_place = True` gives a state for each place when called, `(history) -> [B, T, d]`.
        labels, measures, top, index: see `ItemRanking`.
        loss: `softmax` = -log softmax over all items at the target; `bce` = -log sigmoid(s) of the target and
            -log(1 - sigmoid(s)) of each negative.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        measures: list[str] | tuple[str, ...] = ("recall@20", "mrr@20"),
        top: int = 10,
        loss: str = "softmax",
        index: str = "exact",
    ) -> None:
        super().__init__(model, labels, measures, top, index)
        if loss not in ("softmax", "bce"):
            raise ValueError(f"task.loss must be softmax or bce, got {loss!r}")
        self.loss = loss

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        history, target, negatives = batch["history"], batch["target"], batch.get("negatives")
        if target.dim() == 1:
            query = self.model.encode(history)  # type: ignore[operator]
        else:
            if not getattr(self.model, "of_each_place", False):
                raise ConfigError(
                    f"{type(self.model).__name__} has no state for each place of a history, which these data have a "
                    "target for; SASRec has, or take data of sessions"
                )
            places = batch["places"]  # given, since finding them would wait for the GPU
            query = self.model(history).flatten(0, 1).index_select(0, places)  # [M, d]
            target = target.flatten()[places]
        if self.loss == "softmax":
            vectors, bias = self.items()
            loss = softmax_loss(query, vectors, target, bias=bias)
        else:
            if negatives is None:
                raise ConfigError("task.loss=bce needs negatives, and these data give none: see data.negatives")
            ids = torch.cat([target[:, None], negatives], 1)  # [M, 1 + K]
            score = (self.model.item_vectors(ids) @ query.unsqueeze(2)).squeeze(2).float()  # type: ignore[operator]
            if hasattr(self.model, "item_bias"):
                score = score + self.model.item_bias()[ids]  # type: ignore[operator]
            wanted = torch.zeros_like(score)
            wanted[:, 0] = 1.0
            loss = nn.functional.binary_cross_entropy_with_logits(score, wanted, reduction="sum")
        return StepOutput(loss, torch.tensor(len(query)), {})

    def predict(self, batch: Batch) -> Prediction:
        query = self.model.encode(batch["history"]).float()  # type: ignore[operator]
        return {"query": query} | ({"seen": batch["seen"]} if "seen" in batch else {})

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        ranking, *more = metrics
        assert isinstance(ranking, Ranking)
        vectors, bias = self.items()
        query, target, negatives, seen = prediction["query"], batch["target"], batch.get("negatives"), batch.get("seen")
        if target.dim() == 2:  # training rows, where an evaluation looks at what was trained on: the last place
            target = target.gather(1, ((target > 0).sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)
            negatives = None
        if negatives is not None:
            ranking.update_ranks(rank_among(query, vectors, target, negatives, bias=bias))
        elif self.index == "exact":
            ranking.update_ranks(rank_of(query, vectors, target, bias=bias, seen=seen))
        for recall in more:
            _, found = self.recommend(query, self.longest, seen)
            self.compare(recall, query, found, seen)
            if negatives is None:
                ranking.update((found == target[:, None]) & (found > 0), torch.ones_like(target))

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        return self.listed(*self.recommend(prediction["query"], self.top, prediction.get("seen")))
