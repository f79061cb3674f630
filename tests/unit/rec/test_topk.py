"""Full ranking against a sort of all scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parts import Largest

from paddlerec.layers import rank_among, rank_of, top_k
from paddlerec.layers import topk as module
from paddlerec.layers.topk import UNRANKED


def by_sorting(queries, items, bias=None, seen=None):
    """Per row: (scores, ids) of all that can be ranked, best first, ties to the lower id."""
    scores = queries.double().numpy() @ items.double().numpy().T + (0 if bias is None else bias.double().numpy())
    out = []
    for row, score in enumerate(scores):
        banned = {0} | (set() if seen is None else set(seen[row].tolist()))
        ids = [i for i in np.argsort(-score, kind="stable").tolist() if i not in banned]
        out.append((score[ids], ids))
    return out


def whole(*shape, low=-2, high=3, seed=0):
    """Small whole numbers: products are exact in float32, and ties are many."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("chunk", [1, 7, 64, 500, 65536])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_seen", [False, True])
def test_ranking_is_that_of_a_sort(chunk, with_bias, with_seen, monkeypatch):
    monkeypatch.setattr(module, "_SCORES", 2000)  # several blocks of queries
    queries, items = whole(23, 4), whole(501, 4, seed=1)
    bias = whole(501, seed=2) if with_bias else None
    seen = whole(23, 30, low=0, high=501, seed=3).long() if with_seen else None
    expected = by_sorting(queries, items, bias, seen)
    scores, ids = top_k(queries, items, 10, bias=bias, seen=seen, chunk=chunk)
    for row, (score, best) in enumerate(expected):
        assert ids[row].tolist() == best[:10]
        assert scores[row].tolist() == score[:10].tolist()
    target = whole(23, low=0, high=501, seed=4).long()
    target[0] = 0
    ranks = rank_of(queries, items, target, bias=bias, seen=seen, chunk=chunk).tolist()
    assert ranks == [
        best.index(t) if t in best else UNRANKED for t, (_, best) in zip(target.tolist(), expected, strict=True)
    ]


@pytest.mark.parametrize("n", [40, 2000, 5000])
def test_real_numbers(n):
    torch.manual_seed(0)
    queries, items = torch.randn(17, 8), torch.randn(n, 8)
    scores, ids = top_k(queries, items, 20, chunk=1024)
    assert ids.tolist() == [best[:20] for _, best in by_sorting(queries, items)]
    for place in (0, 7, 19):  # rank_of and top_k say the same
        assert rank_of(queries, items, ids[:, place], chunk=1024).tolist() == [place] * 17


def test_equal_items_keep_the_order_of_their_ids():
    torch.manual_seed(0)
    items = torch.randn(50, 8).repeat(60, 1)  # each vector 60 times
    queries = torch.randn(5, 8)
    _, ids = top_k(queries, items, 90, chunk=777)
    assert (ids[:, 1:60] > ids[:, :59]).all()
    assert torch.equal(rank_of(queries, items, ids[:, 33], chunk=777), torch.full((5,), 33))
    _, ids = top_k(torch.zeros(2, 8), items, 5)
    assert ids.tolist() == [[1, 2, 3, 4, 5]] * 2


def test_fewer_items_than_k_and_nothing_left():
    queries, items = whole(2, 3), whole(4, 3, seed=1)
    scores, ids = top_k(queries, items, 5, seen=torch.tensor([[2, 0, 0], [3, 1, 2]]))
    assert sorted(ids[0].tolist()) == [0, 0, 0, 1, 3] and ids[1].tolist() == [0] * 5
    assert scores[0, 2:].tolist() == [-torch.inf] * 3 and scores[1].tolist() == [-torch.inf] * 5
    assert rank_of(queries, items, torch.tensor([2, 1]), seen=torch.tensor([[2], [1]])).tolist() == [UNRANKED] * 2
    scores, ids = top_k(queries[:0], items, 3)
    assert scores.shape == ids.shape == (0, 3)


def test_nan_is_never_recommended():
    items = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    items[[5, 70, 99]] = torch.nan
    queries = torch.ones(1, 4)
    scores, ids = top_k(queries, items, 10)
    assert ids.tolist() == [[i for i in items.sum(1).nan_to_num(-9).argsort(descending=True).tolist() if i][:10]]
    assert not scores.isnan().any()
    assert rank_of(queries, items, torch.tensor([5])).tolist() == [UNRANKED]
    assert rank_of(queries, items, ids[0, 3:4]).tolist() == [3]


def test_arguments_that_do_not_fit():
    queries, items = torch.zeros(2, 3), torch.zeros(4, 3)
    for call in (
        lambda: top_k(queries, torch.zeros(4, 2), 1),
        lambda: top_k(queries, items, 0),
        lambda: top_k(queries, items, 1, chunk=0),
        lambda: top_k(queries, items, 1, bias=torch.zeros(3)),
        lambda: top_k(queries, items, 1, seen=torch.zeros(3, 1).long()),
        lambda: rank_of(queries, items, torch.tensor([0, 4])),
        lambda: rank_of(queries, items, torch.tensor([0])),
    ):
        with pytest.raises(ValueError):
            call()


def test_rank_among_others_against_a_loop() -> None:
    torch.manual_seed(4)
    queries, items, bias = torch.randint(-2, 3, (40, 3)).float(), torch.randint(-1, 2, (12, 3)).float(), torch.zeros(12)
    bias[3] = 1.0
    target, others = torch.randint(0, 12, (40,)), torch.randint(0, 12, (40, 6))
    scores = queries @ items.T + bias
    expected = []
    for b in range(40):
        own, t = scores[b, target[b]], int(target[b])
        ahead = [i for i in others[b].tolist() if i not in (0, t) and (scores[b, i], -i) > (own, -t)]
        expected.append(len(ahead) if t else UNRANKED)
    assert rank_among(queries, items, target, others, bias=bias).tolist() == expected
    queries[0] = torch.nan
    assert int(rank_among(queries, items, target, others)[0]) == UNRANKED


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
@pytest.mark.parametrize("k", [1, 10, 32])
def test_later_chunks_are_looked_at_above_the_edge_only(order: str, k: int) -> None:
    """Whole numbers, so that many are equal; chunks of whole groups, and what is left of them."""
    torch.manual_seed(k)
    items, queries = torch.randint(-3, 4, (9001, 4)).float(), torch.randint(-3, 4, (33, 4)).float()
    if order != "random":
        items = items[items.sum(1).argsort(descending=order == "falling")]
        queries[:20] = 1.0
    items[torch.randint(1, 9001, (40,))] = torch.nan
    seen = torch.randint(0, 9001, (33, 60))
    wanted = (queries @ items.t()).nan_to_num(nan=-torch.inf).scatter(1, seen, -torch.inf)
    wanted[:, 0] = -torch.inf
    expected = wanted.sort(dim=1, descending=True, stable=True)
    scores, ids = top_k(queries, items, k, seen=seen, chunk=2048)
    assert torch.equal(scores, expected.values[:, :k]) and torch.equal(ids, expected.indices[:, :k])


@pytest.mark.parametrize("users, items", [(400, 20_000), (50, 160_000)])
def test_memory_grows_neither_with_users_nor_with_items(users: int, items: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "_SCORES", 1 << 17)
    monkeypatch.setattr(module, "_WHOLE", 1 << 14)
    queries, vectors = torch.randn(users, 2), torch.randn(1 + items, 2)
    seen, target = torch.randint(0, items, (users, 5)), torch.randint(1, items, (users,))
    with Largest() as largest:
        top_k(queries, vectors, 10, seen=seen)
        rank_of(queries, vectors, target, seen=seen)
    assert largest.numel <= 1 << 17  # not the 8 million scores
