"""The next-item task against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paddlecore import run, testing
from paddlecore.errors import ConfigError
from paddlecore.sparse import RowTable
from paddlerec.tasks import NextItem


class Mean(nn.Module):
    """A history is the mean of its items."""

    def __init__(self, num_items: int = 30, dim: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.table = RowTable(num_items, dim, init_std=1.0)
        self.calls = 0
        if bias:
            self.bias = nn.Parameter(torch.randn(num_items))
            self.item_bias = lambda: self.bias

    def encode(self, history: Tensor) -> Tensor:
        some = (history > 0).unsqueeze(2)
        return (self.table(history) * some).sum(1) / some.sum(1).clamp(min=1)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.table.weight if ids is None else self.table(ids)


@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_ranks_are_those_of_plain_loops(bias: bool) -> None:
    torch.manual_seed(1)
    model = Mean(bias=bias)
    task = NextItem(model, measures=("recall@5", "mrr@5"))
    batch = {"history": torch.tensor([[3, 4, 0], [7, 7, 9], [0, 0, 0]]), "target": torch.tensor([5, 7, 0])}
    query, items = model.encode(batch["history"]).tolist(), model.table.weight.tolist()
    scores = [[sum(q * v for q, v in zip(query[b], items[i], strict=True)) for i in range(30)] for b in range(3)]
    if bias:
        scores = [[s + model.bias[i].item() for i, s in enumerate(row)] for row in scores]
    loss = sum(
        math.log(sum(math.exp(s) for s in scores[b][1:])) - scores[b][t] for b, t in enumerate(batch["target"][:2])
    )
    out = task({key: value[:2] for key, value in batch.items()})
    assert float(out.loss_sum) == pytest.approx(loss, rel=1e-5) and int(out.weight) == 2
    task.eval()
    metrics = task.metrics()
    with torch.no_grad():
        prediction = task.predict(batch)
        task.measure(metrics, prediction, batch)
    ranks = [sum(s > scores[b][t] for s in scores[b][1:]) for b, t in ((0, 5), (1, 7))]
    wanted = [sum(r < 5 for r in ranks) / 3, sum(1 / (1 + r) for r in ranks if r < 5) / 3]  # the unknown one is a miss
    assert list(metrics[0].compute().values()) == pytest.approx(wanted)
    best = sorted(range(1, 30), key=lambda i: -scores[0][i])[:10]
    # outside of no_grad, as prediction from the command line has it
    assert [row["item"] for row in task.render(prediction)[0]["items"]] == best
    task.labels = [f"item {i}" for i in range(30)]
    assert task.render(prediction)[0]["items"][0]["item"] == f"item {best[0]}"


def test_an_unknown_target_is_a_miss_however_few_items_there_are() -> None:
    task = NextItem(Mean(num_items=4), measures=["recall@20"]).eval()
    for negatives in ({}, {"negatives": torch.tensor([[1, 3], [1, 2]])}):
        batch = {"history": torch.tensor([[1, 2], [1, 2]]), "target": torch.tensor([2, 0]), **negatives}
        metrics = task.metrics()
        with torch.no_grad():
            task.measure(metrics, task.predict(batch), batch)
        assert metrics[0].compute() == {"recall@20": 0.5}


def test_items_that_were_seen_are_not_recommended() -> None:
    torch.manual_seed(1)
    task = NextItem(Mean(), top=30).eval()
    history = torch.tensor([[3, 4, 0], [0, 0, 0]])
    with torch.no_grad():
        given, had = (task.predict({"history": history, **more}) for more in ({}, {"seen": history}))
        everything, rest = ([row["item"] for row in task.render(p)[0]["items"]] for p in (given, had))
    assert rest == [item for item in everything if item not in (3, 4)] and len(everything) == 29


def test_an_unknown_target_cannot_be_trained_on() -> None:
    with pytest.raises(IndexError):
        NextItem(Mean())({"history": torch.tensor([[1]]), "target": torch.tensor([0])})


def test_item_vectors_are_made_once_an_evaluation() -> None:
    task = NextItem(Mean())
    batch = {"history": torch.tensor([[1, 2]]), "target": torch.tensor([3])}
    task.eval()
    with torch.no_grad():
        for _ in range(3):
            task.measure(task.metrics(), task.predict(batch), batch)
    assert task.model.calls == 1
    task.train()
    task(batch)
    task.eval()
    with torch.no_grad():
        task.measure(task.metrics(), task.predict(batch), batch)
    assert task.model.calls == 3


def test_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="recall@20"):
        NextItem(Mean(), measures=("recal@20",))
    with pytest.raises(ValueError, match="top"):
        NextItem(Mean(), top=0)


class States(Mean):
    """A state for each place: the item itself."""

    of_each_place = True

    def forward(self, history: Tensor) -> Tensor:
        return self.table(history)


@pytest.mark.parametrize("bias", [False, True])
def test_a_target_for_each_place(bias: bool) -> None:
    torch.manual_seed(1)
    model = States(bias=bias)
    history, target = torch.tensor([[3, 4, 5], [7, 9, 0]]), torch.tensor([[4, 5, 6], [9, 2, 0]])
    places, negatives = torch.tensor([0, 1, 2, 3, 4]), torch.randint(1, 30, (5, 2))
    items = model.table.weight.double()
    bonus = model.bias.double() if bias else torch.zeros(30).double()
    softmax, bce = 0.0, 0.0
    for place, (b, t) in enumerate(((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))):
        scores = items @ items[history[b, t]] + bonus
        softmax -= float(scores[1:].log_softmax(0)[target[b, t] - 1])
        bce -= float(torch.sigmoid(scores[target[b, t]]).log())
        bce -= sum(float(torch.log(1 - torch.sigmoid(scores[i]))) for i in negatives[place])
    batch = {"history": history, "target": target, "places": places, "negatives": negatives}
    for loss, expected in (("softmax", softmax), ("bce", bce)):
        out = NextItem(model, loss=loss)(batch)
        assert float(out.loss_sum) == pytest.approx(expected, rel=1e-5) and int(out.weight) == 5
        wider = {name: nn.functional.pad(batch[name], (0, 3)) for name in ("history", "target")}
        wider = {**batch, **wider, "places": torch.tensor([0, 1, 2, 6, 7])}
        assert float(NextItem(model, loss=loss)(wider).loss_sum) == pytest.approx(expected, rel=1e-5)


def test_bce_makes_no_gradient_of_the_tables_size() -> None:
    torch.manual_seed(1)
    model = States()
    batch = {
        "history": torch.tensor([[3, 4]]),
        "target": torch.tensor([[4, 5]]),
        "places": torch.tensor([0, 1]),
        "negatives": torch.tensor([[7], [8]]),
    }
    task = NextItem(model, loss="bce")
    task(batch).loss_sum.backward()
    expected, model.table.weight.grad = model.table.weight.grad, None
    model.table.adopt()
    task(batch).loss_sum.backward()
    assert model.table.weight.grad is None
    ids, rows = model.table.take()
    torch.testing.assert_close(torch.zeros_like(expected).index_add_(0, ids, rows), expected)


def test_vectors_for_other_indexes_give_the_same_scores() -> None:
    task = NextItem(Mean()).eval()
    with torch.no_grad():
        exported = task.export()
        assert "labels" not in exported
        query = task.predict({"history": torch.tensor([[3, 4]])})["query"]
        scores, ids = task.recommend(query, 5)
        mine = query @ exported["vectors"].t() + exported.get("bias", torch.zeros(()))
    torch.testing.assert_close(mine.gather(1, ids), scores)


@pytest.mark.parametrize("bias", [False, True])
def test_an_approximate_index_serves_and_says_what_it_finds(bias: bool) -> None:
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    history, target = torch.randint(1, 4000, (40, 3)), torch.randint(1, 4000, (40,))
    tasks = [NextItem(Mean(4000, bias=bias), measures=["recall@20"], index=kind).eval() for kind in ("exact", "faiss")]
    tasks[1].model.load_state_dict(tasks[0].model.state_dict())
    batch = {"history": history, "target": target, "seen": history}
    lists, shown = [], []
    with torch.no_grad():
        batch["target"] = tasks[0].recommend(tasks[0].predict(batch)["query"], 1, history)[1][:, 0]  # each a hit
        for task in tasks:
            prediction, metrics = task.predict(batch), task.metrics()
            task.measure(metrics, prediction, batch)
            lists.append(task.recommend(prediction["query"], 20, history))
            shown.append({name: value for metric in metrics for name, value in metric.compute().items()})
    both = (lists[0][1].unsqueeze(2) == lists[1][1].unsqueeze(1)).any(2)
    assert shown[0] == {"recall@20": 1.0}
    assert shown[1]["index_recall"] == pytest.approx(float(both.double().mean())) and 0.2 < shown[1]["index_recall"] < 1
    assert shown[1]["recall@20"] == pytest.approx(float(both[:, 0].double().mean()))  # a missed item is a miss
    scores, ids = lists[1]
    query, (vectors, biases) = tasks[1].predict(batch)["query"], tasks[1].items()
    exact = query @ vectors.T + (biases if bias else 0.0)
    torch.testing.assert_close(scores, exact.gather(1, ids).detach())


@pytest.mark.parametrize("recipe", ["rec/sasrec_games", "rec/srgnn_yoochoose", "rec/gru4rec_yoochoose"])
def test_vectors_are_written_for_other_indexes(recipe: str, tmp_path: Path) -> None:
    trainer, _ = testing.tiny_trainer(recipe, folder=tmp_path / "run")
    trainer.fit()
    written = run.export_vectors(testing.tiny(recipe, f"init.weights={tmp_path / 'run'}"), tmp_path / "vectors")
    vectors, bias = trainer.task.eval().items()
    for name, value in {"vectors": vectors, **({} if bias is None else {"bias": bias})}.items():
        np.testing.assert_array_equal(np.load(tmp_path / "vectors" / f"{name}.npy"), value.detach().numpy())
    assert written["files"]["vectors.npy"] == list(vectors.shape)


def test_bce_needs_negatives() -> None:
    with pytest.raises(ConfigError, match=r"data\.negatives"):
        NextItem(Mean(), loss="bce")({"history": torch.tensor([[1]]), "target": torch.tensor([2])})
    with pytest.raises(ConfigError, match="Mean has no state for each place"):
        NextItem(Mean())({"history": torch.tensor([[1]]), "target": torch.tensor([[2]]), "places": torch.tensor([0])})
    with pytest.raises(ValueError, match="softmax or bce"):
        NextItem(Mean(), loss="hinge")


def test_ranks_among_given_negatives_and_without_seen_items() -> None:
    torch.manual_seed(1)
    task = NextItem(Mean(), measures=["mrr@30"]).eval()
    history, target = torch.tensor([[3, 4], [7, 0]]), torch.tensor([5, 9])
    given = torch.tensor([[1, 2, 3, 4, 6, 0], [9, 1, 2, 3, 11, 28]])  # with padding, and with the target itself
    with torch.no_grad():
        scores = task.model.encode(history) @ task.model.table.weight.T
        for key in ("negatives", "seen"):
            batch = {"history": history, "target": target, key: given.masked_fill(given == 9, 0)}
            (metric,) = metrics = task.metrics()
            task.measure(metrics, task.predict(batch), batch)
            places = []
            for b in range(2):
                among = [int(i) for i in given[b] if i not in (0, 9)]
                if key == "seen":
                    among = [i for i in range(1, 30) if i not in among]
                places.append(sum(bool(scores[b, i] > scores[b, target[b]]) for i in among))
            assert metric.compute()["mrr@30"] == pytest.approx(sum(1 / (1 + p) for p in places) / 2)
