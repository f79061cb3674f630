"""Sessions: prefixes against plain loops, forms of files, unknown items, and counts of the published sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paddlecore.data import Rows
from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlecore.testing import tiny_trainer
from paddlerec.data import DigineticaData, SessionData, YoochooseData


def examples(rows: Rows) -> list[tuple[list[int], int]]:
    """(history without padding, target) of each row, fetched three at a time."""
    found = []
    for start in range(0, len(rows), 3):
        batch = rows.fetch(np.arange(start, min(start + 3, len(rows))), 0)
        for history, target in zip(batch["history"].tolist(), batch["target"].tolist(), strict=True):
            length = history.index(0) if 0 in history else len(history)
            assert not any(history[length:])
            found.append((history[:length], target))
    return found


def prepared(folder: Path, files: dict[str, str], **options: object) -> SessionData:
    for name, text in files.items():
        if name.endswith(".gz"):
            (folder / name).write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    data = SessionData(source=str(folder), valid_share=0.0, **options)
    data.prepare()
    return data


def test_all_prefixes_of_lines_and_unknown_items(tmp_path: Path) -> None:
    data = prepared(
        tmp_path,
        {"train.txt": "a b c a\nb a\nc\n", "valid.txt.gz": "a x b y\nx a\n", "test.txt": "a x b\tc\nx\ta\nb\tz\n"},
    )
    assert data.spec == {"num_items": 4, "max_len": 50, "labels": ["", "a", "b", "c"]}
    a, b, c = 1, 2, 3  # by frequency, then by first appearance
    assert sorted(examples(data.rows("train"))) == sorted([([a], b), ([a, b], c), ([a, b, c], a), ([b], a)])
    # unknown items are left out of histories and are misses as targets
    assert sorted(examples(data.rows("valid"))) == sorted([([a], 0), ([a], b), ([a, b], 0), ([], a)])
    assert sorted(examples(data.rows("test"))) == sorted([([a, b], c), ([], a), ([b], 0)])
    counts = data.describe()["splits"]
    assert counts["train"]["of_one_click"] == 1 and counts["train"]["clicks"] == 7
    assert counts["valid"] | {"unknown_targets": 2, "empty_histories": 1, "unknown_clicks": 3} == counts["valid"]
    lengths = [len(history) for history, _ in examples(data.rows("test"))]
    assert lengths == sorted(lengths)


def test_long_histories_keep_the_latest_and_rare_items_are_unknown(tmp_path: Path) -> None:
    data = prepared(tmp_path, {"train.txt": "a b a b a b rare a\n"}, max_len=2, min_count=2)
    assert data.spec["labels"] == ["", "a", "b"]
    plain = [1, 2, 1, 2, 1, 2, 1]  # without the rare one, which is no target either
    wanted = [(plain[max(0, n - 2) : n], plain[n]) for n in range(1, 7)]
    assert sorted(examples(data.rows("train"))) == sorted(wanted)
    assert data.encode(["a", "b", "rare", "b", "nothing"])["history"].tolist() == [[2, 2]]
    assert data.encode("[]")["history"].tolist() == [[0]]
    with pytest.raises(DataError, match="list of items"):
        data.encode({"a": 1})


def test_clicks_are_put_in_order_of_time(tmp_path: Path) -> None:
    text = "SessionId\tItemId\tTime\n1\ta\t3\n2\tb\t1\n1\tb\t1.5\n1\tc\t3\n2\ta\t0\n"
    data = prepared(tmp_path, {"train.tsv": text})
    names = data.spec["labels"]
    found = sorted(([names[i] for i in history], names[target]) for history, target in examples(data.rows("train")))
    assert found == [(["a"], "b"), (["b"], "a"), (["b", "a"], "c")]
    csv = tmp_path / "csv"
    csv.mkdir()
    (csv / "train.csv").write_text("who,what,when\n" + "\n".join(text.splitlines()[1:]).replace("\t", ",") + "\n")
    other = SessionData(source=str(csv), session="who", item="what", time="when", valid_share=0.0)
    other.prepare()
    assert sorted(examples(other.rows("train"))) == sorted(examples(data.rows("train")))


def test_clicks_of_yoochoose_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "yoochoose-clicks.dat"
    path.write_text("1,2014-04-07T10:54:09.868Z,b,0\n1,2014-04-07T10:51:09.277Z,a,0\n2,2014-04-07T13:56:37.614Z,c,S\n")
    names = ["SessionId", "Time", "ItemId", "Category"]
    data = SessionData(source=str(path), columns=names, valid_share=0, test_share=0)
    data.prepare()
    batch = data.rows("train").fetch(np.arange(1), 0)
    assert [data.spec["labels"][i] for i in (int(batch["history"][0, 0]), int(batch["target"][0]))] == ["a", "b"]
    with pytest.raises(DataError, match=r"clicks.dat:1: no column 'SessionId'.*where data.columns does not"):
        SessionData(source=str(path)).prepare()


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%d %H:%M", "%Y-%m-%d", "parquet", "category"])
def test_times_may_be_dates(tmp_path: Path, form: str) -> None:
    when = pd.to_datetime(["2014-04-09 10:30", "2014-04-08 23:59", "2015-01-01 00:00", "2014-12-31 23:59"])
    table = pd.DataFrame({"SessionId": [1, 1, 2, 2], "ItemId": list("abcd"), "Time": when})
    if form in ("parquet", "category"):
        time = when if form == "parquet" else pd.Categorical(when.strftime("%Y-%m-%d %H:%M"))
        table.assign(Time=time).to_parquet(tmp_path / "train.parquet")
    else:
        table.assign(Time=when.strftime(form)).to_csv(tmp_path / "train.tsv", sep="\t", index=False)
    data = prepared(tmp_path, {})
    names = data.spec["labels"]
    assert [(names[h[0]], names[target]) for h, target in examples(data.rows("train"))] == [("b", "a"), ("d", "c")]


@pytest.mark.parametrize(
    ("times", "line", "why"),
    [
        (["1", "2", "2014-04-09"], 4, "'2014-04-09' is not a number"),
        (["2014-04-09", "2014-04-08 10:00", "7"], 4, "'7' is not a number, nor a date like"),
        (["2014-04-09", "2014-13-08", "2014-04-09"], 3, "'2014-13-08' is not a number, nor a date"),
        (["2014-04-09", "", "2014-04-09"], 3, "column 'Time' is empty"),
    ],
)
def test_numbers_and_dates_do_not_mix(tmp_path: Path, times: list[str], line: int, why: str) -> None:
    text = "SessionId\tItemId\tTime\n" + "".join(f"1\tx\t{when}\n" for when in times)
    with pytest.raises(DataError, match=rf"train\.tsv:{line}: .*{why}"):
        prepared(tmp_path, {"train.tsv": text})


def test_one_file_is_split_by_sessions(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"a{i} b{i} c{i}\n" for i in range(100)))
    data = SessionData(source=str(path), valid_share=0.1, test_share=0.2)
    data.prepare()
    parts = {s: {data.spec["labels"][h[0]][1:] for h, _ in examples(data.rows(s))} for s in ("train", "valid")}
    assert {s: len(p) for s, p in parts.items()} == {"train": 70, "valid": 10}
    assert not parts["train"] & parts["valid"]
    assert len(data.rows("test")) == 40
    again = SessionData(source=str(path), valid_share=0.1, test_share=0.2, seed=7)
    again.prepare()
    assert examples(again.rows("valid")) == examples(data.rows("valid"))  # the run's seed does not change the split


@pytest.mark.parametrize("name", ["log.tsv", "log.txt"])
def test_the_latest_sessions_may_be_held_out(tmp_path: Path, name: str) -> None:
    path, begins = tmp_path / name, [7, 0, 9, 3, 8, 1, 6, 2, 5, 4]
    if name == "log.txt":
        path.write_text("".join(f"a{i} b{i}\n" for i in range(10)))
    else:
        rows = [f"{s}\tb{begin}\t{begin + 50}\n{s}\ta{begin}\t{begin}" for s, begin in enumerate(begins)]
        path.write_text("\n".join(["SessionId\tItemId\tTime", *rows]))
    data = SessionData(source=str(path), split="last", valid_share=0.2, test_share=0.3, min_count=1)
    data.prepare()
    sessions = {s: data.describe()["splits"][s]["sessions"] for s in data.splits}
    assert sessions == {"train": 5, "valid": 2, "test": 3}
    # the items of train before validation is taken out of it
    assert set(data.spec["labels"][1:]) == {f"{kind}{begin}" for kind in "ab" for begin in range(7)}
    assert {data.spec["labels"][target] for _, target in examples(data.rows("valid"))} == {"b5", "b6"}
    with pytest.raises(ValueError, match="must be random or last"):
        SessionData(split="time")


@pytest.mark.parametrize(
    ("name", "text", "line", "why"),
    [
        ("train.txt", "a b\n\nc d\n", 2, "parted by blanks"),
        ("train.txt", "a b\na\tb\tc\n", 2, "a tab and one target"),
        ("train.txt", "a b\na\tb\n", 2, "unlike in the lines before"),
        ("train.tsv", "SessionId\tItemId\tTime\n1\ta\t1\n1\tb\tsoon\n", 3, "'soon' is not a number"),
        ("train.tsv", "SessionId\tItemId\tTime\n1\ta\t1\n1\t\t2\n", 3, "'ItemId' is empty"),
    ],
)
def test_bad_rows_are_named_and_can_be_skipped(tmp_path: Path, name: str, text: str, line: int, why: str) -> None:
    with pytest.raises(DataError, match=f"{name}:{line}: .*{why}"):
        prepared(tmp_path, {name: text})
    good = text.rstrip("\n") + ("\na c\n" if name.endswith("txt") else "\n1\tc\t9\n")
    data = prepared(tmp_path, {name: good}, on_bad_row="skip")
    assert data.describe()["bad_rows"] == 1


def test_damaged_and_useless_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged"):
        (tmp_path / "train.txt.gz").write_bytes(gzip.compress(b"a b\n" * 1000)[:-9])
        SessionData(source=str(tmp_path)).prepare()
    (tmp_path / "train.txt.gz").unlink()
    with pytest.raises(DataError, match="must hold a train file"):
        SessionData(source=str(tmp_path)).prepare()
    with pytest.raises(DataError, match="no session of two known items"):
        prepared(tmp_path, {"train.txt": "a\nb\n"})
    with pytest.raises(DataError, match="give the path"):
        SessionData().prepare()


def test_weights_of_own_data_know_the_names(tmp_path: Path) -> None:
    data = prepared(tmp_path, {"train.txt": "a b c a\nb a\n"})
    fresh = SessionData()
    fresh.restore(json.loads(json.dumps(data.state())))
    assert fresh.spec == data.spec
    assert fresh.encode(["c", "a"])["history"].tolist() == [[3, 1]]
    assert all((fresh.encode(raw)["history"] > 0).all() for raw in fresh.examples())
    with pytest.raises(DataError, match=r"'a'; names stand in quotes, lists of them in brackets"):
        fresh.encode("a")


@pytest.mark.parametrize("kind", [SessionData, YoochooseData, DigineticaData])
def test_toy_sessions_can_be_learned(kind: type[SessionData]) -> None:
    data = kind(source="toy")
    data.prepare()
    seen: dict[int, dict[int, int]] = {}
    for history, target in examples(data.rows("train")):
        follow = seen.setdefault(history[-1], {})
        follow[target] = follow.get(target, 0) + 1
    right = [max(seen[h[-1]], key=lambda i: seen[h[-1]][i]) == t for h, t in examples(data.rows("test"))]
    assert 0.6 < np.mean(right) < 0.8


def test_numbered_items_are_those_of_the_training_sessions(tmp_path: Path) -> None:
    path = tmp_path / "sessions.txt"
    path.write_text("".join(f"7 3 {100 + i}\n" for i in range(10)))  # one of them is for testing
    data = YoochooseData(source=str(path), valid_share=0.0)
    data.prepare()
    assert data.spec["num_items"] == 1 + 2 + 9
    assert data.describe()["splits"]["test"]["unknown_targets"] == 1


@pytest.mark.parametrize(
    ("kind", "clicks", "train", "test", "items", "misses"),
    [(YoochooseData, 486_026, 369_859, 55_898, 17_376, None), (DigineticaData, 906_140, 719_470, 60_858, 43_097, 0)],
)
def test_counts_are_those_of_the_published_sets(
    kind: type[SessionData], clicks: int, train: int, test: int, items: int, misses: int | None
) -> None:
    root = data_root()
    if root is None or not (root / kind.SOURCE.folder / "train_sessions.txt.gz").is_file():
        pytest.skip(f"{kind.SOURCE.folder} is not under PADDLE_DATA")
    data = kind()
    data.prepare()
    counts = data.describe()["splits"]
    assert data.spec == {"num_items": items + 1, "max_len": 50}
    assert counts["train"]["clicks"] + counts["valid"]["clicks"] == clicks
    assert len(data.rows("train")) + len(data.rows("valid")) == train
    assert len(data.rows("test")) == test
    assert data.state() == {"num_items": items + 1}  # nothing of the data travels with the weights
    unknown = counts["test"]["unknown_targets"]
    assert unknown == misses if misses is not None else 0 < unknown < 2000
    batch = data.rows("test").fetch(np.arange(test - 3, test), 0)
    assert batch["history"].shape[0] == 3 and batch["history"].shape[1] <= 50


def test_expanded_prefixes_are_no_sessions_to_read_in_parallel(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\tb\na b\tc\na b c\ta\n")
    with pytest.raises(DataError, match="batches=parallel reads whole sessions"):
        SessionData(source=str(tmp_path / "a.txt"), batches="parallel", batch_size=1, test_share=0).prepare()


@pytest.mark.parametrize("recipe", ["rec/gru4rec_yoochoose", "rec/srgnn_yoochoose"])
def test_a_catalogue_may_grow_when_weights_are_fine_tuned(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("a b c\nb c a\nc a b\na c\n" * 5)
    new.write_text("a b d\nd e a\ne d b\na e\n" * 5)
    words = ["data._target_=paddlerec.data.SessionData", "data.batch_size=4", "train.max_steps=1"]
    base, known = tiny_trainer(recipe, *words, f"data.source={old}", folder=tmp_path / "run")
    base.fit()
    words += [f"data.source={new}", f"init.weights={tmp_path / 'run'}"]
    _, data = tiny_trainer(recipe, *words)
    assert data.vocabulary() == known.vocabulary()
    assert "of the clicks of these sessions are not in that of the weights" in capsys.readouterr().err
    tuned, data = tiny_trainer(recipe, *words, "init.vocabulary=data")
    before, after = known.vocabulary(), data.vocabulary()
    assert set(after) == {"", "a", "b", "d", "e"} and len(before) != len(after)
    assert "vocabulary: 3 of 5 tokens are also in that of the weights" in capsys.readouterr().err
    weights, moved = base.task.state_dict(), tuned.task.state_dict()
    name = "model.items.weight"
    for item in ("a", "b"):
        assert moved[name][after.index(item)].equal(weights[name][before.index(item)])
