"""Tables prepared into memory-mapped columns: the same rows, made once, and made again when something is wrong."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from paddlecore.errors import DataError
from paddlerec.data import TableData, cache, preparation, reader

MAP: dict[str, Any] = {
    "label": "y",
    "categorical": {"user": {"min_count": 2}, "item": {}, "page": {"hash_size": 50}},
    "sequences": {"seen": {"shared": "item", "max_len": 3, "separator": "|"}},
    "dense": {"price": {"log": True, "normalise": "standard", "missing": 1.0}, "age": {"normalise": "minmax"}},
}


def frame(rows: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    items = np.array([f"i{k}" for k in range(30)])
    return pd.DataFrame(
        {
            "y": random.integers(0, 2, rows),
            "user": [f"u{k}" for k in random.integers(0, 60, rows)],
            "item": random.choice(items, rows),
            "page": random.integers(0, 1000, rows),
            "seen": ["|".join(random.choice(items, random.integers(0, 6))) for _ in range(rows)],
            "price": np.where(random.random(rows) < 0.1, "", np.round(random.exponential(9, rows), 2).astype(str)),
            "age": random.integers(1, 90, rows),
        }
    )


def prepared(source: Path, folder: Path | None, **options: Any) -> TableData:
    data = TableData(source=str(source), cache=None if folder is None else str(folder), **{**MAP, **options})
    data.prepare()
    return data


def same(a: TableData, b: TableData) -> bool:
    assert a.splits == b.splits and a.unseen == b.unseen
    columns = [(s, k) for s in a.splits for k in a.rows(s).columns]
    equal = all(np.array_equal(a.rows(s).columns[k], b.rows(s).columns[k]) for s, k in columns)
    return equal and json.dumps(a.state()) == json.dumps(b.state()) and a.bad_rows.first == b.bad_rows.first


@pytest.fixture
def fill_count(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were filled so far."""
    filled: list[Path] = []
    fill = TableData._fill

    def counted(self: TableData, folder: Path) -> dict[str, Any]:
        filled.append(folder)
        return fill(self, folder)

    monkeypatch.setattr(TableData, "_fill", counted)
    return filled


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_BLOCK", 700)
    monkeypatch.setattr(preparation, "BLOCK", 17)


@pytest.mark.parametrize("kind", ["one.csv", "one.tsv.gz", "one.parquet", "folder"])
def test_mapped_columns_are_those_in_memory(tmp_path: Path, kind: str, small_blocks: None) -> None:
    rows = frame(400, 1)
    if kind == "folder":
        source = tmp_path / "tables"
        source.mkdir()
        for split, seed in (("train", 1), ("valid", 2), ("test", 3)):
            frame(150, seed).to_csv(source / f"{split}.csv", index=False)
    elif kind == "one.parquet":
        source = tmp_path / kind
        rows.to_parquet(source)
    else:
        source = tmp_path / kind
        rows.to_csv(source, index=False, sep="\t" if "tsv" in kind else ",")
    memory, mapped = prepared(source, None), prepared(source, tmp_path / "cache")
    for split in memory.splits:
        for name, column in memory.rows(split).columns.items():
            other = mapped.rows(split).columns[name]
            assert isinstance(_base(other), np.memmap), name
            if name != "dense":
                np.testing.assert_array_equal(column, other, err_msg=f"{split} {name}")
            else:  # sums run over blocks
                np.testing.assert_allclose(column, other, rtol=1e-5, atol=1e-6)
    assert memory.state()["vocabularies"] == mapped.state()["vocabularies"] and memory.unseen == mapped.unseen
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")] == []


def _base(array: Any) -> Any:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array


def test_every_conversion_against_pandas(tmp_path: Path, small_blocks: None) -> None:
    import zlib

    train, valid = frame(300, 1), frame(100, 2)
    for split, rows in (("train", train), ("valid", valid)):
        rows.to_csv(tmp_path / f"{split}.csv", index=False)
    data = prepared(tmp_path, tmp_path / "cache")

    counts = train["user"].value_counts()
    users = {u for u in counts.index if counts[u] >= 2}
    names = pd.concat([train["item"], train["seen"].str.split("|").str[-3:].explode()])
    items = names[names != ""].value_counts()
    got = {root: dict(zip(v, range(1, len(v) + 1), strict=True)) for root, v in data.state()["vocabularies"].items()}
    assert set(got["user"]) == users and set(got["item"]) == set(items.index)
    assert [items[v] for v in got["item"]] == sorted(items, reverse=True)
    assert [counts[v] for v in got["user"]] == sorted((counts[u] for u in users), reverse=True)

    def price(rows: pd.DataFrame) -> pd.Series:
        return np.log1p(pd.to_numeric(rows["price"]).fillna(1.0))

    for split, rows in (("train", train), ("valid", valid)):
        columns = data.rows(split).columns
        ids = np.stack(
            [
                rows["user"].map(got["user"]).fillna(0),
                rows["item"].map(got["item"]).fillna(0),
                [1 + zlib.crc32(str(p).encode()) % 50 for p in rows["page"]],
            ],
            1,
        )
        np.testing.assert_array_equal(columns["ids"], ids)
        np.testing.assert_array_equal(columns["label"], rows["y"])
        histories = [[got["item"].get(v, 0) for v in cell.split("|") if v][-3:] for cell in rows["seen"]]
        padded = [(found := [i for i in h if i]) + [0] * (3 - len(found)) for h in histories]
        np.testing.assert_array_equal(columns["history"], padded)
        first = (price(rows) - price(train).mean()) / price(train).std(ddof=0)
        second = (rows["age"] - train["age"].min()) / np.ptp(train["age"])
        np.testing.assert_allclose(columns["dense"], np.stack([first, second], 1), rtol=1e-4, atol=1e-5)
    assert data.unseen["valid"]["user"] == (~valid["user"].isin(users)).sum()


def test_a_cache_is_used_again_and_noticed_when_the_file_or_the_map_changes(
    tmp_path: Path, fill_count: list[Path]
) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(100, 1).to_csv(source, index=False)
    first = prepared(source, folder)
    before = first.fingerprint()
    assert same(first, prepared(source, folder)) and len(fill_count) == 1
    os.makedirs(tmp_path / "moved")
    shutil.copy(source, tmp_path / "moved" / "t.csv")
    assert same(first, prepared(tmp_path / "moved" / "t.csv", folder)) and len(fill_count) == 1  # content, not place
    prepared(source, folder, categorical={"user": {"min_count": 3}, "item": {}})
    prepared(source, folder, split=[0.5, 0.25, 0.25])
    prepared(source, folder, split_seed=2)
    assert len(fill_count) == 4
    changed = frame(100, 1)
    changed.loc[50, "item"] = "new"
    changed.to_csv(source, index=False)
    second = prepared(source, folder)
    assert len(fill_count) == 5 and second.fingerprint() != before
    assert second.unseen != first.unseen or "new" in second.state()["vocabularies"]["item"]


def test_evaluating_uses_the_cache_of_training_and_other_vocabularies_get_their_own(
    tmp_path: Path, fill_count: list[Path]
) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(100, 1).to_csv(source, index=False)
    trained = prepared(source, folder)
    later = TableData(source=str(source), cache=str(folder), **MAP)
    later.restore(json.loads(json.dumps(trained.state())))
    later.prepare()
    assert same(trained, later) and len(fill_count) == 1
    other = TableData(source=str(source), cache=str(folder), **MAP)
    state = json.loads(json.dumps(trained.state()))
    state["vocabularies"]["item"].reverse()
    other.restore(state)
    other.prepare()
    assert len(fill_count) == 2 and other.state()["vocabularies"]["item"] == state["vocabularies"]["item"]
    assert other.encode(trained.examples()[0])["ids"].tolist() != trained.encode(trained.examples()[0])["ids"].tolist()


@pytest.mark.parametrize("damage", ["shorter", "changed", "gone", "meta", "no meta"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, damage: str, fill_count: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(100, 1).to_csv(source, index=False)
    first = prepared(source, folder)
    whole = {s: {k: np.array(v) for k, v in first.rows(s).columns.items()} for s in first.splits}
    (place,) = folder.iterdir()
    ids = place / "train.ids.npy"
    if damage == "shorter":
        ids.write_bytes(ids.read_bytes()[:-40])
    elif damage == "changed":
        ids.write_bytes(ids.read_bytes()[:-1] + b"\x7f")
    elif damage == "gone":
        ids.unlink()
    elif damage == "meta":
        (place / "meta.json").write_text("{")
    else:
        (place / "meta.json").unlink()
    again = prepared(source, folder)
    assert len(fill_count) == 2 and "is damaged and is made again" in capsys.readouterr().err
    for split, columns in whole.items():
        assert all(np.array_equal(columns[k], again.rows(split).columns[k]) for k in columns)


def test_a_preparation_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path, fill_count: list[Path]) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(100, 1).to_csv(source, index=False)
    program = f"""
import time
from paddlerec.data import TableData, preparation
preparation.Preparation.number = lambda *a: (print("here", flush=True), time.sleep(600))
TableData(source={str(source)!r}, cache={str(folder)!r}, **{MAP!r}).prepare()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
    finally:
        process.kill()
        process.wait()
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []
    assert list(folder.glob(".*.part/raw-all.ids.npy"))
    data = prepared(source, folder)
    assert len(fill_count) == 1 and same(data, prepared(source, folder)) and len(fill_count) == 1
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(100, 1).to_csv(source, index=False)
    program = f"""
import time
from paddlerec.data import TableData
fill = TableData._fill
TableData._fill = lambda self, folder: (print("fills", flush=True), time.sleep(1), fill(self, folder))[-1]
TableData(source={str(source)!r}, cache={str(folder)!r}, **{MAP!r}).prepare()
"""
    two = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0] and sorted(said) == ["", "fills\n"]


def test_an_error_while_reading_leaves_no_cache_and_skipped_rows_are_remembered(tmp_path: Path) -> None:
    source, folder = tmp_path / "t.csv", tmp_path / "cache"
    frame(60, 1).to_csv(source, index=False)
    with source.open("a") as file:
        file.write("1,u1,i1,3,i2|i3,cheap,20\n")
    with pytest.raises(DataError, match=r"t\.csv:62: column 'price': 'cheap' is not a number"):
        prepared(source, folder)
    assert list(folder.iterdir()) == []
    for _ in range(2):
        data = prepared(source, folder, on_bad_row="skip")
        assert data.bad_rows.count == 1 and "t.csv:62" in data.bad_rows.summary()
    with pytest.raises(DataError, match="t.csv:62"):  # what skip made is not there for error
        prepared(source, folder)


def test_where_columns_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "t.csv"
    frame(60, 1).to_csv(source, index=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    TableData(source=str(source), **MAP).prepare()
    assert not (tmp_path / "user").exists()  # a small table
    monkeypatch.setattr(cache, "_SMALL", 100)
    data = TableData(source=str(source), **MAP)
    data.prepare()
    (place,) = (tmp_path / "user" / "paddle-suite" / "tables").iterdir()
    assert len(list(place.glob("*.npy"))) == 12 and cache.load(place) is not None
    data.prepare()  # from the cache, with what was learned
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="give another data.cache"):
        prepared(source, blocked)


def test_batches_come_from_the_maps_and_sequences_are_cut_to_the_longest(tmp_path: Path) -> None:
    rows = frame(50, 1)
    rows["seen"] = ["i1", "i2|i3"] * 25
    rows.to_csv(tmp_path / "t.csv", index=False)
    data = prepared(tmp_path / "t.csv", tmp_path / "cache", split=[1.0, 0.0, 0.0])
    assert data.rows("train").columns["history"].shape == (50, 3)
    batch = data.rows("train").fetch(np.array([3, 0]), 0)
    assert batch["history"].shape == (2, 2) and str(batch["history"].dtype) == "torch.int64"
    assert batch["history"][1, 1] == 0 and (batch["history"][:, 0] > 0).all()
    batch["ids"][:] = 0  # a copy
    assert (data.rows("train").columns["ids"][3] > 0).any()


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,user.id,user.tags,n/a\n" + "1,a,x y,z\n0,b,y,z w\n" * 20)
    options = {"source": str(path), "label": "y", "categorical": ["user.id"], "sequences": ["user.tags", "n/a"]}
    kept, mapped = TableData(**options), TableData(**options, cache=str(tmp_path / "cache"))  # type: ignore[arg-type]
    for data in (kept, mapped):
        data.prepare()
    for name, column in kept.rows("train").columns.items():
        np.testing.assert_array_equal(mapped.rows("train").columns[name], column)


def test_a_gigabyte_is_not_hashed_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content's hash is remembered by path, size and time."""
    from paddlecore import sources

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(sources, "REMEMBER", 0)
    source = tmp_path / "t.csv.gz"
    source.write_bytes(gzip.compress(frame(60, 1).to_csv(index=False).encode()))
    prepared(source, tmp_path / "cache")
    prepared(source, tmp_path / "cache")
    hashed: list[Any] = []
    monkeypatch.setattr(sources, "sha256_of", lambda path: hashed.append(path))
    started = time.perf_counter()
    prepared(source, tmp_path / "cache")
    assert not hashed and time.perf_counter() - started < 5
