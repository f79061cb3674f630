"""MovieLens-1M for NCF: rows, published counts, lines that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data import ML1MNCFData
from paddlerec.data.ml1m_ncf import SOURCE, held_out


def test_held_out_pairs() -> None:
    users = np.array([1, 1, 1, 2, 3, 3])
    held = held_out(users, 1)
    assert held[:3].sum() == 1 and not held[3] and held[4:].sum() == 1
    seen = {int(np.flatnonzero(held_out(users, seed)[:3])[0]) for seed in range(30)}
    assert seen == {0, 1, 2}


def toy(**options: Any) -> ML1MNCFData:
    data = ML1MNCFData(source="toy", **options)
    data.prepare()
    return data


def test_training_rows_are_a_pair_and_its_negatives() -> None:
    data = toy(negatives=3)
    rows = data.rows("train")
    everything = np.arange(len(rows))
    batch = {k: v.numpy() for k, v in rows.fetch(everything, 0).items()}
    assert batch["label"].reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * (len(rows) // 4)
    pairs = set(zip(batch["user"][::4].tolist(), batch["item"][::4].tolist(), strict=True))
    for user, item, label in zip(*(batch[k].tolist() for k in ("user", "item", "label")), strict=True):
        assert ((user, item) in pairs) == (label == 1) and item >= 1
    some = np.array([5, 2, 9])
    assert rows.fetch(some, 0)["item"].tolist() == batch["item"][some].tolist()
    assert rows.fetch(everything, 1)["item"].tolist() != batch["item"].tolist()
    assert toy(negatives=3, seed=2).rows("train").fetch(everything, 0)["item"].tolist() != batch["item"].tolist()
    valid = data.rows("valid").fetch(np.arange(60), 0)
    assert all(
        (u, c[0]) not in pairs for u, c in zip(valid["user"].tolist(), valid["candidates"].tolist(), strict=True)
    )


def write(folder: Path, train: str, test: str) -> Path:
    (folder / "train.tsv").write_text(train)
    (folder / "test.negative.gz").write_bytes(gzip.compress(test.encode()))
    return folder


def test_own_files_and_bad_lines(tmp_path: Path) -> None:
    source = write(tmp_path, "1\t0\n0\t2\n0\t1\n1\t3\n", "(0,0)\t3\t4\n(1,2)\t4\n")
    data = ML1MNCFData(source=str(source), valid_negatives=2)
    data.prepare()
    assert data.spec == {"num_users": 3, "num_items": 6}
    test = data.rows("test").fetch(np.array([0, 1]), 0)
    assert test["user"].tolist() == [1, 2] and test["candidates"].tolist() == [[1, 4, 5], [3, 5, 0]]
    assert data.rows("valid").fetch(np.array([0, 1]), 0)["candidates"].shape == (2, 3)
    write(tmp_path, "0\t2\n0\t1\n0\t2\n0\t1\n0\t2\n", "(0,0)\t3\t4\n")
    twice = ML1MNCFData(source=str(source), negatives=0)
    twice.prepare()
    train, valid = twice.rows("train").fetch(np.array([0]), 0), twice.rows("valid").fetch(np.array([0]), 0)
    assert len(twice.rows("train")) == 1 and {int(train["item"]), int(valid["candidates"][0, 0])} == {2, 3}
    for line, why in (("1", "expected 2 columns"), ("a\t1", "not a number"), ("-1\t1", "whole numbers from 0, got -1")):
        write(tmp_path, f"1\t0\n{line}\n1\t3\n1\t2\n", "(0,0)\t3\n")
        with pytest.raises(DataError, match=rf"train\.tsv:2: .*{why}"):
            ML1MNCFData(source=str(source)).prepare()
        skipping = ML1MNCFData(source=str(source), on_bad_row="skip")
        skipping.prepare()
        assert skipping.bad_rows.count == 1 and len(skipping.rows("train")) == 10
    write(tmp_path, "0\t0\n0\t1\n1\t1\n", "(0,2)\t3\n\n(1,1)\t3\n")
    with pytest.raises(DataError, match=r"test\.negative\.gz:3: the pair stands in train\.tsv, too"):
        ML1MNCFData(source=str(source)).prepare()
    skipping = ML1MNCFData(source=str(source), on_bad_row="skip")
    skipping.prepare()
    assert skipping.rows("test").fetch(np.array([0]), 0)["candidates"].tolist() == [[3, 4]]
    write(tmp_path, "0\t0\n0\t1\n", "(0,2)\t3\n(0;2)\t3\n")
    with pytest.raises(DataError, match=r"test\.negative\.gz:2: expected"):
        ML1MNCFData(source=str(source)).prepare()
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError, match=r"no train\.tsv"):
        ML1MNCFData(source=str(source)).prepare()


def test_raw_rows_and_what_travels() -> None:
    data = toy()
    assert data.state() == {"num_users": 61, "num_items": 41}  # sizes only
    fresh = ML1MNCFData()
    with pytest.raises(DataError, match="not known yet"):
        _ = fresh.spec
    fresh.restore(json.loads(json.dumps(data.state())))
    assert fresh.encode('{"user": 3, "items": [4, 99, -1]}')["candidates"].tolist() == [[4, 0, 0]]
    assert fresh.encode({"user": 3})["candidates"].tolist() == [list(range(1, 41))]
    assert fresh.encode({"user": 3, "items": []})["candidates"].shape == (1, 40)
    assert fresh.encode({"user": 999})["user"].tolist() == [0]
    with pytest.raises(DataError, match="called 'itms'; there are user, items; did you mean 'items'"):
        fresh.encode({"user": 3, "itms": [1]})
    for raw in ({"items": [1]}, {"user": "x"}, {"user": 1, "items": "12"}, {"user": 1, "items": [1.5]}, "[", 7):
        with pytest.raises(DataError):
            fresh.encode(raw)
    small = ML1MNCFData(source="toy")
    small.restore({"num_users": 10, "num_items": 41})
    with pytest.raises(DataError, match="the given weights know 9"):
        small.prepare()


def test_missing_files_are_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PADDLE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="(?s)redistribution.*neural_collaborative_filtering.*data.source"):
        ML1MNCFData().prepare()


def test_published_counts_and_the_quirk_of_the_negatives() -> None:
    root = data_root()
    if root is None or not (root / SOURCE.folder / "train.tsv.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    data = ML1MNCFData()
    data.prepare()
    assert data.spec == {"num_users": 6041, "num_items": 3707}
    assert len(data.rows("train")) == 5 * (994_169 - 6040) and len(data.rows("valid")) == 6040
    test = data.rows("test").fetch(np.arange(6040), 0)["candidates"].numpy()
    assert test.shape == (6040, 100) and int((test[:, 1:] == test[:, :1]).sum()) == 156
