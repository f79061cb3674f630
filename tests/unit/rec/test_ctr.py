"""The click task, and the generated clicks."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from paddlecore.errors import ConfigError, DataError
from paddlerec.data import CtrToyData
from paddlerec.data.ctr_toy import World, best_auc, entropy
from paddlerec.tasks import CTR


class Given(nn.Module):
    """Returns what stands in `dense`, so that logits are known."""

    def forward(self, ids: torch.Tensor, dense: torch.Tensor | None = None) -> torch.Tensor:
        return ids[:, 0].float() if dense is None else dense[:, 0]


def batch() -> dict[str, torch.Tensor]:
    return {
        "ids": torch.zeros(3, 1, dtype=torch.int32),
        "dense": torch.tensor([[0.0], [2.0], [-1.0]]),
        "label": torch.tensor([1.0, 0.0, 1.0]),
    }


def test_loss_is_the_sum_over_rows() -> None:
    out = CTR(Given())(batch())
    expected = math.log(2) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(1))
    assert float(out.loss_sum) == pytest.approx(expected, rel=1e-6)
    assert int(out.weight) == 3


def test_predict_needs_no_label_and_dense_may_be_left_out() -> None:
    task = CTR(Given())
    prediction = task.predict({k: v for k, v in batch().items() if k != "label"})
    assert task.render(prediction) == [{"probability": p} for p in (0.5, 0.880797, 0.268941)]
    assert task.predict({"ids": torch.tensor([[3]])})["score"].tolist() == [3.0]


def test_a_column_that_the_model_does_not_read_is_told() -> None:
    with pytest.warns(UserWarning, match="^Given does not look at history; of sequences, DeepCTR takes those"):
        CTR(Given())({**batch(), "history": torch.tensor([[1], [2], [0]])})
    model = Given()
    model.history_fields = {"history": 0}
    model.forward = lambda ids, dense, histories: histories["history"][:, 0].float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CTR(model)({**batch(), "history": torch.tensor([[1], [2], [0]])})


def test_measure_gives_auc_and_logloss() -> None:
    task = CTR(Given())
    metrics = task.metrics()
    task.measure(metrics, task.predict(batch()), batch())
    found = {k: v for m in metrics for k, v in m.compute().items()}
    assert found == {"auc": 0.0, "logloss": pytest.approx(float(task(batch()).loss_sum) / 3)}


def test_the_auc_within_users_wants_users() -> None:
    task, given = CTR(Given(), gauc=True), {**batch(), "user": torch.tensor([0, 0, 1])}
    metrics = task.metrics()
    task.measure(metrics, task.predict(given), given)
    found = {name: value for metric in metrics for name, value in metric.compute().items()}
    assert found["auc"] == 0.0 and found["gauc"] == 0.0 and metrics[1].left_out == 1  # user 1 has one row
    for use in (lambda: task.measure(metrics, task.predict(batch()), batch()), lambda: task(batch())):
        with pytest.raises(ConfigError, match="set data.user"):
            use()


def test_best_auc_over_all_pairs() -> None:
    p = np.random.default_rng(0).integers(1, 9, 30) / 10  # with ties
    i, j = np.nonzero(~np.eye(30, dtype=bool))
    weight = p[i] * (1 - p[j])
    expected = (weight * ((p[i] > p[j]) + 0.5 * (p[i] == p[j]))).sum() / weight.sum()
    assert best_auc(p) == pytest.approx(expected, abs=1e-12)


def test_labels_follow_the_stated_probability() -> None:
    columns, p = World([30, 20], 1, seed=1).draw(200_000, seed=2)
    # standard errors here are about 0.001
    assert roc_auc_score(columns["label"], p) == pytest.approx(best_auc(p), abs=0.005)
    assert columns["label"].mean() == pytest.approx(p.mean(), abs=0.005)
    loss = -np.where(columns["label"] == 1, np.log(p), np.log(1 - p)).mean()
    assert loss == pytest.approx(entropy(p), abs=0.005)


def test_world_is_a_factorisation_machine() -> None:
    world = World([4, 3], 1, seed=5)
    columns, p = world.draw(50, seed=6)
    for row in range(50):
        a, b = columns["ids"][row] - 1
        x = float(columns["dense"][row, 0])
        vectors = [world.vectors[0][a], world.vectors[1][b], world.dense_vectors[0] * x]
        logit = -0.5 + world.weights[0][a] + world.weights[1][b] + world.dense_weights[0] * x
        logit += sum(vectors[i] @ vectors[j] for i in range(3) for j in range(i + 1, 3))
        assert p[row] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


def toy() -> CtrToyData:
    data = CtrToyData(train_rows=500, valid_rows=100, test_rows=200, seed=9)
    data.prepare()
    return data


def test_toy_ids_lie_in_their_fields_and_do_not_depend_on_the_seed() -> None:
    data, other = toy(), CtrToyData(train_rows=500, valid_rows=100, test_rows=200, seed=1)
    other.prepare()
    ids = data.rows("train").columns["ids"]
    assert ids.dtype == np.int32 and ids.min() >= 1 and (ids.max(0) < data.spec["vocab_sizes"]).all()
    assert np.array_equal(ids, other.rows("train").columns["ids"])
    assert not np.array_equal(ids[:100], data.rows("valid").columns["ids"])
    assert data.describe()["best_auc"] == data.bounds()["auc"] > 0.75


def test_toy_encodes_its_examples() -> None:
    data = CtrToyData()
    for example in data.examples():
        encoded = data.encode(json.dumps(example))
        assert encoded["ids"].shape == (1, 8) and (encoded["ids"] > 0).all()
        assert encoded["dense"].tolist()[0] == pytest.approx([example["price"], example["freshness"]])
    row = data.examples()[0]
    assert data.encode({**row, "user": 10_000})["ids"][0, 0] == data.encode({**row, "user": 10**30})["ids"][0, 0] == 0
    for wrong, message in (
        ({**row, "usr": 1}, "did you mean 'user'"),
        ({k: v for k, v in row.items() if k != "price"}, "lacks 'price'"),
        ({**row, "price": "much"}, "'price' must be a number"),
        ({**row, "price": float("nan")}, "'price' must be a number, got nan"),
        ({**row, "price": 10**400}, "'price' must be a number, got 10+"),
        ("{", "not JSON"),
        ([1], "expected an object"),
    ):
        with pytest.raises(DataError, match=message):
            data.encode(wrong)


def test_toy_refuses_a_path() -> None:
    with pytest.raises(ValueError, match="generated"):
        CtrToyData(source="clicks.csv")
