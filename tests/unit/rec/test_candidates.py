"""Own interactions for models of single pairs: NeuMF's protocol on files that users have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paddlecore import testing
from paddlecore.errors import DataError
from paddlerec.data import CandidateData
from paddlerec.models import NeuMF
from paddlerec.tasks import Candidates

LINES = "user,item,time\nann,a,1\nann,d,4\nann,b,2\nann,c,3\nbob,c,1\nbob,a,2\nbob,q,3\ncat,b,1\n"


def prepared(tmp_path: Path, **options: object) -> CandidateData:
    path = tmp_path / "log.csv"
    path.write_text(LINES)
    data = CandidateData(source=str(path), time="time", **options)  # type: ignore[arg-type]
    data.prepare()
    return data


def names(data: CandidateData, ids: torch.Tensor) -> list[str]:
    return [data.spec["labels"][i] for i in ids.tolist()]


def test_the_latest_item_is_ranked_among_unseen_ones(tmp_path: Path) -> None:
    data = prepared(tmp_path, valid_negatives=30, negatives=2)
    labels = data.spec["labels"]
    assert data.splits == ("train", "valid", "test") and sorted(labels) == ["", "a", "b", "c"]
    train = data.rows("train").fetch(np.arange(len(data.rows("train"))), 0)
    pairs = {
        (data._name("users", u), labels[i]): y
        for u, i, y in zip(*(train[k].tolist() for k in ("user", "item", "label")), strict=True)
        if i
    }
    assert {pair for pair, y in pairs.items() if y} == {("ann", "a"), ("ann", "b"), ("bob", "c"), ("cat", "b")}
    assert not {item for (user, item), y in pairs.items() if not y and user == "ann"} - {"c"}  # c is held out: unknown
    valid, test = (data.rows(split).fetch(np.arange(2), 0) for split in ("valid", "test"))
    users = [data._name("users", u) for u in valid["user"].tolist()]
    firsts = {user: (names(data, v), names(data, t)) for user, v, t in zip(
        users, valid["candidates"], test["candidates"], strict=True)}  # fmt: skip
    assert {user: (v[0], t[0]) for user, (v, t) in firsts.items()} == {"ann": ("c", ""), "bob": ("a", "")}  # d, q: new
    assert {*firsts["bob"][0][1:]} == {*firsts["bob"][1][1:]} == {"b"}  # which bob has in no split
    assert {*firsts["ann"][1][1:]} == {""}  # ann has had all
    again = prepared(tmp_path, valid_negatives=30, seed=5).rows("test").fetch(np.arange(2), 3)
    assert torch.equal(again["candidates"], test["candidates"])  # whatever the run's seed


def test_raw_rows_by_name_and_answers_with_names(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    task = Candidates(NeuMF(num_users=4, num_items=4), labels=data.spec["labels"]).eval()
    for raw, expected in (
        ({"user": "ann", "items": ["c", "nix"]}, {"c"}),
        ('{"user": "nobody", "items": ["a", "b"]}', {"a", "b"}),
        ("cat", {"a", "c"}),  # but what cat has
        ({"user": "cat", "history": ["a"]}, {"b", "c"}),
        ({"user": "ann", "history": ["a", "b", "c"]}, set()),
        ({"user": "ann", "items": []}, set()),
    ):
        (answer,) = task.render(task.predict(data.encode(raw)))
        assert {one["item"] for one in answer["items"]} == expected, raw
    for wrong in ({"user": "ann", "items": "a"}, {"items": ["a"]}, {"user": "ann", "items": [[]]}, 3.5, {}):
        with pytest.raises(DataError):
            data.encode(wrong)
    fresh = CandidateData(source="nowhere")
    fresh.restore(data.state())
    for raw in data.examples():
        assert fresh.encode(raw)["candidates"].max() > 0


def test_neumf_learns_from_own_pairs() -> None:
    words = ["data._target_=paddlerec.data.CandidateData", "train.max_steps=60", "optim.lr=0.02"]
    trainer, _ = testing.tiny_trainer("rec/ncf_ml1m", *words)
    trainer.fit()
    first, *_, last = testing.losses(trainer)
    assert last < 0.9 * first


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="valid_negatives"):
        CandidateData(source="toy", valid_negatives=0)
