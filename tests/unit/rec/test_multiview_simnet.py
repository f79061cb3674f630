"""Multi-view SimNet: encoders and score against slow transcriptions, order rate against a loop, views of the data."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data import ML1MViewsData
from paddlerec.data.ml1m_views import SOURCE, ViewRows, genre_ids, popularity_order_rate, profile_ids, title_ids
from paddlerec.data.negatives import Negatives
from paddlerec.layers.sequence import SequenceEncoder, _state_at, last_state
from paddlerec.metrics import OrderRate
from paddlerec.models import MultiViewSimNet
from paddlerec.tasks import ViewMatching

# ------------------------------------------------------------------------------------------------------ model


def slow_encoded(encoder: SequenceEncoder, vectors: np.ndarray) -> np.ndarray:
    """One sequence [n, dim] without padding."""
    if not len(vectors):
        return np.zeros(vectors.shape[1])
    state = {k: v.detach().double().numpy() for k, v in encoder.state_dict().items()}
    if encoder.kind == "bow":
        total = vectors.sum(0)
        return total / (1 + np.abs(total))
    if encoder.kind == "cnn":
        weight, bias = state["convolution.weight"], state["convolution.bias"]
        half, places = weight.shape[2] // 2, []
        for middle in range(len(vectors)):
            inside = [(k, middle + k - half) for k in range(weight.shape[2]) if 0 <= middle + k - half < len(vectors)]
            places.append(bias + sum(weight[:, :, k] @ vectors[i] for k, i in inside))
        return np.tanh(np.max(places, axis=0))
    h = np.zeros(vectors.shape[1])

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    for x in vectors:
        a = np.split(state["gru.weight_ih_l0"] @ x + state["gru.bias_ih_l0"], 3)
        b = np.split(state["gru.weight_hh_l0"] @ h + state["gru.bias_hh_l0"], 3)
        r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
        h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
    return h


@pytest.mark.parametrize("kind", ["bow", "cnn", "gru"])
def test_encoders_against_slow_transcriptions(kind: str) -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(kind, 4)
    vectors, lengths = torch.randn(4, 5, 4), [5, 2, 0, 1]
    inside = torch.arange(5) < torch.tensor(lengths)[:, None]
    out = encoder(vectors, inside)
    expected = [slow_encoded(encoder, v[:n].double().numpy()) for v, n in zip(vectors, lengths, strict=True)]
    torch.testing.assert_close(out.detach().double(), torch.tensor(np.array(expected)), rtol=1e-5, atol=1e-5)
    assert encoder(vectors[:, :0], inside[:, :0]).abs().sum() == 0
    with pytest.raises(ValueError, match="bow, cnn or gru"):
        SequenceEncoder("lstm", 4)


def test_a_packed_sequence_ends_in_the_state_that_it_has_there_padded() -> None:
    torch.manual_seed(0)
    gru, vectors, lengths = torch.nn.GRU(3, 4, batch_first=True), torch.randn(4, 5, 3), torch.tensor([5, 1, 3, 2])
    torch.testing.assert_close(last_state(gru, vectors, lengths), _state_at(gru(vectors)[0], lengths))


def test_score_is_the_cosine_of_two_towers() -> None:
    torch.manual_seed(0)
    kinds = {"words": "cnn", "history": "gru"}
    model = MultiViewSimNet(
        user_views={"history": 7, "who": 3}, item_views={"words": 9}, encoders=kinds, dim=4, hidden=[5, 3], init_std=1.0
    )
    user = {"history": torch.tensor([[1, 6, 0], [0, 0, 0]]), "who": torch.tensor([[2], [0]])}
    item = {"words": torch.tensor([[[3, 8], [1, 0], [0, 0]], [[5, 5], [2, 8], [7, 1]]])}
    out = model(user, item)

    def tower(side: nn.Module, views: dict[str, torch.Tensor]) -> np.ndarray:
        parts = []
        for name, ids in views.items():
            table = side.tables[name].weight.detach().double().numpy()
            parts.append(slow_encoded(side.encoders[name], table[[i for i in ids.tolist() if i]].reshape(-1, 4)))
        h = np.concatenate(parts)
        for layer in side.layers:
            if isinstance(layer, nn.Linear):
                h = np.tanh(layer.weight.detach().double().numpy() @ h + layer.bias.detach().double().numpy())
        return h

    for b in range(2):
        u = tower(model.user, {k: v[b] for k, v in user.items()})
        for c in range(3):
            i = tower(model.item, {k: v[b, c] for k, v in item.items()})
            expected = u @ i / np.linalg.norm(u) / np.linalg.norm(i)
            assert float(out[b, c].detach()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="'word'"):
        MultiViewSimNet(user_views={"a": 2}, item_views={"words": 2}, encoders={"word": "cnn"})
    with pytest.raises(ValueError, match="hidden needs a width"):
        MultiViewSimNet(user_views={"a": 2}, item_views={"b": 2, "c": 2}, hidden=[])


# ------------------------------------------------------------------------------------------------------ task


class Given(nn.Module):
    """Scores that stand in the batch."""

    def forward(self, user: dict[str, torch.Tensor], item: dict[str, torch.Tensor]) -> torch.Tensor:
        return item["score"]


def test_hinge_and_order_rate_against_loops() -> None:
    torch.manual_seed(0)
    score = torch.randint(0, 5, (30, 6)).float() / 5
    candidates = torch.randint(0, 9, (30, 6))
    candidates[:, 0] = torch.randint(1, 9, (30,))
    batch = {"item.score": score, "candidates": candidates}
    task = ViewMatching(Given(), margin=0.3)
    loss, right, count = 0.0, 0.0, 0
    for row, items in zip(score.tolist(), candidates.tolist(), strict=True):
        others = [s for s, i in zip(row[1:], items[1:], strict=True) if i not in (0, items[0])]
        loss += sum(max(0.0, 0.3 - row[0] + s) for s in others) / max(len(others), 1)
        right += sum(1.0 if row[0] > s else 0.5 if row[0] == s else 0.0 for s in others)
        count += len(others)
    output = task(batch)
    assert float(output.loss_sum) == pytest.approx(loss, rel=1e-5) and int(output.weight) == 30
    metrics, prediction = task.metrics(), task.predict(batch)
    task.measure(metrics, prediction, batch)
    assert metrics[0].compute() == {"order_rate": pytest.approx(right / count)}
    assert all(i["item"] for i in task.render(prediction)[0]["items"])
    with pytest.warns(RuntimeWarning, match="no pair"):
        assert np.isnan(OrderRate().compute()["order_rate"])
    with pytest.raises(ValueError, match="margin"):
        ViewMatching(Given(), margin=0)


def test_popularity_order_rate_is_that_of_the_metric() -> None:
    random = np.random.default_rng(0)
    counts, candidates = random.integers(0, 4, 10), random.integers(0, 10, (20, 5))
    candidates[:, 0] = random.integers(1, 10, 20)
    score = torch.from_numpy(counts[candidates]).float()
    metric = OrderRate()
    other = torch.from_numpy((candidates[:, 1:] != candidates[:, :1]) & (candidates[:, 1:] != 0))
    metric.update(score[:, :1], score[:, 1:], other)
    assert metric.compute()["order_rate"] == pytest.approx(popularity_order_rate(counts, candidates))


# ------------------------------------------------------------------------------------------------------ data


def test_histories_are_the_users_other_items() -> None:
    users = np.array([1, 1, 1, 2, 4, 4])
    items = np.array([2, 5, 6, 3, 1, 6])
    features = {"profile": np.zeros((5, 3), int), "genres": np.zeros((8, 2), int), "title": np.zeros((8, 2), int)}
    some = ViewRows(
        np.array([1, 1, 2, 3, 4, 1]), np.array([5, 7, 3, 1, 6, 2]), 2, items=items,
        starts=np.searchsorted(users, np.arange(6)), unseen=Negatives(users, items, 5, 8), features=features, length=3,
        seed=1,
    )  # fmt: skip
    batch = some.fetch(np.arange(6), 0)
    assert batch["user.history"].tolist() == [[2, 6, 0], [2, 5, 6], [0, 0, 0], [0, 0, 0], [1, 0, 0], [5, 6, 0]]
    assert batch["candidates"][:, 0].tolist() == [5, 7, 3, 1, 6, 2] and batch["item.id"].shape == (6, 3, 1)
    some.length = 1
    seen = {int(some.fetch(np.array([0]), epoch)["user.history"]) for epoch in range(30)}
    assert seen == {2, 6}
    for epoch in range(5):
        drawn = some.fetch(np.arange(6), epoch)["candidates"][:, 1:]
        assert not set(drawn[0].tolist()) & {2, 5, 6} and not set(drawn[4].tolist()) & {1, 6}


def test_toy_rows_do_not_depend_on_the_batch_and_evaluation_is_fixed() -> None:
    data = ML1MViewsData(source="toy", max_length=4)
    data.prepare()
    for split in data.splits:
        rows = data.rows(split)
        whole = rows.fetch(np.arange(len(rows)), 3)
        part = rows.fetch(np.array([7, 3]), 3)
        assert all(torch.equal(whole[k][[7, 3]], part[k]) for k in whole)
        other = rows.fetch(np.arange(len(rows)), 4)
        assert torch.equal(whole["candidates"], other["candidates"]) == (split != "train")
        assert not (whole["user.history"] == whole["candidates"][:, :1]).any()  # a film does not tell of itself
    assert 0 < data.describe()["popularity_order_rate"] < 1
    assert data.state() == {"num_users": 61, "num_items": 41}  # sizes only


def test_raw_users_and_films() -> None:
    fresh = ML1MViewsData(max_length=2)
    fresh.restore(json.loads('{"num_users": 61, "num_items": 41}'))
    item = {"item": 99, "genres": ["Drama", "War"], "title": "Of Men, 1994"}
    raw = {"gender": "M", "age": 56, "occupation": 0, "history": [1, 99, 3], "items": [item, {**item, "genres": []}]}
    batch = fresh.encode(json.dumps(raw))
    assert batch["user.history"].tolist() == [[1, 3]] and batch["user.profile"].tolist() == [[2, 9, 10]]
    assert batch["item.id"].tolist() == [[[0], [0]]] and batch["candidates"].tolist() == [[1, 2]]
    assert batch["item.genres"].tolist() == [[[8, 17], [0, 0]]]
    assert batch["item.title"][0, 0].tolist() == [1 + zlib.crc32(w) % 5000 for w in (b"of", b"men", b"1994")]
    changes = [{"age": 26}, {"items": []}, {"history": 3}, {"items": [{**item, "genres": ["Western "]}]}]
    for change in [*changes, {"history": [1.5]}, {"items": [{**item, "item": 2.5}]}]:
        with pytest.raises(DataError, match="example"):
            fresh.encode({**raw, **change})
    with pytest.raises(DataError, match="lacks 'items'"):
        fresh.encode({k: v for k, v in raw.items() if k != "items"})
    assert profile_ids("F", "1", "20") == [1, 3, 30] and genre_ids(["Action"]) == [1]
    assert len(title_ids("a b c d e f g h i j k l m n", 50)) == 12


def test_own_files_and_bad_lines(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("0\t0\n0\t1\n0\t2\n1\t2\n")
    (tmp_path / "test.negative").write_text("(0,3)\t4\n(1,0)\t3\n")
    (tmp_path / "item_map.tsv").write_text("0\t70\n1\t50\n2\t60\n")
    (tmp_path / "movies.dat").write_bytes("50::\xc9t\xe9 (1999)::Drama|War\n51::X::Drama\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    data = ML1MViewsData(source=str(tmp_path), valid_negatives=1)
    data.prepare()
    batch = data.rows("test").fetch(np.array([0, 1]), 0)
    assert batch["user.profile"].tolist() == [[1, 3, 20], [2, 9, 26]]
    features = data.rows("test").features  # type: ignore[attr-defined]
    assert features["genres"].tolist()[2] == [8, 17] and not features["genres"][[0, 1, 3, 4, 5]].any()
    assert features["title"][2, :3].tolist() == [*title_ids("\xe9t\xe9 1999", 5000), 0]
    (tmp_path / "movies.dat").write_text("50::X::Drama\n51::Y::Soap\n")
    with pytest.raises(DataError, match=r"movies\.dat:2: genre 'Soap'"):
        ML1MViewsData(source=str(tmp_path), valid_negatives=1).prepare()
    (tmp_path / "movies.dat").write_text("50::X::Drama\n51::Drama\n")
    with pytest.raises(DataError, match=r"movies\.dat:2: expected 3 cells"):
        ML1MViewsData(source=str(tmp_path), valid_negatives=1).prepare()
    skipping = ML1MViewsData(source=str(tmp_path), valid_negatives=1, on_bad_row="skip")
    skipping.prepare()
    assert skipping.bad_rows.count == 1
    (tmp_path / "users.dat").unlink()
    with pytest.raises(DataError, match=r"no users\.dat"):
        skipping.prepare()


def test_every_film_and_user_of_movielens_has_features() -> None:
    root = data_root()
    if root is None or not (root / SOURCE.folder / "movies.dat.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    data = ML1MViewsData()
    data.prepare()
    features = data.rows("test").features  # type: ignore[attr-defined]
    assert (features["profile"][1:] > 0).all() and (features["genres"][1:, 0] > 0).all()
    assert (features["title"][1:, 0] > 0).all() and features["genres"].shape == (3707, 6)
    assert data.describe()["popularity_order_rate"] == pytest.approx(0.8121, abs=1e-4)
