"""Retrieval: which of all items does this user take next?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput
from paddlerec.tasks.item_ranking import ItemRanking

_LOSSES = ("bpr", "softmax", "sgns", "linear")
_SCORES = 1 << 20  # of pairs and candidates at a time: 4 MiB, which stay in a CPU's cache from one pass to the next
_SCORES_GPU = 1 << 28  # the same for the sake of memory: 1 GiB


class Retrieval(ItemRanking):
    """Models that score by an inner product of a user's and an item's vector, trained on pairs, ranked over all items.

    With s = <user, item> / temperature of a pair (u, i), its loss is one of

    - bpr: the mean over the pair's negatives j of -ln sigmoid(s_ui - s_uj) (Rendle et al., 2009, UAI, section 4); with
      `hardest`, the one with the highest score is its only negative (Zhang, Chen, Wang, Yu, 2013, "Optimizing Top-N
      Collaborative Filtering via Dynamic Negative Item Sampling", SIGIR);
    - softmax: -ln of e^(s_ui - a) / (e^(s_ui - a) + sum over candidates c of e^(s_uc - a_c)), where a = log_q times
      the logarithm of how often an item is among the candidates (Bengio and Senecal, 2008; Yi et al., 2019, RecSys, eq.
      4). Candidates that are `hits` of the pair are left out of the sum;
    - sgns: -ln sigmoid(s_ui - o) - k times the mean over candidates of ln sigmoid(o - s_uc), k = `sgns_negatives`, o =
      `sgns_offset` (Mikolov et al., 2013, NeurIPS, eq. 4, where o = 0); hits do not count;
    - linear: -s_ui, for models in closed form.

    Batch: those of `PairRows` in training and of `UserRows` in evaluation (paddlerec/data/interactions.py); to predict,
    user [B], history [B, T] and seen [B, S]. Where there are `edges`, an array [2, n], a model with `set_graph` gets
    them once.
    Prediction: item [B, k] int64, score [B, k] float32, best first; 0 and -inf where fewer than k items are left. k is
    the larger of `top` and what the measures look at. query [B, d].

    Args:
        model: `forward(user [B], items [M], history) -> ([B, d], [M, d])`, `encode(user, history) -> [B, d]`,
            `item_vectors() -> [N, d]`; with l2, `penalty(user, items) -> []`. One with `reads_histories = True` is
            refused data that have none.
        labels, measures, top, index: see `ItemRanking`.
        loss: bpr, softmax, sgns or linear.
        temperature: what scores are divided by in the loss.
        log_q: 1 = sampled softmax corrects for how often items are drawn, 0 = it does not, which holds back popular
            items; or between.
        hardest: of a pair's negatives, bpr takes the one with the highest score.
        sgns_negatives: k of sgns.
        sgns_offset: o of sgns. Cosines within one table average 0 or more, but the right score of an unrelated pair is
            far below: with o = 0 they are all pressed apart, in vain. No ranking depends on it.
        l2: adds l2 / 2 times the squares of the vectors that a pair and its negatives are made of.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        loss: str = "softmax",
        temperature: float = 1.0,
        log_q: float = 1.0,
        hardest: bool = False,
        sgns_negatives: float = 5.0,
        sgns_offset: float = 0.0,
        l2: float = 0.0,
        measures: list[str] | tuple[str, ...] = ("recall@20", "ndcg@20"),
        top: int = 10,
        index: str = "exact",
    ) -> None:
        super().__init__(model, labels, measures, top, index)
        if loss not in _LOSSES:
            raise ValueError(f"task.loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if temperature <= 0 or l2 < 0 or sgns_negatives <= 0:
            raise ValueError("task.temperature and sgns_negatives must be positive, l2 not negative")
        if l2 and not hasattr(model, "penalty"):
            raise ValueError(f"task.l2: {type(model).__name__} has no penalty(); optim.tables_weight_decay may do")
        if hardest and loss != "bpr":
            raise ValueError(f"task.hardest chooses among the negatives of task.loss=bpr; the loss is {loss}")
        self.loss, self.temperature, self.log_q, self.l2 = loss, temperature, log_q, l2
        self.hardest, self.sgns_negatives, self.sgns_offset = hardest, sgns_negatives, sgns_offset

    def _take_graph(self, batch: Batch) -> None:
        if "edges" in batch and hasattr(self.model, "set_graph") and not self.model.has_graph:
            edges = torch.from_numpy(batch["edges"]).to(batch["user"].device)
            self.model.set_graph(*edges)  # type: ignore[operator]

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        self._take_graph(batch)
        user, item = batch["user"], batch["item"]
        others = {"bpr": "negative", "softmax": "candidates", "sgns": "candidates"}.get(self.loss)
        if others is not None and others not in batch:
            wanted = "data.negatives" if others == "negative" else "data.in_batch or data.sampled"
            raise ConfigError(f"task.loss={self.loss} needs {others} in the batch: set {wanted}")
        if getattr(self.model, "reads_histories", False) and "history" not in batch:
            raise ConfigError(f"{type(self.model).__name__} learns from histories: set data.train_history")
        if not getattr(self.model, "has_graph", True):
            raise ConfigError(f"{type(self.model).__name__} learns from the graph of all pairs: set data.graph=true")
        more = batch[others].flatten() if others is not None else item[:0]
        if self.loss == "bpr" and self.hardest:
            more = self._hardest(batch)
        query, vectors = self.model(user, torch.cat([item, more]), batch.get("history"))
        query = query.float() / self.temperature
        own, rest = vectors.float().split([len(item), len(more)])
        positive = (query * own).sum(1)  # [B]
        if self.loss == "bpr":
            negative = (query.unsqueeze(1) @ rest.view(len(item), -1, rest.shape[1]).transpose(1, 2)).squeeze(1)
            loss = nn.functional.softplus(negative - positive.unsqueeze(1)).mean(1).sum()
        elif self.loss == "softmax":
            loss = self._softmax(query, positive, rest, batch)
        elif self.loss == "sgns":
            loss = self._sgns(positive - self.sgns_offset, query @ rest.t() - self.sgns_offset, batch)
        else:
            loss = -positive.sum()
        if self.l2:
            used = torch.cat([item, more]) if self.loss == "bpr" else item
            loss = loss + 0.5 * self.l2 * self.model.penalty(user, used)  # type: ignore[operator]
        return StepOutput(loss, torch.tensor(len(item)), {})

    @torch.no_grad()
    def _hardest(self, batch: Batch) -> Tensor:
        """[B] int64: each pair's negative with the highest score."""
        negative = batch["negative"]
        query, vectors = self.model(batch["user"], negative.flatten(), batch.get("history"))
        score = (vectors.view(*negative.shape, -1) @ query.unsqueeze(2)).squeeze(2)  # [B, negatives]
        return negative.gather(1, score.argmax(1, keepdim=True)).flatten()

    def _softmax(self, query: Tensor, positive: Tensor, rest: Tensor, batch: Batch) -> Tensor:
        """Queries [B, d], scores of their own items [B], vectors of the candidates [C, d] -> [] sum."""
        if self.log_q:
            positive = positive - self.log_q * batch["item_log_q"]
        at_a_time = _SCORES if query.device.type == "cpu" else _SCORES_GPU
        rows = max(at_a_time // len(rest), 1)  # all [B, C] at once take twice the time, and memory
        hits = self._hits(batch, rows)
        loss = positive.new_zeros(())
        for some, own, known in zip(query.split(rows), positive.split(rows), hits, strict=True):
            score = (some @ rest.t()).float()
            if self.log_q:
                score = score - self.log_q * batch["candidates_log_q"]
            # not -inf, whose gradient would be NaN where all candidates of a pair are hits
            score = score.flatten().index_fill(0, known, torch.finfo(score.dtype).min).view_as(score)
            # log(e^p + sum e^n) - p, without a [B, 1 + C] copy
            loss = loss + nn.functional.softplus(score.logsumexp(1) - own).sum()
        return loss

    def _hits(self, batch: Batch, rows: int) -> list[Tensor]:
        """For each `rows` pairs, [h] int64: the places of their hits in the flat [rows, C] scores."""
        row, place = batch["hits"]
        flat = row % rows * len(batch["candidates"]) + place
        if len(batch["item"]) <= rows:
            return [flat]
        starts = torch.arange(rows, len(batch["item"]), rows, device=row.device)
        return list(flat.tensor_split(torch.searchsorted(row, starts).tolist()))

    def _sgns(self, positive: Tensor, negative: Tensor, batch: Batch) -> Tensor:
        """[B], [B, C] -> [] sum."""
        other = torch.ones_like(negative, dtype=torch.bool)
        other[tuple(batch["hits"])] = False
        noise = (nn.functional.softplus(negative) * other).sum(1) / other.sum(1).clamp(min=1)
        return (nn.functional.softplus(-positive) + self.sgns_negatives * noise).sum()

    def predict(self, batch: Batch) -> Prediction:
        self._take_graph(batch)
        query = self.model.encode(batch["user"], batch.get("history")).float()  # type: ignore[operator]
        score, item = self.recommend(query, max(self.longest, self.top), batch.get("seen"))
        return {"item": item, "score": score, "query": query}

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        """A training batch (of a run on few batches) counts as users with one item to find, nothing seen."""
        ranking, *more = metrics
        relevant = batch["relevant"] if "relevant" in batch else batch["item"].unsqueeze(1)
        found = prediction["item"]
        hits = ((found.unsqueeze(2) == relevant.unsqueeze(1)) & (found > 0).unsqueeze(2)).any(2)
        ranking.update(hits, batch.get("num_relevant", torch.ones(len(found), dtype=torch.int64)))
        for recall in more:
            self.compare(recall, prediction["query"], found, batch.get("seen"))

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        return self.listed(prediction["score"], prediction["item"])
