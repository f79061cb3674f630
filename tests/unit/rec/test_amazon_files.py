"""Amazon sequences and attributes: counts of the published files, and lines that cannot be used."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from paddlecore.data import BadRows
from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data.amazon_files import SOURCE, attributes, sequences


def test_lines_become_a_flat_array(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"1 5 6 7\n\n2 5\n"))
    items, offsets = sequences(path, BadRows())
    assert items.tolist() == [5, 6, 7, 5] and offsets.tolist() == [0, 3, 4]


@pytest.mark.parametrize("line", ["2 x", "2", "2 0", "2 -1", "2 5 99999999999"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"1 5 6\n{line}\n3 4\n")
    with pytest.raises(DataError, match=r"a\.txt:2: expected"):
        sequences(path, BadRows())
    skipping = BadRows("skip")
    assert sequences(path, skipping)[0].tolist() == [5, 6, 4] and skipping.count == 1


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n")
    with pytest.raises(DataError, match="no lines"):
        sequences(path, BadRows())
    with pytest.raises(DataError, match="cannot be read"):
        sequences(tmp_path / "none.txt", BadRows())
    damaged = tmp_path / "b.txt.gz"
    damaged.write_bytes(gzip.compress(b"1 2 3\n" * 9999)[:-12])
    with pytest.raises(DataError, match="damaged"):
        sequences(damaged, BadRows())
    for text in ("[1]", '{"a": [1]}', '{"1": 2}', "{", '{"0": [1]}', '{"1": [0]}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"a\.txt"):
            attributes(path)


@pytest.mark.parametrize(
    "name, users, items, actions", [("Beauty", 22363, 12101, 198502), ("Toys_and_Games", 19412, 11924, 167597)]
)
def test_counts_are_the_published_ones(name: str, users: int, items: int, actions: int) -> None:
    root = data_root()
    if root is None or not (root / SOURCE.folder / f"{name}.txt.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    folder = root / SOURCE.folder
    flat, offsets = sequences(folder / f"{name}.txt.gz", BadRows())
    assert len(offsets) - 1 == users and len(flat) == actions
    assert np.array_equal(np.unique(flat), np.arange(1, items + 1))
    assert np.diff(offsets).min() == 5
    assert set(attributes(folder / f"{name}_item2attributes.json.gz")) == set(range(1, items + 1))
