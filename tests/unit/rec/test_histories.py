"""Histories, split by leaving the last items out: own files and Amazon's. The latter are not part of the project."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from paddlecore.data import Plan
from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data import AmazonGamesData, AmazonS3RecData, HistoryData
from paddlerec.data.histories import SortedSteps

LINES = "u1 a\nu2 b c\nu1 b c d\nu3 a\nu1 e\nu2 a\nu4 a b\n"  # u1: a b c d e; u2: b c a; u3: a; u4: a b


def prepared(path: Path, text: str, **options: object) -> HistoryData:
    path.write_text(text)
    data = HistoryData(source=str(path), **options)  # type: ignore[arg-type]
    data.prepare()
    return data


def named(data: HistoryData, ids: torch.Tensor) -> list[str]:
    return ["".join("." if i == 0 else data.spec["labels"][i] for i in row) for row in ids.tolist()]


def test_last_items_are_held_out(tmp_path: Path) -> None:
    data = prepared(tmp_path / "log.txt", LINES)
    train = data.rows("train").fetch(np.arange(2), 0)
    assert named(data, train["history"]) == ["ab", "a."] and named(data, train["target"]) == ["bc", "b."]
    assert "negatives" not in train
    for split, histories, targets, seen in (
        ("valid", ["b..", "abc"], "cd", ["b..", "abc"]),
        ("test", ["bc..", "abcd"], "ae", ["bc..", "abcd"]),
    ):
        rows = data.rows(split)
        batch = rows.fetch(np.arange(len(rows)), 0)
        assert named(data, batch["history"]) == histories and named(data, batch["seen"]) == seen
        assert named(data, batch["target"][None]) == [targets]
    assert data.describe()["splits"]["all"]["users_tested"] == 2


def test_columns_are_put_in_order_of_time_and_rare_items_left_out(tmp_path: Path) -> None:
    rows = [("u", "c", 3), ("v", "a", 1), ("u", "a", 1), ("v", "rare", 2), ("u", "b", 2), ("v", "b", 3), ("v", "c", 4)]
    text = "user\titem\ttime\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
    data = prepared(tmp_path / "log.tsv", text.replace("u\tc\t3", "u\tc\t3\nu\ta\t4"), min_count=2)
    test = data.rows("test").fetch(np.arange(2), 0)
    assert named(data, test["history"]) == ["ab.", "abc"] and named(data, test["target"][None]) == ["ca"]
    assert named(data, test["seen"]) == ["ab.", ".bc"]  # an item that comes back can be found
    assert data.describe()["splits"]["all"]["left_out"] == 1


@pytest.mark.parametrize("name", ["ratings.dat", "u.data", "log.csv"])
def test_files_without_a_header(tmp_path: Path, name: str) -> None:
    """MovieLens' as they are, others by `columns`."""
    cell = {"ratings.dat": "::", "u.data": "\t", "log.csv": ","}[name]
    rows = [("u", "c", 5, 3), ("v", "a", 1, 1), ("u", "a", 2, 1), ("v", "b", 4, 2), ("u", "b", 3, 2)]
    text = "".join(cell.join(map(str, row)) + "\n" for row in rows)
    columns = ["user", "item", "rating", "time"] if name == "log.csv" else None
    data = prepared(tmp_path / name, text, columns=columns)
    test = data.rows("test").fetch(np.arange(1), 0)
    assert named(data, test["history"]) == ["ab"] and named(data, test["target"][None]) == ["c"]


def test_the_share_that_given_weights_do_not_know(tmp_path: Path) -> None:
    """Fine-tuning reports it."""
    path = tmp_path / "log.txt"
    path.write_text(LINES)
    data = HistoryData(source=str(path))
    data.restore({"items": ["a", "b", "c"]})
    data.prepare()
    assert data.unknown_share() == 2 / 11  # d and e


def test_long_histories_keep_the_latest(tmp_path: Path) -> None:
    data = prepared(tmp_path / "log.txt", "u a b c d e f g h\n", max_len=3)
    train, test = data.rows("train").fetch(np.arange(1), 0), data.rows("test").fetch(np.arange(1), 0)
    assert named(data, train["history"]) == ["cde"] and named(data, train["target"]) == ["def"]
    assert named(data, test["history"]) == ["efg"] and named(data, test["seen"]) == ["abcdefg"]
    given = data.encode(["a", "zzz", "b", "c", "d"])
    assert named(data, given["history"]) == ["bcd"] and named(data, given["seen"]) == ["abcd"]
    assert data.encode([])["history"].tolist() == data.encode([])["seen"].tolist() == [[0]]


@pytest.mark.parametrize(
    "text, why",
    [
        ("u a b c\nu\n", ":2: expected a user and items"),
        ("u a b c\n\n", ":2: expected a user"),
        ("u a\nv b\n", "train"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        prepared(tmp_path / "log.txt", text)


def test_bad_lines_can_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.txt.gz"
    path.write_bytes(gzip.compress(b"u a b c\n\xff\xff x\nv\nu d\n"))
    data = HistoryData(source=str(path), on_bad_row="skip")
    data.prepare()
    assert data.bad_rows.count == 2 and named(data, data.rows("test").fetch(np.arange(1), 0)["history"]) == ["abc"]
    with pytest.raises(DataError, match=r"none\.txt: there is no such file"):
        HistoryData(source=str(tmp_path / "none.txt")).prepare()
    with pytest.raises(DataError, match="must be .txt"):
        HistoryData(source=str(tmp_path)).prepare()


def test_training_negatives_do_not_depend_on_the_batch_but_on_the_epoch() -> None:
    data = HistoryData(source="toy", negatives=2)
    data.prepare()
    rows = data.rows("train")
    whole, part = rows.fetch(np.arange(20), 3), rows.fetch(np.arange(5, 9), 3)
    assert torch.equal(whole["places"], (whole["target"] > 0).flatten().nonzero()[:, 0])
    before = int((whole["target"][:5] > 0).sum())
    assert torch.equal(whole["negatives"][before : before + len(part["negatives"])], part["negatives"])
    assert not torch.equal(rows.fetch(np.arange(20), 4)["negatives"], whole["negatives"])
    assert whole["negatives"].shape == (len(whole["places"]), 2) and (whole["negatives"] > 0).all()
    valid = HistoryData(source="toy", eval_negatives=7, seed=9)
    valid.prepare()
    again = HistoryData(source="toy", eval_negatives=7, seed=8)
    again.prepare()
    batches = [d.rows("test").fetch(np.arange(30), 0)["negatives"] for d in (valid, again)]
    assert torch.equal(*batches) and batches[0].shape == (30, 7)  # the run's seed does not change what is scored


@pytest.mark.parametrize("size", [96, 100, 81, 7])
def test_steps_are_random_and_each_in_order_of_length(size: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, size)
    plan, plain = SortedSteps(lengths, 8, seed=1), Plan(size, 8, seed=1)
    for epoch in (0, 1):
        for step in range(plan.steps(epoch)):
            rows = plan.rows(epoch, step)
            assert sorted(rows) == sorted(plain.rows(epoch, step)) and (np.diff(lengths[rows]) >= 0).all()


def test_published_counts() -> None:
    root = data_root()
    if root is None or not (root / "rec/amazon-games-sasrec/Video.txt.gz").is_file():
        pytest.skip("rec/amazon-games-sasrec is not under PADDLE_DATA")
    games = AmazonGamesData()
    games.prepare()
    assert len(games.rows("test")) == len(games.rows("valid")) == 30_901 and games.spec["num_items"] == 23_716
    batch = games.rows("test").fetch(np.array([0, 30_900]), 0)
    assert batch["negatives"].shape == (2, 100) and (batch["negatives"] != batch["target"][:, None]).all()
    assert "labels" not in games.spec and games.state() == {"num_items": 23_716}
    for category, users, items in (("beauty", 22_363, 12_101), ("toys", 19_412, 11_924)):
        data = AmazonS3RecData(category=category)
        data.prepare()
        assert len(data.rows("test")) == len(data.rows("train")) == users and data.spec["num_items"] == items + 1
    with pytest.raises(ValueError, match="beauty or toys"):
        AmazonS3RecData(category="books")
