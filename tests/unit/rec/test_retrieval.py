"""Retrieval: models against their equations, losses against slow transcriptions, the task on hand-made batches."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from paddlecore.errors import ConfigError
from paddlecore.sparse import RowTable
from paddlerec.layers import ApproximateIndex, mean_of_history, top_k
from paddlerec.models import MF, Item2Vec, LightGCN, Popularity, TwoTower
from paddlerec.models.lightgcn import propagate
from paddlerec.tasks import Retrieval


def pairs(users: int = 6, items: int = 8, n: int = 20) -> torch.Tensor:
    """[2, n] different pairs of users 1..users-1 and items 1..items-1."""
    keys = torch.randperm((users - 1) * (items - 1), generator=torch.Generator().manual_seed(0))[:n]
    return torch.stack([1 + keys // (items - 1), 1 + keys % (items - 1)])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_dense_matrix_powers(layers: int) -> None:
    torch.manual_seed(0)
    model = LightGCN(num_users=6, num_items=8, dim=4, layers=layers)
    user, item = pairs()
    model.set_graph(user, item)
    adjacency = torch.zeros(14, 14, dtype=torch.float64)
    for u, i in zip(user.tolist(), item.tolist(), strict=True):
        adjacency[u, 6 + i] = adjacency[6 + i, u] = 1
    root = torch.diag(adjacency.sum(1).clamp(min=1) ** -0.5)
    smooth = root @ adjacency @ root
    mean = sum(torch.linalg.matrix_power(smooth, k) for k in range(layers + 1)) / (layers + 1)
    torch.testing.assert_close(model.vectors().double(), mean @ model.table.detach().double(), rtol=0, atol=1e-6)
    weight = torch.randn(14, 4)
    (model.vectors() * weight).sum().backward()
    torch.testing.assert_close(model.table.grad.double(), mean @ weight.double(), rtol=0, atol=1e-6)


def test_propagation_keeps_to_its_gradient() -> None:
    model = LightGCN(num_users=6, num_items=8, dim=2).double()
    model.set_graph(*pairs())
    assert torch.autograd.gradcheck(lambda t: _apply(t, model), (model.table,))


def _apply(table: torch.Tensor, model: LightGCN) -> torch.Tensor:
    from paddlerec.models.lightgcn import _Propagate

    return _Propagate.apply(table, *model._graph, model.layers)


def test_lightgcn_that_trains_a_cosine_may_rank_by_the_product() -> None:
    torch.manual_seed(0)
    model = LightGCN(num_users=6, num_items=8, dim=4, normalise=True, rank_normalised=False)
    model.set_graph(*pairs())
    user, items = torch.tensor([1, 2]), torch.tensor([1, 3, 5])
    found, vectors = model(user, items), model.vectors()
    for trained, ranked in zip(found, (vectors[user], vectors[6 + items]), strict=True):
        torch.testing.assert_close(trained, ranked / ranked.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model.encode(user), vectors[user], rtol=0, atol=0)
    torch.testing.assert_close(model.item_vectors(), vectors[6:], rtol=0, atol=0)


def test_lightgcn_without_its_graph_recommends_by_what_was_saved() -> None:
    torch.manual_seed(0)
    model = LightGCN(num_users=6, num_items=8, dim=4)
    with pytest.raises(RuntimeError, match="set_graph"):
        model(torch.tensor([1]), torch.tensor([1]))
    model.set_graph(*pairs())
    model.train()
    with torch.no_grad():
        model.table += 1.0
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # in training mode, too
        expected = propagate(model.table, *model._graph, model.layers)
        torch.testing.assert_close(state["final"], expected)
        other = LightGCN(num_users=6, num_items=8, dim=4).eval()
        other.load_state_dict(state)
        torch.testing.assert_close(other.item_vectors(), expected[6:])
        torch.testing.assert_close(other.encode(torch.tensor([3])), expected[3:4])
        history = torch.tensor([[2, 5, 0]])  # an unknown user is folded in
        torch.testing.assert_close(other.encode(torch.tensor([0]), history)[0], (expected[8] + expected[11]) / 2)
        assert not other.encode(torch.tensor([0]), torch.tensor([[0]])).any()
    torch.testing.assert_close(other.item_vectors(), expected[6:])  # also where gradients are enabled


def test_two_towers_know_nothing_of_an_unknown_user_without_a_history() -> None:
    torch.manual_seed(0)
    model = TwoTower(num_users=6, num_items=8, dim=4)
    history = torch.tensor([[0, 0], [3, 0], [3, 0]])
    nobody, by_history, known = model.encode(torch.tensor([0, 0, 2]), history)
    assert not nobody.any()
    torch.testing.assert_close(by_history, model.item_vectors()[3])
    assert not torch.allclose(known, by_history)


def test_the_bias_of_an_item_is_added_to_the_cosine() -> None:
    torch.manual_seed(0)
    model = TwoTower(num_users=6, num_items=8, dim=4, user_ids=False, item_bias=True).eval()
    torch.nn.init.normal_(model.bias.weight)
    history = torch.tensor([[2, 5], [7, 0], [0, 0]])
    means = torch.stack([model.items.weight[[2, 5]].mean(0), model.items.weight[7], torch.zeros(4)])
    cosine = torch.cosine_similarity(means.unsqueeze(1), model.items.weight, dim=2)
    with torch.no_grad():
        score = model.encode(torch.zeros(3, dtype=torch.int64), history) @ model.item_vectors().T
    torch.testing.assert_close(score, cosine + model.bias.weight.T)  # of nobody the bias alone


def test_mean_of_history_with_and_without_gradient() -> None:
    torch.manual_seed(0)
    table = RowTable(9, 3)
    history = torch.tensor([[4, 0, 7], [0, 0, 0], [1, 1, 2]])
    expected = torch.stack([table.weight[[4, 7]].mean(0), torch.zeros(3), table.weight[[1, 1, 2]].mean(0)])
    torch.testing.assert_close(mean_of_history(table, history), expected)
    with torch.no_grad():
        torch.testing.assert_close(mean_of_history(table, history), expected)


@pytest.mark.parametrize("make", [
    lambda: MF(num_users=6, num_items=8, dim=4),
    lambda: MF(num_users=6, num_items=8, dim=4, normalise=True),
    lambda: TwoTower(num_users=6, num_items=8, dim=4),
    lambda: TwoTower(num_users=6, num_items=8, dim=4, hidden=[5], user_ids=False, normalise=False),
    lambda: TwoTower(num_users=6, num_items=8, dim=4, item_bias=True),
    lambda: Item2Vec(num_items=8, dim=4),
    lambda: Item2Vec(num_items=8, dim=4, tied=True),
    lambda: Popularity(num_items=8),
])  # fmt: skip
def test_training_and_ranking_use_the_same_vectors(make) -> None:
    torch.manual_seed(0)
    model = make()
    user, history, items = torch.tensor([1, 5]), torch.tensor([[3, 2], [7, 0]]), torch.tensor([1, 7, 7, 2])
    query, vectors = model(user, items, history)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.encode(user, history), query)
        torch.testing.assert_close(model.item_vectors()[items], vectors)


def test_an_unknown_user_of_mf_is_the_mean_of_the_history() -> None:
    model = MF(num_users=6, num_items=8, dim=4).eval()
    history = torch.tensor([[3, 2], [7, 0], [0, 0]])
    with torch.no_grad():
        found = model.encode(torch.tensor([0, 2, 0]), history)
    torch.testing.assert_close(found[0], model.items.weight[[3, 2]].mean(0))
    torch.testing.assert_close(found[1], model.users.weight[2])
    assert not found[2].any()


# ---------------------------------------------------------------------------------------------------- losses


def batch() -> dict[str, torch.Tensor]:
    return {
        "user": torch.tensor([1, 2, 5]),
        "item": torch.tensor([3, 1, 3]),
        "negative": torch.tensor([[5, 6], [2, 2], [7, 1]]),
        "candidates": torch.tensor([3, 1, 6, 3, 2]),
        "candidates_log_q": torch.tensor([-1.0, -2.0, -3.0, -1.0, -4.0]),
        "item_log_q": torch.tensor([-1.0, -2.0, -1.0]),
        "hits": torch.tensor([[0, 0, 0, 1, 2, 2], [0, 3, 2, 1, 3, 0]]),  # own items; and item 6 is known to user 1
    }


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("loss", ["bpr", "softmax", "sgns", "linear"])
@pytest.mark.parametrize("log_q", [0.0, 1.0])
def test_losses_against_slow_transcriptions(loss: str, log_q: float) -> None:
    torch.manual_seed(0)
    model = MF(num_users=6, num_items=8, dim=4, init_std=1.0)
    task = Retrieval(model, loss=loss, temperature=0.7, log_q=log_q, sgns_negatives=3, sgns_offset=0.4, l2=0.1)
    b = batch()
    u, v = model.users.weight.detach(), model.items.weight.detach()
    total = 0.0
    for row in range(3):
        user, item = int(b["user"][row]), int(b["item"][row])
        s = [float(u[user] @ v[i]) / 0.7 for i in range(8)]
        square = float(u[user].square().sum() + v[item].square().sum())
        if loss == "bpr":
            negatives = b["negative"][row].tolist()
            total += sum(-math.log(sigmoid(s[item] - s[j])) for j in negatives) / 2
            square += sum(float(v[j].square().sum()) for j in negatives)
        elif loss == "softmax":
            others = [c for c in range(5) if (row, c) not in zip(*b["hits"].tolist(), strict=True)]
            top = math.exp(s[item] - log_q * float(b["item_log_q"][row]))
            terms = [math.exp(s[int(b["candidates"][c])] - log_q * float(b["candidates_log_q"][c])) for c in others]
            total += -math.log(top / (top + sum(terms)))
        elif loss == "sgns":
            hits = set(zip(*b["hits"].tolist(), strict=True))
            others = [int(b["candidates"][c]) for c in range(5) if (row, c) not in hits]
            noise = sum(math.log(sigmoid(0.4 - s[c])) for c in others) / len(others)
            total += -math.log(sigmoid(s[item] - 0.4)) - 3 * noise
        else:
            total += -s[item]
        total += 0.05 * square
    output = task(b)
    assert float(output.loss_sum) == pytest.approx(total, rel=1e-5) and output.weight == 3


def test_scores_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    task = Retrieval(MF(num_users=6, num_items=8, dim=4, init_std=1.0), loss="softmax")
    expected = task(batch()).loss_sum
    for rows in (1, 2):
        monkeypatch.setattr("paddlerec.tasks.retrieval._SCORES", 5 * rows)
        torch.testing.assert_close(task(batch()).loss_sum, expected)


def test_a_pair_whose_candidates_are_all_hits_counts_nothing() -> None:
    task = Retrieval(MF(num_users=6, num_items=8, dim=4), loss="softmax")
    b = batch()
    b["hits"] = torch.cat([b["hits"], torch.tensor([[2, 2, 2], [1, 2, 4]])], 1)
    task(b).loss_sum.backward()
    assert task.model.users.weight.grad.isfinite().all() and not task.model.users.weight.grad[5].any()


def test_the_hardest_negative_is_the_only_one() -> None:
    torch.manual_seed(0)
    model = MF(num_users=6, num_items=8, dim=4, init_std=1.0)
    b = batch()
    score = (model.users(b["user"]).unsqueeze(1) * model.items(b["negative"])).sum(2)
    best = torch.stack([row[k] for row, k in zip(b["negative"], score.argmax(1), strict=True)]).unsqueeze(1)
    found = Retrieval(model, loss="bpr", hardest=True, l2=0.1)(b)
    expected = Retrieval(model, loss="bpr", l2=0.1)({**b, "negative": best})
    torch.testing.assert_close(found.loss_sum, expected.loss_sum)
    for loss in (found, expected):
        gradient = torch.autograd.grad(loss.loss_sum, [model.users.weight, model.items.weight])
        assert set(gradient[1].abs().sum(1).nonzero().flatten().tolist()) == {*b["item"].tolist(), *best[:, 0].tolist()}


def test_a_loss_without_what_it_needs_says_what_to_set() -> None:
    model = MF(num_users=6, num_items=8)
    with pytest.raises(ValueError, match=r"task\.loss=bpr; the loss is softmax"):
        Retrieval(model, loss="softmax", hardest=True)
    with pytest.raises(ConfigError, match=r"data\.negatives"):
        Retrieval(model, loss="bpr")({"user": torch.tensor([1]), "item": torch.tensor([1])})
    one = {name: torch.tensor([1]) for name in ("user", "item", "negative")}
    with pytest.raises(ConfigError, match=r"TwoTower learns from histories: set data\.train_history"):
        Retrieval(TwoTower(num_users=6, num_items=8), loss="bpr")(one)
    with pytest.raises(ConfigError, match=r"LightGCN learns from the graph of all pairs: set data\.graph"):
        Retrieval(LightGCN(num_users=6, num_items=8), loss="bpr")(one)
    with pytest.raises(ValueError, match=r"task\.loss must be one of"):
        Retrieval(model, loss="hinge")
    with pytest.raises(ValueError, match="penalty"):
        Retrieval(TwoTower(num_users=3, num_items=3), l2=0.1)


# ---------------------------------------------------------------------------------------------------- ranking


class Fixed(nn.Module):
    """Item i scores i for everybody."""

    calls = 0

    def encode(self, user: torch.Tensor, history: torch.Tensor | None = None) -> torch.Tensor:
        return torch.ones(len(user), 1)

    def item_vectors(self) -> torch.Tensor:
        self.calls += 1
        return torch.arange(30.0).unsqueeze(1)


def test_ranking_leaves_out_what_was_seen_and_counts_unknown_items_as_missed() -> None:
    model = Fixed()
    task = Retrieval(model, labels=[f"i{i}" for i in range(30)], measures=["recall@3", "mrr@3"], top=2).eval()
    rows = {
        "user": torch.tensor([1, 2]),
        "seen": torch.tensor([[29, 27], [0, 0]]),
        "relevant": torch.tensor([[26, 2], [0, 0]]),
        "num_relevant": torch.tensor([2, 1]),  # the second user's only item is not in train
    }
    with torch.no_grad():
        prediction = task.predict(rows)
        task.predict(rows)
    assert model.calls == 1  # kept in evaluation mode
    assert prediction["item"].tolist() == [[28, 26, 25], [29, 28, 27]]
    metrics = task.metrics()
    task.measure(metrics, prediction, rows)
    assert metrics[0].compute() == {"recall@3": 0.25, "mrr@3": 0.25}
    assert task.render(prediction)[0] == {"items": [{"item": "i28", "score": 28.0}, {"item": "i26", "score": 26.0}]}
    task.eval()
    with torch.no_grad():
        task.predict(rows)
    assert model.calls == 2


def test_popularity_is_exact_after_one_step_on_everything() -> None:
    model = Popularity(num_items=5)
    task = Retrieval(model, loss="linear")
    item = torch.tensor([1, 1, 2, 4, 4, 4, 4])
    output = task({"user": torch.ones(7, dtype=torch.int64), "item": item})
    (output.loss_sum / output.weight).backward()
    with torch.no_grad():
        model.shares.weight -= model.shares.weight.grad
    torch.testing.assert_close(model.shares.weight.squeeze(1), torch.bincount(item, minlength=5) / 7)


# ---------------------------------------------------------------------------------------------------- serving


def test_faiss_is_asked_for_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    task = Retrieval(Fixed(), index="faiss").eval()
    with torch.no_grad(), pytest.raises(ConfigError, match=r"paddle-suite\[ann\]"):
        task.predict({"user": torch.tensor([1])})


def test_the_approximate_index_says_what_it_finds() -> None:
    torch.manual_seed(0)
    items, queries = torch.randn(8000, 16), torch.randn(50, 16)
    seen = torch.randint(0, 8000, (50, 30))
    whole, some = ApproximateIndex(items, probe=1.0), ApproximateIndex(items, probe=0.1)
    scores, ids = whole.top_k(queries, 20, seen=seen)
    expected = top_k(queries, items, 20, seen=seen)
    assert torch.equal(ids, expected[1])
    torch.testing.assert_close(scores, expected[0])
    _, ids = some.top_k(queries, 20, seen=seen)
    assert (ids > 0).all() and not (ids.unsqueeze(2) == seen.unsqueeze(1)).any()
    model = MF(num_users=51, num_items=8000, dim=16)
    with torch.no_grad():
        model.items.weight.copy_(items)
        model.users.weight[1:] = queries
    task = Retrieval(model, measures=["recall@20"], index="faiss").eval()
    rows = {"user": torch.arange(1, 51), "seen": seen, "relevant": expected[1], "num_relevant": torch.full((50,), 20)}
    metrics = task.metrics()
    with torch.no_grad():
        task.measure(metrics, task.predict(rows), rows)
    same = (ids.unsqueeze(2) == expected[1].unsqueeze(1)).any(2).double().mean()
    assert metrics[1].compute()["index_recall"] == pytest.approx(float(same), abs=0.05)
    assert metrics[0].compute()["recall@20"] == pytest.approx(metrics[1].compute()["index_recall"])
    assert 0.3 < float(same) < 1.0
    few, ids = ApproximateIndex(items[:4]).top_k(queries[:1], 5, seen=torch.tensor([[2, 0]]))
    assert sorted(ids[0].tolist()) == [0, 0, 0, 1, 3] and few[0, 2:].tolist() == [-torch.inf] * 3


def test_vectors_are_written_for_other_indexes(tmp_path) -> None:
    from paddlecore import run, testing

    trainer, _ = testing.tiny_trainer("rec/dssm_gowalla", folder=tmp_path / "run")
    trainer.fit()
    cfg = testing.tiny("rec/dssm_gowalla", f"init.weights={tmp_path / 'run'}")
    written = run.export_vectors(cfg, tmp_path / "vectors")
    vectors = torch.from_numpy(np.load(tmp_path / "vectors" / "vectors.npy"))
    assert written["files"] == {"vectors.npy": [81, 65]}  # the last column is the items' bias
    assert torch.equal(vectors, trainer.task.eval().items()[0])
    testing.tiny_trainer("rec/lr_frappe", "train.max_steps=1", folder=tmp_path / "lr")[0].fit()
    other = testing.tiny("rec/lr_frappe", f"init.weights={tmp_path / 'lr'}")
    with pytest.raises(ConfigError, match="CTR has no vectors"):
        run.export_vectors(other, tmp_path / "none")
    assert not (tmp_path / "none").exists()
