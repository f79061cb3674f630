"""Text classification: sums over texts, metrics against scikit-learn, readable predictions."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn

from paddlecore.errors import ConfigError
from paddlenlp.metrics import MacroF1
from paddlenlp.tasks import TextClassification

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.5, 0.0], [0.2, 0.1, 0.3]])
LABELS = torch.tensor([0, 2, 1, 2])


class Given(nn.Module):
    """The scores of row `token`."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return SCORES[tokens[:, 0]]


BATCH = {"tokens": torch.arange(4)[:, None], "label": LABELS}


def test_loss_is_a_sum_over_texts() -> None:
    out = TextClassification(Given())(BATCH)
    probability = SCORES.double().softmax(1)
    expected = -sum(math.log(probability[i, label]) for i, label in enumerate(LABELS.tolist()))
    assert float(out.loss_sum) == pytest.approx(expected, rel=1e-6)
    assert int(out.weight) == 4 and int(out.logs["acc"]) == 2


def test_metrics_equal_scikit_learn() -> None:
    task = TextClassification(Given())
    metrics = task.metrics()
    for part in (slice(0, 3), slice(3, 4)):
        batch = {name: value[part] for name, value in BATCH.items()}
        task.measure(metrics, task.predict({"tokens": batch["tokens"]}), batch)
    found = {k: v for m in metrics for k, v in m.compute().items()}
    assert found["acc"] == accuracy_score(LABELS, SCORES.argmax(1))
    assert found["loss"] == pytest.approx(log_loss(LABELS, SCORES.double().softmax(1)), rel=1e-6)
    assert list(found) == ["acc", "loss"]


def test_macro_f1_equals_scikit_learn() -> None:
    with pytest.raises(ConfigError, match=r"task\.f1.*give task\.labels"):
        TextClassification(Given(), f1=True)
    task = TextClassification(Given(), ["bad", "fair", "good", "never"], f1=True)
    metrics = task.metrics()
    task.measure(metrics, task.predict(BATCH), BATCH)
    assert metrics[-1].compute() == {"f1": pytest.approx(f1_score(LABELS, SCORES.argmax(1), average="macro"))}
    torch.manual_seed(3)
    said, label = torch.randint(5, (2, 200))
    metric = MacroF1(6)
    assert math.isnan(metric.compute()["f1"])
    for part in (slice(0, 150), slice(150, 200)):
        metric.update(said[part], label[part])
    assert metric.compute()["f1"] == pytest.approx(f1_score(label, said, average="macro"))


def test_accuracy_among_as_many_as_there_are_classes_is_refused() -> None:
    TextClassification(Given(), ["bad", "fair", "good"], top_k=[1, 2])
    TextClassification(Given(), ["only"])
    for k in (3, 5):
        with pytest.raises(ValueError, match=rf"task\.top_k=\[1, {k}\]: there are 3 classes.*give numbers below 3"):
            TextClassification(Given(), ["bad", "fair", "good"], top_k=[1, k])


def test_render_names_classes_best_first() -> None:
    task = TextClassification(Given(), labels=["bad", "fair", "good"])
    rows = task.render(task.predict({"tokens": BATCH["tokens"]}))
    assert [row["label"] for row in rows] == ["bad", "fair", "bad", "good"]
    assert list(rows[1]["probability"]) == ["fair", "good", "bad"]
    assert sum(rows[1]["probability"].values()) == pytest.approx(1.0, abs=1e-5)
