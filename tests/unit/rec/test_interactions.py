"""Interactions: what a training batch brings, how users are split, what files are read and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paddlecore.data import DataModule
from paddlecore.errors import DataError
from paddlerec.data import GowallaData, InteractionData
from paddlerec.data.interactions import Lists, PairRows, Steps


def rows_of(n_users: int = 40, n_items: int = 30, batch_size: int = 16, seed: int = 3, **drawn) -> PairRows:
    random = np.random.default_rng(0)
    keys = np.unique(random.integers(0, n_users * n_items, 400))
    lists = Lists(1 + keys // n_items, 1 + keys % n_items, n_users + 1)
    return PairRows(lists, n_items + 1, batch_size, seed, **drawn)


EVERYTHING = {"negatives": 2, "in_batch": 8, "sampled": 5, "train_history": 4}


def test_an_epoch_has_each_pair_once_in_another_order() -> None:
    rows = rows_of()
    plan = Steps(len(rows), 16)
    epochs = []
    for epoch in (0, 1, 7):
        batches = [rows.fetch(plan.rows(epoch, step), epoch) for step in range(plan.steps(epoch))]
        epochs.append(torch.cat([b["user"] * 100 + b["item"] for b in batches]))
    expected = torch.from_numpy(np.sort(rows.users.astype(np.int64) * 100 + rows.lists.items))
    for keys in epochs:
        assert torch.equal(keys.sort().values, expected)
    assert not torch.equal(epochs[0], epochs[1])


def test_a_piece_has_what_the_whole_step_has() -> None:
    rows, again = rows_of(**EVERYTHING), rows_of(**EVERYTHING)
    plan = Steps(len(rows), 16)
    for epoch, step in ((0, 0), (2, 3), (1, plan.steps(1) - 1)):
        whole = rows.fetch(plan.rows(epoch, step), epoch)
        piece = again.fetch(plan.rows(epoch, step)[5:], 99)  # the row alone says which epoch it is
        for name in ("user", "item", "negative", "item_log_q"):
            assert torch.equal(whole[name][5:], piece[name]), name
        width = piece["history"].shape[1]
        assert torch.equal(whole["history"][5:, :width], piece["history"]) and not whole["history"][5:, width:].any()
        for name in ("candidates", "candidates_log_q"):
            assert torch.equal(whole[name], piece[name]), name
        own = whole["item"][:8]
        assert torch.equal(whole["candidates"][: len(own)], own) and len(whole["candidates"]) == len(own) + 5


@pytest.mark.parametrize("known", [False, True])
def test_hits_are_what_a_loop_finds(known: bool) -> None:
    rows = rows_of(**EVERYTHING, drop_known=known)
    plan = Steps(len(rows), 16)
    for piece in (plan.rows(0, 0), plan.rows(1, 2)[5:]):
        batch = rows.fetch(piece, 0)
        expected = []
        for row, (user, item) in enumerate(zip(batch["user"].tolist(), batch["item"].tolist(), strict=True)):
            own = rows.lists.items[rows.lists.starts[user] : rows.lists.starts[user + 1]] if known else [item]
            expected += [(row, place) for place, c in enumerate(batch["candidates"].tolist()) if c in own]
        found = list(zip(*batch["hits"].tolist(), strict=True))
        assert sorted(found) == expected and [r for r, _ in found] == sorted(r for r, _ in found)


def test_negatives_are_uniform_over_what_the_user_does_not_have() -> None:
    rows = rows_of(negatives=200)
    batch = rows.fetch(Steps(len(rows), len(rows)).rows(0, 0), 0)
    assert batch["negative"].min() >= 1 and batch["negative"].max() <= 30
    user = int(batch["user"][0])
    own = set(rows.lists.items[rows.lists.starts[user] : rows.lists.starts[user + 1]].tolist())
    drawn = batch["negative"][batch["user"] == user].flatten()
    counts = torch.bincount(drawn, minlength=31).double()[[i for i in range(1, 31) if i not in own]]
    assert int(counts.sum()) == len(drawn)
    assert _chi_square(counts.numpy(), np.ones(len(counts))) < 4


def test_sampled_candidates_follow_popularity_to_the_power_alpha() -> None:
    rows = rows_of(sampled=20_000, alpha=0.75)
    counts = np.bincount(rows.lists.items, minlength=31)[1:]
    drawn = np.bincount(rows.candidates(0, 1), minlength=31)
    assert drawn[0] == 0
    assert _chi_square(drawn[1:], counts**0.75) < 4
    share = counts**0.75 / (counts**0.75).sum()
    np.testing.assert_allclose(rows.log_q[1:], np.log(share), rtol=1e-5)
    mixed = rows_of(in_batch=16, sampled=48, alpha=0.0)
    expected = (16 * counts / counts.sum() + 48 / 30) / 64
    np.testing.assert_allclose(mixed.log_q[1:], np.log(expected), rtol=1e-5)
    more = rows_of(in_batch=10**6, sampled=48, alpha=0.0)  # than a step has
    taken = len(more.candidates(0, 0)) - 48
    expected = (taken * counts / counts.sum() + 48 / 30) / (taken + 48)
    np.testing.assert_allclose(more.log_q[1:], np.log(expected), rtol=1e-5)


def _chi_square(found: np.ndarray, weights: np.ndarray) -> float:
    """Standardised: about normal with mean 0 and deviation 1 where the law holds."""
    expected = found.sum() * weights / weights.sum()
    return (((found - expected) ** 2 / expected).sum() - (len(found) - 1)) / (2 * (len(found) - 1)) ** 0.5


def test_a_history_is_other_items_of_the_user_each_once() -> None:
    rows = rows_of(train_history=6)
    for epoch in (0, 1):
        batch = rows.fetch(Steps(len(rows), len(rows)).rows(epoch, 0), epoch)
        for user, item, history in zip(*(batch[k].tolist() for k in ("user", "item", "history")), strict=True):
            own = set(rows.lists.items[rows.lists.starts[user] : rows.lists.starts[user + 1]].tolist())
            given = [i for i in history if i]
            assert set(given) <= own - {item} and len(set(given)) == len(given) == min(6, len(own) - 1)


def test_lists_are_padded_and_keep_the_last() -> None:
    lists = Lists(np.array([3, 1, 3, 3]), np.array([7, 5, 6, 9]), 5)
    assert lists.padded(np.array([3, 1, 2])).tolist() == [[7, 6, 9], [5, 0, 0], [0, 0, 0]]
    assert lists.padded(np.array([3, 0]), 2).tolist() == [[6, 9], [0, 0]]
    assert lists.padded(np.array([2])).tolist() == [[0]]
    assert Lists(np.array([], np.int64), np.array([], np.int64), 3).padded(np.array([1])).tolist() == [[0]]


# ---------------------------------------------------------------------------------------------------- files

LINES = [("ann", "x", 5, 3), ("ann", "y", 1, 1), ("ann", "z", 4, 2), ("bob", "x", 3, 1), ("bob", "z", 5, 2)]


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        import pandas as pd

        pd.DataFrame(LINES, columns=["user", "item", "rating", "time"]).to_parquet(path)
        return path
    parts = {".tsv": "\t", ".csv": ",", ".dat": "::", ".data": "\t"}[path.suffix]
    text = [] if path.suffix in (".dat", ".data") else [parts.join(["user", "item", "rating", "time"])]
    path.write_text("\n".join([*text, *(parts.join(map(str, line)) for line in LINES)]) + "\n")
    return path


def found(data: InteractionData, split: str) -> set[tuple[str, str]]:
    """The pairs of a split by name."""
    if split == "train":
        batch = data.rows(split).fetch(np.arange(len(data.rows(split))), 0)
        pairs = zip(batch["user"].tolist(), batch["item"].tolist(), strict=True)
    else:
        batch = data.rows(split).fetch(np.arange(len(data.rows(split))), 0)
        pairs = ((u, i) for u, row in zip(batch["user"].tolist(), batch["relevant"].tolist(), strict=True) for i in row)
    return {(data._name("users", u), data._name("items", i)) for u, i in pairs if i}


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.parquet", "ratings.dat", "u.data"])
def test_formats_and_leaving_out_the_last(tmp_path: Path, name: str) -> None:
    data = InteractionData(
        source=str(written(tmp_path, name)), time="time", split="last", valid_share=0.1, batch_size=2
    )
    data.prepare()
    assert data.splits == ("train", "valid", "test")
    assert found(data, "test") == {("ann", "x")}  # latest in time; bob's is z, which nobody has in train
    assert data.rows("valid").fetch(np.arange(1), 0)["num_relevant"].tolist() == [1]  # ann's z; bob has one left
    assert found(data, "train") == {("ann", "y"), ("bob", "x")}
    assert data.spec == {"num_users": 3, "num_items": 3, "labels": ["", *data._names["items"]]}
    assert [data.describe()["splits"][split]["of_unknown_items"] for split in ("valid", "test")] == [1, 1]


def test_low_ratings_are_left_out_and_repeated_pairs_count_once(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv")
    path.write_text(path.read_text() + "bob,z,5,9\n")
    data = InteractionData(source=str(path), rating="rating", min_rating=4, test_share=0.0, valid_share=0.0)
    data.prepare()
    assert data.splits == ("train",)
    assert found(data, "train") == {("ann", "x"), ("ann", "z"), ("bob", "z")} and len(data.rows("train")) == 3


def test_given_files_and_what_is_unknown_in_them(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("user\titem\na\tx\na\ty\nb\tx\n")
    (tmp_path / "test.tsv").write_text("user\titem\na\tz\nb\ty\nb\tq\nc\tx\n")
    data = InteractionData(source=str(tmp_path), valid_share=0.0)
    data.prepare()
    batch = data.rows("test").fetch(np.arange(2), 0)
    assert batch["num_relevant"].tolist() == [1, 2]
    assert found(data, "test") == {("b", "y")}
    counts = data.describe()["splits"]["test"]
    assert counts == {"pairs": 4, "of_unknown_users": 1, "of_unknown_items": 2, "had_before": 0}
    assert batch["seen"].tolist() == [[1, 2], [1, 0]]
    (tmp_path / "test.tsv").write_text("user\titem\na\tx\na\tz\nb\tx\n")  # what was had cannot be found again
    data = InteractionData(source=str(tmp_path), valid_share=0.0)
    data.prepare()
    assert len(data.rows("test")) == 1 and data.rows("test").fetch(np.arange(1), 0)["num_relevant"].tolist() == [1]
    assert data.describe()["splits"]["test"]["had_before"] == 2


def test_pairs_that_given_weights_do_not_know_are_counted(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f"{name}.csv" for name in ("old", "new", "other"))
    old.write_text("user,item\na,x\na,y\nb,x\n")
    new.write_text("user,item\na,x\na,q\nc,x\nb,y\n")
    other.write_text("user,item\nc,x\na,q\n")
    options = {"test_share": 0.0, "valid_share": 0.0}
    first = InteractionData(source=str(old), **options)
    first.prepare()
    tuned = InteractionData(source=str(new), **options)
    tuned.restore(first.state())
    tuned.prepare()
    assert tuned.describe()["splits"]["train"] == {"left_out": 2, "pairs": 2, "users": 2, "items": 2}
    tuned = InteractionData(source=str(other), **options)
    tuned.restore(first.state())
    with pytest.raises(DataError, match="the given weights know no user or no item"):
        tuned.prepare()


@pytest.mark.parametrize("split", ["last", "random"])
def test_what_is_held_out_leaves_no_trace_in_the_ids(tmp_path: Path, split: str) -> None:
    """Ties are broken by them: in order of all counts, the popular items of the test would win."""
    path = tmp_path / "log.csv"
    rows = [f"u{user},{item}" for user in range(8) for item in (f"own{user}", "both", "late")]
    path.write_text("\n".join(["user,item", *rows]))
    data = InteractionData(source=str(path), split=split, test_share=0.34, valid_share=0.0)
    data.prepare()
    train = found(data, "train")
    counts = [sum(item == name for _, item in train) for name in data._names["items"]]
    assert counts == sorted(counts, reverse=True) and min(counts) > 0
    assert split == "random" or data._names["items"] == ["both", *(f"own{user}" for user in range(8))]
    again = InteractionData(source=str(path), split=split, test_share=0.34, valid_share=0.0)
    again.restore(data.state())  # as scoring does
    again.prepare()
    assert found(again, "train") == train and found(again, "test") == found(data, "test")


def test_random_split_takes_a_share_of_each_user_and_leaves_one() -> None:
    data = InteractionData(source="toy", test_share=0.3, valid_share=0.2)
    data.prepare()
    whole = {kind: found(data, kind) for kind in data.splits}
    assert not whole["train"] & whole["test"] and not whole["valid"] & (whole["train"] | whole["test"])
    for user in data._names["users"]:
        of = {kind: sum(u == user for u, _ in pairs) for kind, pairs in whole.items()}
        total = sum(of.values())
        assert of["test"] == int(0.3 * total + 0.5) and of["train"] >= 1
    seen = data.rows("test").fetch(np.arange(3), 0)["seen"]  # what was validation is known by then
    assert (seen > 0).sum(1).tolist() == [
        sum(u == data._name("users", user) for u, _ in whole["train"] | whole["valid"]) for user in (1, 2, 3)
    ]
    other = InteractionData(source="toy", test_share=0.3, valid_share=0.2, seed=99)
    other.prepare()
    assert found(other, "test") == whole["test"]


def test_bad_rows_are_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user,item,rating\na,x,1\nb,,2\nc,x,much\nd,x\n")
    with pytest.raises(DataError, match=r"a\.csv:3: column 'item' is empty"):
        InteractionData(source=str(path)).prepare()
    data = InteractionData(source=str(path), rating="rating", on_bad_row="skip", test_share=0, valid_share=0)
    data.prepare()
    assert data.bad_rows.count == 3 and len(data.rows("train")) == 1
    with pytest.raises(DataError, match=r"a\.csv: no rating is data\.min_rating=9 or more"):
        InteractionData(source=str(path), rating="rating", min_rating=9, on_bad_row="skip").prepare()
    with pytest.raises(DataError, match="column 'item' is asked for twice"):
        InteractionData(source=str(path), user="item").prepare()
    with pytest.raises(DataError, match="no column 'place'; the file has: user, item, rating; the first line names"):
        InteractionData(source=str(path), item="place").prepare()
    for wrong in ({"split": "time"}, {"valid_share": 1.0}, {"negatives": -1}, {"min_rating": 3}):
        with pytest.raises(ValueError):
            InteractionData(**wrong)


def test_state_is_enough_to_encode() -> None:
    data = InteractionData(source="toy", max_history=2)
    data.prepare()
    other = InteractionData(source="toy", max_history=2)
    other.restore(data.state())
    assert other.spec == data.spec
    for given in (["i3", "i9", "nothing", "i4"], '["i3", "i9", "nothing", "i4"]'):
        batch = other.encode(given)
        assert batch["user"].tolist() == [0]
        assert batch["history"].tolist() == [[other._id("items", "i9"), other._id("items", "i4")]]
        assert batch["seen"].tolist() == [[other._id("items", name) for name in ("i3", "i9", "i4")]]
    assert other.encode({"history": []})["seen"].tolist() == [[0]]
    batch = other.encode("u7")  # looked up in the data
    assert batch["user"].tolist() == [other._id("users", "u7")] and (batch["seen"] > 0).all()
    nested = (["i3", ["i4"]], [{"item": "i3"}], [None], [3.0], {"user": ["u1"], "history": []}, {"user": None})
    for wrong in ("nobody", 3.5, {}, {"history": "i3"}, {"users": ["u1"]}, True, *nested):
        with pytest.raises(DataError):
            other.encode(wrong)


def test_gowalla_lines(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 5 2\n1 0\n2\n0 2\n")  # a user may have several lines
    (tmp_path / "test.txt").write_text("0 1\n1 5 4\n1 4\n")
    data: DataModule = GowallaData(source=str(tmp_path))
    data.prepare()
    assert data.splits == ("train", "test") and data.spec == {"num_users": 3, "num_items": 7}
    batch = data.rows("test").fetch(np.arange(2), 0)
    assert batch["relevant"].tolist() == [[2, 0], [5, 6]] and batch["num_relevant"].tolist() == [1, 2]
    assert batch["seen"].sort(1).values.tolist() == [[3, 6], [0, 1]]
    assert data.encode(2)["seen"].tolist() == [[1]]
    assert data.encode([6, "7", 3])["history"].tolist() == [[6, 3]]
    for few in (1, 2):  # weights that know more keep their sizes, those that know less are refused
        other = GowallaData(source=str(tmp_path))
        other.restore({"users": 9, "items": 7 if few == 1 else 6})
        if few == 1:
            other.prepare()
            assert other.spec == {"num_users": 9, "num_items": 7} and len(other.rows("train")) == 3
        else:
            with pytest.raises(DataError, match="items have numbers up to 5, and the given weights know those up to 4"):
                other.prepare()
    (tmp_path / "test.txt").write_text("0 1\n1 five\n")
    with pytest.raises(DataError, match=r"test\.txt:2: expected a user and its items"):
        GowallaData(source=str(tmp_path)).prepare()
    with pytest.raises(DataError, match=r"train\.txt is a file: give the folder"):
        GowallaData(source=str(tmp_path / "train.txt")).prepare()
