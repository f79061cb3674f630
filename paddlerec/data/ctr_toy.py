"""Generated click data whose best possible AUC is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from paddlecore.data import ArrayRows, DataModule, mix
from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlerec.data.reader import row
from paddlerec.metrics import auc

_FIELDS = {"user": 100, "item": 100, "city": 40, "hour": 24, "category": 20, "page": 12, "weekday": 7, "device": 5}
_DENSE = ("price", "freshness")
_LARGEST = float(np.finfo(np.float32).max)


class World:
    """The law that labels follow: P(click) = sigmoid of a factorisation machine over ids and dense features.

    Args:
        sizes: values of each categorical field; their ids are 1..size, for 0 is kept for values never seen.
        num_dense: dense features, standard normal.
        seed: of the law itself; `draw` takes another for the rows.
        pairs: standard deviation of the sum over pairs of fields.
        first: standard deviation of the sum of first-order terms.
    """

    def __init__(
        self, sizes: Sequence[int], num_dense: int, seed: int, *, pairs: float = 1.5, first: float = 0.7
    ) -> None:
        random = np.random.Generator(np.random.Philox(key=mix(seed, 0)))
        self.sizes, self.num_dense = list(sizes), num_dense
        terms, rank = len(sizes) + num_dense, 4
        # a sum of n (n - 1) / 2 products <v_i, v_j> of `rank` unit normals has this standard deviation
        unit = (max(terms * (terms - 1), 2) / 2 * rank) ** 0.25
        self.weights = [first / terms**0.5 * random.standard_normal(size) for size in sizes]
        self.vectors = [pairs**0.5 / unit * random.standard_normal((size, rank)) for size in sizes]
        self.dense_weights = first / terms**0.5 * random.standard_normal(num_dense)
        self.dense_vectors = pairs**0.5 / unit * random.standard_normal((num_dense, rank))

    def draw(self, rows: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`rows` rows as columns (ids [n, F] int32, dense [n, D] float32 if D > 0, label [n] float32), and P(label = 1)
        [n] float64."""
        random = np.random.Generator(np.random.Philox(key=mix(seed, 1)))
        # a few values are common and many are rare, as in logs of clicks
        chances = [(p := (np.arange(size) + 5.0) ** -0.7) / p.sum() for size in self.sizes]
        values = [random.choice(len(p), size=rows, p=p) for p in chances]
        dense = random.standard_normal((rows, self.num_dense)).astype(np.float32)
        logit = -0.5 + dense @ self.dense_weights
        total = dense @ self.dense_vectors  # [n, rank]
        squares = np.square(dense) @ np.square(self.dense_vectors).sum(1)
        for value, weight, vector in zip(values, self.weights, self.vectors, strict=True):
            logit += weight[value]
            total += vector[value]
            squares += np.square(vector[value]).sum(1)
        probability = 1.0 / (1.0 + np.exp(-(logit + 0.5 * (np.square(total).sum(1) - squares))))
        label = (random.random(rows) < probability).astype(np.float32)
        columns = {"ids": np.stack(values, 1).astype(np.int32) + np.int32(1), "label": label}
        return ({**columns, "dense": dense} if self.num_dense else columns), probability


def best_auc(probability: np.ndarray) -> float:
    """The AUC that ranking by the true probabilities has on average over the labels, and so no model exceeds.

    Over pairs of different rows, with weight p_i (1 - p_j) that i is a 1 and j a 0: the weight of those with
    p_i > p_j, plus half of the ties, over the weight of all. (A ratio of means, where the mean of the ratio is meant;
    they differ by O(1 / rows).)

    Args:
        probability: [n] P(label = 1) of each row.
    """
    total = probability.sum() * (1.0 - probability).sum()
    itself = (probability * (1.0 - probability)).sum()
    return float((auc(probability, probability) * total - 0.5 * itself) / (total - itself))


def entropy(probability: np.ndarray) -> float:
    """The mean log loss of the true probabilities [n], in nats: no model can expect a lower one."""
    p = np.clip(probability, 1e-300, 1.0)
    q = np.clip(1.0 - probability, 1e-300, 1.0)
    return float(-(p * np.log(p) + (1.0 - p) * np.log(q)).mean())


class CtrToyData(DataModule):
    """Clicks of eight fields and two dense features, drawn from a known law.

    The probability of a click is the sigmoid of a factorisation machine (`World`), so the best possible AUC and log
    loss on the test rows are known (`bounds`): a model of pairs can come close to them, a logistic regression cannot.

    Args:
        train_rows: rows to learn from.
        valid_rows: rows that select the checkpoint.
        test_rows: rows of the score.
        data_seed: of law and rows; the run's seed does not change them.
        **common: see `DataModule`; `source` is `auto` or `toy`, which mean the same here.
    """

    def __init__(
        self,
        *,
        train_rows: int = 200_000,
        valid_rows: int = 20_000,
        test_rows: int = 100_000,
        data_seed: int = 20,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if self.source not in ("auto", "toy"):
            raise ValueError(f"data.source={self.source!r}: this data set is generated; only auto or toy can be given")
        self.sizes = dict(zip(self.splits, (train_rows, valid_rows, test_rows), strict=True))
        if min(self.sizes.values()) < 1:
            raise ValueError(f"each split needs at least one row; got {self.sizes}")
        self.data_seed = data_seed
        self._rows: dict[str, ArrayRows] = {}
        self._bounds: dict[str, float] = {}

    @property
    def spec(self) -> dict[str, Any]:
        return {"vocab_sizes": [size + 1 for size in _FIELDS.values()], "num_dense": len(_DENSE)}

    def prepare(self) -> None:
        world = World(list(_FIELDS.values()), len(_DENSE), self.data_seed)
        for number, (split, size) in enumerate(self.sizes.items()):
            columns, probability = world.draw(size, mix(self.data_seed, number))
            self._rows[split] = ArrayRows(columns)
            if split == "test":
                self._bounds = {"auc": best_auc(probability), "logloss": entropy(probability)}

    def rows(self, split: str) -> ArrayRows:
        return self._rows[split]

    def bounds(self) -> dict[str, float]:
        return dict(self._bounds)

    def encode(self, raw: Any) -> Batch:
        """A row as a dict or JSON text, e.g. {"user": 3, ..., "price": 0.5}: each field's value counts from 1, dense
        features are numbers of about -3 to 3. Values outside a field are unseen."""
        names = [*_FIELDS, *_DENSE]
        given = row(raw, names)
        for name in names:
            value = given[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
                raise DataError(f"column {name!r} must be a number, got {value!r:.80}")
        ids = [int(given[name]) if 1 <= given[name] <= size else 0 for name, size in _FIELDS.items()]
        return {
            "ids": torch.tensor([ids], dtype=torch.int32),
            "dense": torch.tensor([[given[name] for name in _DENSE]], dtype=torch.float32),
        }

    def examples(self) -> list[dict[str, Any]]:
        rows = []
        for k in (1, 3, 5):
            example: dict[str, Any] = {name: k * 7 % size + 1 for name, size in _FIELDS.items()}
            rows.append({**example, "price": round(0.5 * k - 1.0, 2), "freshness": round(1.0 - 0.4 * k, 2)})
        return rows

    def describe(self) -> dict[str, Any]:
        clicks = {split: float(rows.columns["label"].mean()) for split, rows in self._rows.items()}
        return {**super().describe(), "click_rate": clicks, "best_auc": self._bounds["auc"], "bounds": self.bounds()}
