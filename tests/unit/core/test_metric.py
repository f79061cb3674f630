"""Metrics against brute force and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from paddlecore.metric import Accuracy, Mean, Metric


def test_accuracy_equals_scikit_learn_over_batches() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(200, 7), torch.randint(0, 7, (200,))
    metric = Accuracy(top_k=(1, 3))
    for part in (slice(0, 60), slice(60, 61), slice(61, 200)):
        metric.update(scores[part], labels[part])
    got = metric.compute()
    assert got["acc"] == pytest.approx((scores.argmax(1) == labels).double().mean().item(), abs=0)
    assert got["acc@3"] == pytest.approx(top_k_accuracy_score(labels, scores.numpy(), k=3, labels=range(7)))
    metric.reset()
    assert math.isnan(metric.compute()["acc"])


def test_accuracy_counts_ties_as_argmax_does_and_nan_as_wrong() -> None:
    metric = Accuracy()
    metric.update(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1]))
    assert metric.compute()["acc"] == 0.5
    metric.reset()
    metric.update(torch.full((4, 3), float("nan")), torch.tensor([0, 1, 2, 0]))
    assert metric.compute()["acc"] == 0


def test_mean_weighs_by_count() -> None:
    mean = Mean("loss")
    mean.update(torch.tensor(6.0), 3)
    mean.update(torch.tensor(4.0), torch.tensor(1))
    assert mean.compute() == {"loss": 2.5} and mean.goals == {"loss": "min"}


def test_states_are_declared_reset_and_joined() -> None:
    class Kept(Metric):
        goals, signature = {"n": "max"}, "n"

        def __init__(self) -> None:
            super().__init__()
            self.add_state("values", torch.zeros(0, 2), "cat")

    kept = Kept()
    assert kept.cat("values").shape == (0, 2)
    kept.values += [torch.ones(3, 2), torch.zeros(1, 2)]  # type: ignore[attr-defined]
    assert kept.cat("values").sum() == 6
    kept.sync()  # one process: nothing changes
    assert kept.cat("values").shape == (4, 2)
    kept.reset()
    assert kept.cat("values").shape == (0, 2)
    with pytest.raises(ValueError, match="reduce"):
        kept.add_state("x", torch.zeros(()), "mean")
