"""Files that are no tables: lines in whatever form they come, and numbers that have rows in tables."""

from __future__ import annotations

import gzip
import io
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from paddlecore.data import DataModule
from paddlecore.errors import DataError
from paddlerec.data import (
    AmazonCtrData,
    GowallaData,
    HistoryData,
    ML1MNCFData,
    MovieLensData,
    SessionData,
    reader,
)
from paddlerec.data.reader import check_gaps, find_file, lines

PAIRS = "".join(f"{user}\t{item}\n" for user in range(4) for item in range(5))
RATINGS = "".join(f"{1 + i % 4}::{1 + i % 7}::{1 + i % 5}::{i}\n" for i in range(40))
FORMS: list[tuple[type[DataModule], dict[str, str]]] = [
    (AmazonCtrData, {"sequences.txt": "1 1 2 3 4\n2 2 3 4 5\n", "attributes.json": '{"1": [1], "2": [1, 2]}\n'}),
    (GowallaData, {"train.txt": "0 1 2\n1 2 3\n", "test.txt": "0 3\n"}),
    (HistoryData, {"log.txt": "u a b c d\nv b c d a\n"}),
    (ML1MNCFData, {"train.tsv": PAIRS, "test.negative": "(0,5)\t6\t7\n(1,6)\t5\n"}),
    (MovieLensData, {"ratings.dat": RATINGS, "users.dat": "1::F::25::4::12345\n"}),
    (SessionData, {"train.txt": "a b c\nb c a\nc a b\n", "test.txt": "a b\tc\n"}),
]


def prepared(
    folder: Path, kind: type[DataModule], files: dict[str, str], end: str, mark: str, packed: bool
) -> DataModule:
    folder.mkdir()
    for name, text in files.items():
        content = (mark + text.replace("\n", end)).encode()
        place = folder / (f"{name}.gz" if packed else name)
        place.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    data = kind(source=str(place if kind is HistoryData else folder))
    data.prepare()
    return data


@pytest.mark.parametrize("kind, files", FORMS)
def test_line_ends_marks_and_packing_change_nothing(
    tmp_path: Path, kind: type[DataModule], files: dict[str, str]
) -> None:
    forms = (("\n", "", False), ("\r\n", "\ufeff", False), ("\r\n", "\ufeff", True))
    plain, *others = (prepared(tmp_path / str(n), kind, files, *form) for n, form in enumerate(forms))
    for data in others:
        assert data.splits == plain.splits and not data.bad_rows.count
        for split in plain.splits:
            rows = [d.rows(split).fetch(np.arange(len(plain.rows(split))), 0) for d in (plain, data)]
            assert all(rows[0][name].equal(rows[1][name]) for name in rows[0])


@pytest.mark.parametrize("kind, files", FORMS)
def test_a_damaged_file_is_named(tmp_path: Path, kind: type[DataModule], files: dict[str, str]) -> None:
    first = next(iter(files))
    for name, text in files.items():
        packed = gzip.compress(text.encode() * (1 if name.endswith("json") else 50))
        (tmp_path / f"{name}.gz").write_bytes(packed[:-9] if name == first else packed)
    source = tmp_path / f"{first}.gz" if kind is HistoryData else tmp_path
    with pytest.raises(DataError, match=f"{first}.gz: damaged"):
        kind(source=str(source)).prepare()


class Bar(nullcontext[Any]):
    """Of tqdm what the reader uses."""

    n = updates = 0
    told: tuple[str, int, str] = ("", 0, "")

    def start(self, told: tuple[str, int, str]) -> Bar:
        self.told = told
        return self

    def __enter__(self) -> Bar:
        return self

    def update(self, more: int) -> None:
        assert more >= 0
        self.n, self.updates = self.n + more, self.updates + 1


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.txt.gz", "a.csv.gz", "a.parquet"])
def test_a_bar_shows_how_much_of_a_file_is_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar()
    monkeypatch.setattr(reader, "progress", lambda what, total, unit: bar.start((what, total, unit)))
    monkeypatch.setattr(reader, "_SHOWN", 100)
    monkeypatch.setattr(reader, "_BLOCK", 2000)
    monkeypatch.setattr(reader, "_BATCH", 100)
    path, text = tmp_path / name, "a,b\n" + "".join(f"{k},{k * k}\n" for k in range(999))
    if path.suffix == ".parquet":
        pd.read_csv(io.StringIO(text)).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    if ".txt" in name:
        assert len(list(lines(path, pytest.fail))) == 1000
    else:
        assert sum(reader.converted(path, ["a"], len, pytest.fail)) == 999
    size = path.stat().st_size
    assert bar.told == (f"reading {name}", size, "B") and bar.n == size and bar.updates > 3


def test_lines_of_another_encoding_are_heard_of_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\xff\n\xc3\xa9\n1 2\r3 4\n")
    heard: list[tuple[int, str]] = []
    assert list(lines(path, lambda *told: heard.append(told))) == [(1, "a\r\n"), (3, "é\n")]
    assert heard == [(2, "not UTF-8 (invalid start byte)"), (4, "a carriage return within the line")]
    path.write_bytes(b"a\r\n\xff\n")
    assert [line for _, line in lines(path, pytest.fail, "latin-1")][1] == "ÿ\n"
    with pytest.raises(DataError, match=r"none\.txt cannot be read: No such file"):
        list(lines(tmp_path / "none.txt", pytest.fail))
    with pytest.raises(DataError, match=r"there is no b\.txt or b\.txt\.gz in it"):
        find_file(tmp_path, "b.txt")


def test_numbers_with_large_gaps_are_refused_before_a_table_of_their_size_is_made(tmp_path: Path) -> None:
    check_gaps(tmp_path, "items", np.arange(2_000_000, step=50))
    with pytest.raises(DataError, match="items have numbers up to 2000000, but there are 2 only"):
        check_gaps(tmp_path, "items", np.array([1, 2_000_000, 1]))
    huge = {
        AmazonCtrData: ("sequences.txt", "3 1 2000000000 2 3\n"),
        GowallaData: ("train.txt", "1 2000000000\n"),
        ML1MNCFData: ("train.tsv", "2000000000\t1\n"),
        MovieLensData: ("ratings.dat", "1::2000000000::4::9\n"),
    }
    for kind, files in FORMS:
        if kind in huge:
            name, line = huge[kind]
            with pytest.raises(DataError, match=f"{name}: (users|items) have numbers up to 200000000"):
                prepared(tmp_path / name, kind, {**files, name: files[name] + line}, "\n", "", False)
