"""Matching: the losses, the ranking and F1 metrics against brute force and scikit-learn, readable rankings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, ndcg_score
from torch import nn

from paddlecore.errors import ConfigError
from paddlenlp.metrics import BinaryF1, GroupRanking
from paddlenlp.tasks import Matching

RANDOM = np.random.Generator(np.random.Philox(key=1))


class Given(nn.Module):
    """The score that stands in the document."""

    def forward(self, query: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
        return document[:, 0]


SCORE = torch.tensor([0.5, 2.0, -1.0, 0.0, 0.3])
BATCH = {
    "query": torch.zeros(5, 1),
    "document": SCORE[:, None],
    "label": torch.tensor([1, 0, 0, 1, 0]),
    "group": torch.tensor([0, 0, 0, 1, 1]),
    "right": torch.tensor([0, 3]),
    "wrong": torch.tensor([[1, 2], [4, 4]]),
}


# ---------------------------------------------------------------------------------------------------- losses


def test_pointwise_is_cross_entropy_by_pair() -> None:
    out = Matching(Given())(BATCH)
    p = 1 / (1 + np.exp(-SCORE.double().numpy()))
    expected = -sum(math.log(p[i] if label else 1 - p[i]) for i, label in enumerate(BATCH["label"].tolist()))
    assert float(out.loss_sum) == pytest.approx(expected, rel=1e-6) and int(out.weight) == 5
    assert int(out.logs["acc"]) == 2


def test_hinge_and_softmax_are_by_right_candidate() -> None:
    out = Matching(Given(), loss="hinge", margin=0.4)(BATCH)
    first = (max(0, 0.4 - 0.5 + 2.0) + max(0, 0.4 - 0.5 - 1.0)) / 2
    assert float(out.loss_sum) == pytest.approx(first + 0.4 - 0.0 + 0.3, rel=1e-6) and int(out.weight) == 2
    out = Matching(Given(), loss="softmax")(BATCH)
    share = math.exp(0.5) / (math.exp(0.5) + math.exp(2.0) + math.exp(-1.0))  # Huang et al., 2013, eq. 5
    other = 1 / (1 + 2 * math.exp(0.3))
    assert float(out.loss_sum) == pytest.approx(-math.log(share) - math.log(other), rel=1e-6)
    assert int(out.logs["first"]) == 0


def test_wrong_options_and_data_without_wrong_candidates_are_refused() -> None:
    for options in ({"loss": "listwise"}, {"measures": "map"}, *({"margin": x} for x in (0.0, math.inf, math.nan))):
        with pytest.raises(ValueError, match="task."):
            Matching(Given(), **options)  # type: ignore[arg-type]
    alone = {name: BATCH[name] for name in ("query", "document", "label", "group")}
    with pytest.raises(ConfigError, match="Given reads words as they are: set data.trigrams=false"):
        Matching(Given()).predict({**BATCH, "query": torch.zeros(5, 1, 3)})
    with pytest.raises(ConfigError, match="set data.negatives"):
        Matching(Given(), loss="hinge")(alone)


def test_render_ranks_the_candidates() -> None:
    task = Matching(Given())
    batch = {name: BATCH[name] for name in ("query", "document", "group")} | {"texts": list("abcde")}
    rows = task.render(task.predict(batch))
    assert [[c["text"] for c in row["ranking"]] for row in rows] == [["b", "a", "c"], ["e", "d"]]
    assert rows[0]["ranking"][0]["score"] == 2.0
    del batch["texts"]
    assert [c["text"] for c in task.render(task.predict(batch))[1]["ranking"]] == ["4", "3"]


def test_measures_by_ranking_or_by_label() -> None:
    for measures, names in (("ranking", ["map", "mrr", "ndcg@3", "ndcg@5"]), ("labels", ["acc", "f1"])):
        task = Matching(Given(), measures=measures)
        metrics = task.metrics()
        task.measure(metrics, task.predict(BATCH), BATCH)
        assert list(metrics[0].compute()) == names
        assert metrics[0].signature


# ---------------------------------------------------------------------------------------------------- ranking


def brute(scores: list[float], labels: list[int]) -> list[float]:
    """By the definitions, one query; among equal scores wrong ones come first."""
    ranked = [label for _, label in sorted(zip(scores, labels, strict=True), key=lambda pair: (-pair[0], pair[1]))]
    places = [j for j, label in enumerate(ranked, 1) if label]
    ap = sum(i / j for i, j in enumerate(places, 1)) / len(places)
    values = [ap, 1 / places[0]]
    for k in (3, 5):
        ideal = sum(1 / math.log2(1 + j) for j in range(1, min(len(places), k) + 1))
        values.append(sum(1 / math.log2(1 + j) for j in places if j <= k) / ideal)
    return values


def queries(count: int, ties: bool) -> list[tuple[list[float], list[int]]]:
    made = []
    for _ in range(count):
        size = int(RANDOM.integers(1, 12))
        scores = RANDOM.integers(0, 4, size) if ties else RANDOM.normal(size=size)
        made.append((scores.astype(float).tolist(), RANDOM.integers(0, 2, size).tolist()))
    return made


def fed(metric: GroupRanking, made: list[tuple[list[float], list[int]]], at_once: int) -> GroupRanking:
    for start in range(0, len(made), at_once):
        part = made[start : start + at_once]
        group = torch.arange(len(part)).repeat_interleave(torch.tensor([len(s) for s, _ in part]))
        score, label = ([v for query in part for v in query[which]] for which in (0, 1))
        metric.update(torch.tensor(score), torch.tensor(label), group)
    return metric


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_ranking_equals_brute_force(ties: bool, at_once: int) -> None:
    made = queries(200, ties)
    found = fed(GroupRanking(), made, at_once)
    kept = [brute(s, labels) for s, labels in made if 0 < sum(labels) < len(labels)]
    assert list(found.compute().values()) == pytest.approx(np.mean(kept, 0).tolist(), rel=1e-9)
    assert int(found.queries) == len(kept) and int(found.skipped) == 200 - len(kept) > 0
    some = fed(GroupRanking(drop_all_right=False), made, at_once)
    kept = [brute(s, labels) for s, labels in made if sum(labels)]
    assert list(some.compute().values()) == pytest.approx(np.mean(kept, 0).tolist(), rel=1e-9)


def test_ranking_equals_scikit_learn_without_ties() -> None:
    made = [q for q in queries(100, False) if 0 < sum(q[1]) < len(q[1])]
    found = fed(GroupRanking(), made, 9).compute()
    assert found["map"] == pytest.approx(np.mean([average_precision_score(y, s) for s, y in made]), rel=1e-9)
    for k in (3, 5):
        assert found[f"ndcg@{k}"] == pytest.approx(np.mean([ndcg_score([y], [s], k=k) for s, y in made]), rel=1e-9)


def test_candidates_may_come_in_any_order_and_groups_too() -> None:
    score, label, group = torch.randn(30), torch.randint(0, 2, (30,)), torch.randint(0, 4, (30,))
    shuffled = torch.randperm(30)
    one, other = GroupRanking(), GroupRanking()
    one.update(score, label, group)
    other.update(score[shuffled], label[shuffled], group[shuffled])
    assert one.compute() == pytest.approx(other.compute(), nan_ok=True)


def test_a_model_that_says_the_same_of_all_gains_nothing() -> None:
    metric = GroupRanking()
    metric.update(torch.zeros(4), torch.tensor([1, 0, 0, 0]), torch.zeros(4, dtype=torch.int64))
    assert metric.compute()["mrr"] == 0.25
    metric.reset()
    metric.update(torch.tensor([math.nan, 1.0]), torch.tensor([1, 0]), torch.zeros(2, dtype=torch.int64))
    assert metric.compute()["map"] == 0.5  # NaN comes last


def test_nothing_to_score_is_nan() -> None:
    metric = GroupRanking()
    metric.update(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))  # one class a query
    assert all(math.isnan(v) for v in metric.compute().values()) and int(metric.skipped) == 2


# ---------------------------------------------------------------------------------------------------- F1


def test_f1_equals_scikit_learn() -> None:
    score, label = torch.randn(101), torch.randint(0, 2, (101,))
    metric = BinaryF1()
    for part in (slice(0, 40), slice(40, 101)):
        metric.update(score[part], label[part])
    found = metric.compute()
    assert found["acc"] == pytest.approx(accuracy_score(label, score > 0))
    assert found["f1"] == pytest.approx(f1_score(label, score > 0))


def test_f1_of_one_class_or_none() -> None:
    metric = BinaryF1()
    assert all(math.isnan(v) for v in metric.compute().values())
    metric.update(torch.tensor([-1.0, math.nan, 0.0]), torch.tensor([0, 0, 0]))
    assert metric.compute() == {"acc": 1.0, "f1": 0.0}
    metric.update(torch.tensor([1.0]), torch.tensor([0]))
    assert metric.compute() == {"acc": 0.75, "f1": 0.0}
