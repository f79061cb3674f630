"""Matching: which of the candidates belongs to this query, or do these two texts belong together?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlenlp.metrics import BinaryF1, GroupRanking

_LOSSES = ("pointwise", "hinge", "softmax")


class Matching(Task):
    """A score for each pair of a query and a candidate, trained on the pairs alone or on right against wrong ones.

    The losses, s a score:

    - pointwise: cross-entropy of sigmoid(s) and the label, a loss a pair;
    - hinge: max(0, margin - s_right + s_wrong), averaged over the wrong ones that were drawn for a right one;
    - softmax: -log of the right one's share of exp(s) among itself and the wrong ones (DSSM, eq. 5 and 6).

    Of the last two the loss is counted by right candidates.

    Batch: query [N, T] or [N, T, L] int64, document [N, U] or [N, U, L] int64, label [N] int64 0 or 1, group [N] int64
    the query's number in the batch; for hinge and softmax also right [P] int64 and wrong [P, K] int64, places in N.
    Prediction: score [N], group [N]; texts, the candidates as they were given, if the batch has them.

    Args:
        model: maps query and document to scores [N]; one that takes [N, T, L] has a table `terms`.
        loss: pointwise, hinge or softmax.
        margin: of the hinge.
        measures: ranking = MAP, MRR, NDCG@3 and @5 by query; labels = accuracy and F1, a score above 0 being yes.
    """

    def __init__(
        self, model: nn.Module, loss: str = "pointwise", margin: float = 0.1, measures: str = "ranking"
    ) -> None:
        super().__init__(model)
        if loss not in _LOSSES:
            raise ValueError(f"task.loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if measures not in ("ranking", "labels"):
            raise ValueError(f"task.measures must be ranking or labels, got {measures!r}")
        if not 0 < margin < math.inf:
            raise ValueError(f"task.margin must be above 0 and finite, got {margin}")
        self.loss, self.margin, self.measures = loss, margin, measures

    def _score(self, batch: Batch) -> Tensor:
        if batch["query"].dim() == 3 and not hasattr(self.model, "terms"):
            raise ConfigError(f"{type(self.model).__name__} reads words as they are: set data.trigrams=false")
        return self.model(batch["query"], batch["document"]).float()

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        if self.loss != "pointwise" and "right" not in batch:
            raise ConfigError(f"task.loss={self.loss} needs wrong candidates beside right ones: set data.negatives")
        score = self._score(batch)  # [N]
        if self.loss == "pointwise":
            label = batch["label"]
            loss = nn.functional.binary_cross_entropy_with_logits(score, label.float(), reduction="sum")
            hits = ((score.detach() > 0) == (label > 0)).sum()
            return StepOutput(loss, torch.tensor(len(label)), {"acc": hits})
        right, wrong = score[batch["right"]], score[batch["wrong"]]  # [P], [P, K]
        if self.loss == "hinge":
            loss = (self.margin - right[:, None] + wrong).clamp(min=0).mean(1).sum()
        else:
            loss = (torch.cat([right[:, None], wrong], 1).logsumexp(1) - right).sum()
        first = (right.detach() > wrong.detach().amax(1)).sum()
        return StepOutput(loss, torch.tensor(len(right)), {"first": first})

    def predict(self, batch: Batch) -> Prediction:
        return {"score": self._score(batch), **{name: batch[name] for name in ("group", "texts") if name in batch}}

    def metrics(self) -> list[Metric]:
        return [GroupRanking() if self.measures == "ranking" else BinaryF1()]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        if self.measures == "ranking":
            metrics[0].update(prediction["score"], batch["label"], batch["group"])
        else:
            metrics[0].update(prediction["score"], batch["label"])

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """One dict a query: its candidates, best first, each with its score (equal ones in the order given)."""
        score, group = prediction["score"].tolist(), prediction["group"].tolist()
        texts = prediction.get("texts") or [str(place) for place in range(len(score))]
        ranked: list[list[dict[str, Any]]] = [[] for _ in range(max(group) + 1)]
        for place in sorted(range(len(score)), key=lambda i: -score[i]):
            ranked[group[place]].append({"text": texts[place], "score": round(score[place], 6)})
        return [{"ranking": candidates} for candidates in ranked]
