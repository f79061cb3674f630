"""What tasks share that rank all items by inner products: exactly or by an index, measured, named, exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Mean, Metric
from paddlecore.task import Task
from paddlerec.layers.ann import ApproximateIndex
from paddlerec.layers.topk import top_k
from paddlerec.metrics import Ranking


class ItemRanking(Task):
    """The score of item i for a query q is <q, item_vectors_i> + item_bias_i; item 0 is never ranked.

    In evaluation mode item vectors, and the index over them, are made once and kept until `train()` or `eval()` is
    called again.

    Args:
        model: has `item_vectors() -> [N, d]` with row 0, and optionally `item_bias() -> [N]`.
        labels: names of the items by id, id 0 included; None = results give ids.
        measures: see `Ranking`; the first selects the checkpoint.
        top: items that results list.
        index: exact = every item is scored; faiss = those that an approximate index looks at (`ApproximateIndex`).
            Evaluation then also says how much of the exact list it finds: `index_recall`.
    """

    def __init__(
        self, model: nn.Module, labels: list[str] | None, measures: Sequence[str], top: int, index: str
    ) -> None:
        super().__init__(model)
        if top < 1:
            raise ValueError(f"task.top must be at least 1, got {top}")
        if index not in ("exact", "faiss"):
            raise ValueError(f"task.index must be exact or faiss, got {index!r}")
        self.labels, self.measures, self.top, self.index = labels, list(measures), top, index
        self.longest = Ranking(measures).max_k
        self._items: tuple[Tensor, Tensor | None] | None = None
        self._approximate: ApproximateIndex | None = None

    def train(self, mode: bool = True) -> ItemRanking:
        self._items = self._approximate = None
        return super().train(mode)

    def items(self) -> tuple[Tensor, Tensor | None]:
        """Vectors [N, d] and biases [N] or None of all items."""
        if self.training or torch.is_grad_enabled():
            return self._vectors()
        if self._items is None:
            vectors, bias = self._vectors()
            self._items = vectors.float(), bias
        return self._items

    def _vectors(self) -> tuple[Tensor, Tensor | None]:
        bias = self.model.item_bias() if hasattr(self.model, "item_bias") else None  # type: ignore[operator]
        return self.model.item_vectors(), bias  # type: ignore[operator]

    @torch.no_grad()
    def recommend(self, query: Tensor, k: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best items of each query [B, d] but those of `seen` [B, S]: scores [B, k] and ids [B, k], best first;
        see `top_k`."""
        vectors, bias = self.items()
        if self.index == "exact":
            return top_k(query, vectors, k, bias=bias, seen=seen)
        if self._approximate is None:
            self._approximate = ApproximateIndex(vectors, bias=bias)
        return self._approximate.top_k(query, k, seen=seen)

    def metrics(self) -> list[Metric]:
        return [Ranking(self.measures), *([] if self.index == "exact" else [Mean("index_recall", "max")])]

    def compare(self, recall: Metric, query: Tensor, found: Tensor, seen: Tensor | None) -> None:
        """Count which items of the exact lists are among those that the index `found` [B, k]."""
        vectors, bias = self.items()
        _, exact = top_k(query, vectors, found.shape[1], bias=bias, seen=seen)
        there = (exact.unsqueeze(2) == found.unsqueeze(1)).any(2) & (exact > 0)
        recall.update(there.sum(), int((exact > 0).sum()))

    @torch.no_grad()
    def export(self) -> dict[str, Any]:
        """vectors: [N, d] float32 of all items, row 0 (padding) included, and bias [N] if there is one; labels: their
        names by id, if there are any."""
        vectors, bias = self.items()
        given = {"vectors": vectors, "bias": bias, "labels": self.labels}
        return {name: value for name, value in given.items() if value is not None}

    def listed(self, scores: Tensor, ids: Tensor) -> list[dict[str, Any]]:
        """items: the `top` best of each row [B, k] as {item: its name or id, score}, best first."""
        rows = []
        for some, theirs in zip(ids[:, : self.top].tolist(), scores[:, : self.top].tolist(), strict=True):
            best = [(i, score) for i, score in zip(some, theirs, strict=True) if i]
            named = [(i if self.labels is None else self.labels[i], score) for i, score in best]
            rows.append({"items": [{"item": item, "score": round(score, 4)} for item, score in named]})
        return rows
