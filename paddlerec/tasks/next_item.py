"""Next item: which item follows this history?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.layers.topk import rank_of, top_k
from paddlerec.metrics import Ranking


class NextItem(Task):
    """Softmax cross-entropy over all items, and full ranking.

    The score of item i is <encode(history), item_vectors_i> + item_bias_i. Item 0 (padding, unknown) is never ranked
    nor recommended, and is not in the softmax. Where it is the target the row counts as a miss; training refuses it.

    Batch: history [B, T] int64, right-padded with 0, all 0 where nothing is known; target [B] int64.
    Prediction: query [B, d], from which `recommend` makes the best items; `render` does so for a readable result.

    In evaluation mode item vectors are computed once and kept until `train()` or `eval()` is called again.

    Args:
        model: has `encode(history) -> [B, d]`, `item_vectors() -> [N, d]` with row 0, and perhaps `item_bias() -> [N]`.
        labels: names of the items by id, id 0 included; None = `render` gives ids.
        measures: see `Ranking`; the first selects the checkpoint.
        top: items that `render` lists.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        measures: list[str] | tuple[str, ...] = ("recall@20", "mrr@20"),
        top: int = 10,
    ) -> None:
        super().__init__(model)
        if top < 1:
            raise ValueError(f"task.top must be at least 1, got {top}")
        Ranking(measures)  # refuses names it does not know
        self.labels, self.measures, self.top = labels, list(measures), top
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
        query = self.model.encode(batch["history"])  # type: ignore[operator]
        vectors, bias = self.items()
        score = query @ vectors[1:].t()  # [B, N - 1]: not a softmax over the padding
        if bias is not None:
            score = score + bias[1:]
        loss = nn.functional.cross_entropy(score.float(), batch["target"] - 1, reduction="sum")
        return StepOutput(loss, torch.tensor(len(query)), {})

    def predict(self, batch: Batch) -> Prediction:
        return {"query": self.model.encode(batch["history"]).float()}  # type: ignore[operator]

    def metrics(self) -> list[Metric]:
        return [Ranking(self.measures)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        (ranking,) = metrics
        assert isinstance(ranking, Ranking)
        vectors, bias = self.items()
        ranking.update_ranks(rank_of(prediction["query"], vectors, batch["target"], bias=bias))

    @torch.no_grad()
    def recommend(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best items of each query [B, d]: scores [B, k] and ids [B, k] int64, best first."""
        vectors, bias = self.items()
        return top_k(query, vectors, k, bias=bias)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """items: the `top` best as {item: its name or id, score}, best first."""
        rows = []
        for scores, ids in zip(*(t.tolist() for t in self.recommend(prediction["query"], self.top)), strict=True):
            best = [(i, s) for i, s in zip(ids, scores, strict=True) if i]
            rows.append({"items": [{"item": self._name(i), "score": round(s, 4)} for i, s in best]})
        return rows

    def _name(self, item: int) -> str | int:
        return item if self.labels is None else self.labels[item]
