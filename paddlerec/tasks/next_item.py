"""Next item: which item follows this history?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.layers.softmax import softmax_loss
from paddlerec.layers.topk import rank_among, rank_of, top_k
from paddlerec.metrics import Ranking


class NextItem(Task):
    """Softmax cross-entropy over all items, or against sampled negatives; full ranking, or among given negatives.

    The score of item i is <encode(history), item_vectors_i> + item_bias_i. Item 0 (padding, unknown) is never ranked
    nor recommended, and is not in the softmax. Where it is the target the row counts as a miss; training refuses it.

    Batch: history [B, T] int64, right-padded with 0; target [B] int64. In training the target may be [B, T], right-
    padded with 0: then each place of the history has a target of its own, the model itself gives the states [B, T, d]
    to score with, a target counts as a row does, and places [M] int64 says where targets are in the flat [B * T]. With
    loss `bce`, negatives [M, K] int64 of each target (M = B where target is [B]). In evaluation, perhaps negatives
    [B, n]: the target is ranked among these only; or seen [B, S], items that are neither ranked nor recommended; both
    padded with 0.
    Prediction: query [B, d], and seen if the batch has it, from which `recommend` makes the best items; `render` does
    so for a readable result.

    In evaluation mode item vectors are computed once and kept until `train()` or `eval()` is called again.

    Args:
        model: has `encode(history) -> [B, d]`, `item_vectors() -> [N, d]` with row 0, and perhaps `item_bias() -> [N]`;
            with loss `bce`, `item_vectors(ids [M, K]) -> [M, K, d]`, which saves a gradient of the table's size.
        labels: names of the items by id, id 0 included; None = `render` gives ids.
        measures: see `Ranking`; the first selects the checkpoint.
        top: items that `render` lists.
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
    ) -> None:
        super().__init__(model)
        if top < 1:
            raise ValueError(f"task.top must be at least 1, got {top}")
        if loss not in ("softmax", "bce"):
            raise ValueError(f"task.loss must be softmax or bce, got {loss!r}")
        Ranking(measures)  # refuses names it does not know
        self.labels, self.loss, self.measures, self.top = labels, loss, list(measures), top
        self._items: tuple[Tensor, Tensor | None] | None = None

    def train(self, mode: bool = True) -> NextItem:
        self._items = None
        return super().train(mode)

    def items(self) -> tuple[Tensor, Tensor | None]:
        """Vectors [N, d] and biases [N] or None of all items."""
        if not self.training and self._items is not None:
            return self._items
        vectors = self.model.item_vectors()  # type: ignore[operator]
        bias = self.model.item_bias() if hasattr(self.model, "item_bias") else None  # type: ignore[operator]
        if not self.training and not torch.is_grad_enabled():
            self._items = vectors, bias
        return vectors, bias

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        history, target, negatives = batch["history"], batch["target"], batch.get("negatives")
        if target.dim() == 1:
            query = self.model.encode(history)  # type: ignore[operator]
        else:
            places = batch["places"]  # given, since a GPU would have to be waited for to find them
            query = self.model(history).flatten(0, 1).index_select(0, places)  # [M, d]
            target = target.flatten()[places]
        if self.loss == "softmax":
            vectors, bias = self.items()
            loss = softmax_loss(query, vectors, target, bias=bias)
        else:
            if negatives is None:
                raise ValueError("task.loss=bce needs negatives, and this data set gives none")
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

    def metrics(self) -> list[Metric]:
        return [Ranking(self.measures)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        (ranking,) = metrics
        assert isinstance(ranking, Ranking)
        vectors, bias = self.items()
        query, target = prediction["query"], batch["target"]
        if target.dim() == 2:  # training rows, where an evaluation looks at what was trained on: the last place
            target = target.gather(1, ((target > 0).sum(1, keepdim=True) - 1).clamp(min=0)).squeeze(1)
            rank = rank_of(query, vectors, target, bias=bias)
        elif "negatives" in batch:
            rank = rank_among(query, vectors, target, batch["negatives"], bias=bias)
        else:
            rank = rank_of(query, vectors, target, bias=bias, seen=batch.get("seen"))
        ranking.update_ranks(rank)

    @torch.no_grad()
    def export(self) -> dict[str, Any]:
        """vectors: [N, d] of all items, row 0 (padding) included, and bias [N] if there is one; labels: their names by
        id, if there are any."""
        vectors, bias = self.items()
        given = {"vectors": vectors, "bias": bias, "labels": self.labels}
        return {name: value for name, value in given.items() if value is not None}

    @torch.no_grad()
    def recommend(self, query: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each query [B, d] but those of `seen` [B, S]: scores [B, k] and ids [B, k], best first;
        see `top_k`."""
        vectors, bias = self.items()
        return top_k(query, vectors, k, bias=bias, seen=seen)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """items: the `top` best as {item: its name or id, score}, best first."""
        rows = []
        found = self.recommend(prediction["query"], self.top, prediction.get("seen"))
        for scores, ids in zip(*(t.tolist() for t in found), strict=True):
            best = [(i, s) for i, s in zip(ids, scores, strict=True) if i]
            rows.append({"items": [{"item": self._name(i), "score": round(s, 4)} for i, s in best]})
        return rows

    def _name(self, item: int) -> str | int:
        return item if self.labels is None else self.labels[item]
