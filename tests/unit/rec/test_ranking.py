"""Ranking measures against their definitions and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from paddlerec.metrics import Ranking

MEASURES = [f"{kind}@{k}" for kind in ("recall", "hr", "precision", "mrr", "ndcg") for k in (1, 5, 12)]


def slow(hits: list[bool], relevant: int, kind: str, k: int) -> float:
    first = [j for j in range(k) if hits[j]]
    if kind == "recall":
        return len(first) / relevant
    if kind == "hr":
        return float(bool(first))
    if kind == "precision":
        return len(first) / k
    if kind == "mrr":
        return 1 / (first[0] + 1) if first else 0.0
    return sum(1 / math.log2(j + 2) for j in first) / sum(1 / math.log2(j + 2) for j in range(min(relevant, k)))


def test_all_measures_against_their_definitions():
    rng = np.random.default_rng(0)
    hits = torch.from_numpy(rng.random((60, 12)) < 0.2)
    hits[[3, 40]] = False
    relevant = hits.sum(1) + torch.from_numpy(rng.integers(0, 4, 60))
    relevant[3] = 0
    metric = Ranking(MEASURES)
    for start in range(0, 60, 7):
        metric.update(hits[start : start + 7], relevant[start : start + 7])
    counted = (relevant > 0).nonzero().squeeze(1).tolist()
    assert int(metric.skipped) == 60 - len(counted) > 0 and int(metric.rows) == len(counted)
    for name, value in metric.compute().items():
        kind, k = name.split("@")
        expected = np.mean([slow(hits[i].tolist(), int(relevant[i]), kind, int(k)) for i in counted])
        assert value == pytest.approx(expected, abs=1e-12), name


def test_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth, scores = rng.random((40, 50)) < 0.1, rng.random((40, 50))
    truth[:, 0] = True
    order = np.argsort(-scores, 1)
    metric = Ranking(["ndcg@10"])
    metric.update(torch.from_numpy(np.take_along_axis(truth, order, 1)), torch.from_numpy(truth.sum(1)))
    assert metric.compute()["ndcg@10"] == pytest.approx(ndcg_score(truth, scores, k=10), abs=1e-12)


def test_one_target_a_row():
    ranks = torch.tensor([0, 1, 4, 5, 19, 20, 10**6])
    metric = Ranking(["recall@5", "hr@5", "mrr@20", "ndcg@20"])
    metric.update_ranks(ranks)
    places = [1, 2, 5, 6, 20]
    expected = [3 / 7, 3 / 7, sum(1 / p for p in places) / 7, sum(1 / math.log2(1 + p) for p in places) / 7]
    assert list(metric.compute().values()) == pytest.approx(expected, abs=1e-12)


def test_nothing_to_measure_is_nan():
    metric = Ranking(["recall@2"])
    with pytest.warns(RuntimeWarning, match="there is no row"):
        assert math.isnan(metric.compute()["recall@2"])
    metric.update(torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, dtype=torch.int64))
    with pytest.warns(RuntimeWarning, match="none of 3 rows has an item to find"):
        assert math.isnan(metric.compute()["recall@2"]) and int(metric.skipped) == 3


@pytest.mark.parametrize("measures", [[], ["recall"], ["recall@0"], ["auc@5"], ["hr@5", "hr@5"]])
def test_names_that_are_not_measures(measures):
    with pytest.raises(ValueError, match="measures must be"):
        Ranking(measures)


def test_too_short_a_list_is_refused():
    with pytest.raises(ValueError, match="20 places, got 3"):
        Ranking(["recall@20"]).update(torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, dtype=torch.int64))
