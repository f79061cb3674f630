"""What data sets with named classes have in common: the names, which travel with the weights, and what is counted."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from paddlecore.data import BadRows, DataModule, Rows
from paddlecore.errors import DataError
from paddlecore.sources import SPLITS, only
from paddlecv.data.images import ENDINGS


class LabelledData(DataModule):
    """Pictures with classes that have names.

    Args:
        **common: see `DataModule`.
    """

    input_endings = ENDINGS

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._labels: list[str] = []
        self._rows: dict[str, Any] = {}  # each a `Rows`

    @property
    def spec(self) -> dict[str, Any]:
        """num_classes: C, a background not counted; labels: their names in order."""
        if not self._labels:
            raise DataError("there are no class names yet: prepare() reads the data, restore() takes a state")
        return {"num_classes": len(self._labels), "labels": self._labels}

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def refuse_empty(self, splits: Mapping[str, Sized]) -> None:
        """
        Raises:
            DataError: nothing is in one of `splits`, for example because all its rows are bad.
        """
        if empty := [split for split, rows in splits.items() if not len(rows)]:
            raise DataError(f"data.source={self.source}: {empty[0]} has no images that can be used")

    def state(self) -> dict[str, Any]:
        return {"labels": self._labels}

    def restore(self, state: dict[str, Any]) -> None:
        self._labels = [str(label) for label in state.get("labels", [])]


class ClassifiedData(LabelledData):
    """Pictures with one class each. Subclasses say in `targets` which class each row has.

    Args:
        **common: see `DataModule`.
    """

    in_channels: ClassVar[int] = 3

    @property
    def spec(self) -> dict[str, Any]:
        """num_classes: C; labels: their names in order; in_channels: of the images."""
        return {**super().spec, "in_channels": self.in_channels}

    def targets(self, split: str) -> np.ndarray:
        """[n] int64, the class of each row of `split`."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        counts = {
            split: dict(zip(self._labels, np.bincount(self.targets(split), minlength=len(self._labels)).tolist(),
                            strict=True))
            for split in self._rows
        }  # fmt: skip
        return {**super().describe(), "classes": counts}

    def read_each(
        self, classes: Mapping[str, Iterable[Path]], read: Callable[[Path], Any]
    ) -> tuple[list[Any], list[int]]:
        """What `read` makes of each image of each class, and the number of the class. An image that it refuses with a
        `DataError` is a bad row."""
        found, labels = [], []
        for label, paths in enumerate(classes.values()):
            for path in paths:
                try:
                    found.append(read(path))
                except DataError as error:
                    self.bad_rows.add(path, 1, str(error).removeprefix(f"{path}: "))
                else:
                    labels.append(label)
        return found, labels


def text_table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells as lines of text, for an error: columns one below the other."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# ------------------------------------------------------------------------------------------------------ text files


def read_lines(path: Path) -> list[str] | None:
    """The lines of a list that are not empty, without spaces around them; None if there is no such file.

    Raises:
        DataError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def split_lists(folder: Path) -> dict[str, list[str]]:
    """The lines of the lists train.txt, valid.txt (or val.txt) and test.txt, as far as `folder` has them.

    Raises:
        DataError: a list cannot be read, there are two of a split, or a line is there twice.
    """
    found: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for split, names in SPLITS.items():
        path = only(split, [path for name in names if (path := folder / f"{name}.txt").is_file()])
        if path is not None:
            found[split] = read_lines(path) or []
        for name in found.get(split, ()):
            if name in seen:
                raise DataError(f"{folder}: {name} is in {split} and in {seen[name]}; a picture is in one list, once")
            seen[name] = split
    return found


def read_table(
    path: Path, columns: Sequence[str], bad_rows: BadRows, seen: dict[str, str]
) -> Iterator[tuple[int, list[str]]]:
    """The line (counted from 1) and the cells of `columns` of each row of a .csv file, without spaces around them.

    A row that lacks a cell is a bad one, and so is one whose first cell has been in a row before.

    Args:
        seen: first cells, and where they were; filled here, and given again for the next table of the same data.

    Raises:
        DataError: it has no such columns, is damaged, or is no UTF-8 text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            table.fieldnames = [name.strip() for name in table.fieldnames or ()]
            if missing := [name for name in columns if name not in table.fieldnames]:
                raise DataError(f"{path}:1: no column {missing[0]!r}; it has {', '.join(table.fieldnames) or 'none'}")
            for row in table:
                cells = [(row[name] or "").strip() for name in columns]
                if not all(cells):
                    bad_rows.add(path, table.line_num, f"the {' or the '.join(columns)} is empty")
                elif cells[0] in seen:
                    bad_rows.add(path, table.line_num, f"{cells[0]} stands in {seen[cells[0]]} already")
                else:
                    seen[cells[0]] = f"{path.name}:{table.line_num}"
                    yield table.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of UTF-8 text: {error}") from None
