"""Tagging: which tag of many fits this document best?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.metrics import PrecisionAt1


def warp_loss(scores: Tensor, label: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """The weighted approximate-rank pairwise loss of each row (Weston, Bengio, Usunier, 2011, "WSABIE", IJCAI,
    algorithm 1; in TagSpace: section 3).

    Wrong tags are drawn one after the other, until one comes within `margin` of the right one. If that takes n draws,
    the right tag's rank is about r = floor((C - 1) / n), and the loss is L(r) times the hinge, L(r) = 1 + 1/2 + ... +
    1/r: a right tag that stands low is pushed harder. If none of the draws comes so near, the loss is 0.

    Args:
        scores: [B, C] float.
        label: [B] int64, the right tag.
        negatives: [B, M] int64, draws with replacement from the other tags, in order.
        margin: > 0.

    Returns:
        [B].
    """
    count, draws = scores.shape[1], negatives.shape[1]
    gaps = margin - scores.gather(1, label.unsqueeze(1)) + scores.gather(1, negatives)  # [B, M]
    place = torch.arange(draws, device=scores.device)
    first = torch.where(gaps.detach() > 0, place, draws).amin(1)  # [B]; M: none comes near
    ranks = torch.arange(count, device=scores.device)
    harmonic = torch.where(ranks > 0, 1.0 / ranks.clamp(min=1), 0.0).cumsum(0)  # [C] L(0), L(1), ...
    weight = harmonic[(count - 1) // (first + 1)]
    return weight * gaps.gather(1, first.clamp(max=draws - 1).unsqueeze(1)).squeeze(1).clamp(min=0)


class Tagging(Task):
    """Pairwise hinge between the right tag and a sampled wrong one, weighted by the rank that the sampling reveals.

    Batch: tokens [B, T] int64, padded on the right; label [B] int64; in training negatives [B, M] int64 (see
    `warp_loss`). Prediction: score [B, C], label [B] int64 the best tag.

    Args:
        model: maps tokens to the scores [B, C] of all tags.
        labels: names of the tags in order, for `render`; None = their numbers.
        margin: what the right tag should score above any other.
    """

    def __init__(self, model: nn.Module, labels: list[str] | None = None, margin: float = 0.1) -> None:
        super().__init__(model)
        if margin <= 0:
            raise ValueError(f"task.margin must be above 0, got {margin}")
        self.labels, self.margin = labels, margin

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        score = self.model(batch["tokens"]).float()
        loss = warp_loss(score, batch["label"], batch["negatives"], self.margin).sum()
        right = (score.detach().argmax(1) == batch["label"]).sum()
        return StepOutput(loss, torch.tensor(len(score)), {"p@1": right})

    def predict(self, batch: Batch) -> Prediction:
        score = self.model(batch["tokens"]).float()
        return {"score": score, "label": score.argmax(1)}

    def metrics(self) -> list[Metric]:
        return [PrecisionAt1()]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        metrics[0].update(prediction["score"], batch["label"])

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """tag: the best one; score: those of the five best, best first."""
        best = prediction["score"].topk(min(5, prediction["score"].shape[1]))
        rows = []
        for values, places in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            named = {self._name(i): round(v, 6) for i, v in zip(places, values, strict=True)}
            rows.append({"tag": next(iter(named)), "score": named})
        return rows

    def _name(self, label: int) -> str:
        return str(label) if self.labels is None else self.labels[label]
