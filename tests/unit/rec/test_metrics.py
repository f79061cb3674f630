"""AUC and log loss against scikit-learn and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from paddlecore import distributed
from paddlerec.metrics import AUC, LogLoss, auc

rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=1, max_size=40)


@given(rows)
def test_auc_against_all_pairs(pairs: list[tuple[int, int]]) -> None:
    ones = [s for s, label in pairs if label]
    zeros = [s for s, label in pairs if not label]
    found = auc(np.array([s for s, _ in pairs], dtype=np.float32), np.array([label for _, label in pairs]))
    if not ones or not zeros:
        assert math.isnan(found)
    else:
        wins = sum((a > b) + 0.5 * (a == b) for a in ones for b in zeros)
        assert found == pytest.approx(wins / (len(ones) * len(zeros)), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 7, 1000, None])
def test_auc_against_scikit_learn(levels: int | None) -> None:
    random = np.random.default_rng(levels)
    scores = random.standard_normal(5000).astype(np.float32)
    if levels:
        scores = np.round(scores * levels / 5) / levels
    labels = random.random(5000) < 1 / (1 + np.exp(-scores))
    metric = AUC()
    for part in np.array_split(np.arange(5000), 7):
        metric.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part].astype(np.float32)))
    assert metric.compute()["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_with_weights_is_the_mean_over_labels() -> None:
    """Weights p and 1 - p count a row as a fraction of each class: repeating rows must give the same."""
    scores, p = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.25, 0.5, 0.75, 0.5])
    repeated = np.repeat(scores, 4)
    labels = np.concatenate([[1] * round(4 * q) + [0] * round(4 - 4 * q) for q in p])
    assert auc(scores, p) == pytest.approx(roc_auc_score(labels, repeated), abs=1e-12)


@pytest.mark.parametrize("labels, why", [([0, 0], "0 of 2 labels are 1"), ([1, 1], "2 of 2"), ([], "0 of 0")])
def test_auc_of_one_class_is_nan_and_says_why(labels: list[int], why: str) -> None:
    metric = AUC()
    metric.update(torch.rand(len(labels)), torch.tensor(labels))
    with pytest.warns(RuntimeWarning, match=why):
        assert math.isnan(metric.compute()["auc"])


def test_auc_of_a_nan_score_is_nan() -> None:
    metric = AUC()
    metric.update(torch.tensor([0.1, float("nan")]), torch.tensor([0, 1]))
    with pytest.warns(RuntimeWarning, match="score is NaN"):
        assert math.isnan(metric.compute()["auc"])


def test_auc_keeps_five_bytes_a_row() -> None:
    metric = AUC()
    metric.update(torch.rand(100, dtype=torch.float64), torch.ones(100))
    assert sum(t.numel() * t.element_size() for t in [*metric.scores, *metric.labels]) == 500


def test_logloss_against_scikit_learn() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(1000), torch.randint(0, 2, (1000,)).float()
    metric = LogLoss()
    metric.update(logits[:300], labels[:300])
    metric.update(logits[300:], labels[300:])
    assert metric.compute()["logloss"] == pytest.approx(log_loss(labels, logits.double().sigmoid()), rel=1e-9)


def test_logloss_of_a_very_sure_mistake_is_finite_and_exact() -> None:
    metric = LogLoss()
    metric.update(torch.tensor([300.0, -300.0]), torch.tensor([0.0, 0.0]))
    assert metric.compute()["logloss"] == pytest.approx(150.0)
    assert math.isnan(LogLoss().compute()["logloss"])


def test_states_of_two_ranks_give_the_number_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    scores, labels = torch.randn(101).round(decimals=1), torch.randint(0, 2, (101,)).float()
    for kind in (AUC, LogLoss):
        whole, ranks = kind(), [kind(), kind()]
        whole.update(scores, labels)
        for metric, part in zip(ranks, (slice(0, 30), slice(30, None)), strict=True):
            metric.update(scores[part], labels[part])
        # what the engine's reductions do, with both ranks in one process
        other = iter([ranks[1].cat(n) if k == "cat" else getattr(ranks[1], n) for n, (k, _) in whole._kinds.items()])
        monkeypatch.setattr(distributed, "gather_rows", lambda t, other=other: torch.cat([t, next(other)]))
        monkeypatch.setattr(distributed, "all_reduce", lambda t, other=other: t + next(other))
        ranks[0].sync()
        for name, value in whole.compute().items():
            assert ranks[0].compute()[name] == pytest.approx(value, abs=1e-12)


def test_reset_forgets() -> None:
    metric = AUC()
    metric.update(torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    metric.reset()
    metric.update(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]))
    assert metric.compute()["auc"] == 1.0
