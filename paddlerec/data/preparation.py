"""From checked rows to columns of ids: read once, count, number; in memory, or in files where a table does not fit.

Rows are spooled as they are read, each value as a place in the order of first appearance, so the text is parsed once.
Vocabularies and scales then come from the training rows of the spool, and each split's columns from a last pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from numpy.lib import format as npy

from paddlecore.data import mix
from paddlecore.errors import DataError
from paddlerec.data.columns import ColumnMap, hashed, unpadded
from paddlerec.data.reader import BadValue, named, numbered, numbers

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 18  # rows that are in memory at a time, where a table is in files
Columns = dict[str, np.ndarray]


class Spool:
    """Columns that grow and are then read from the front: arrays, or .npy files of a folder.

    Args:
        folder: where the files `<stem>.<column>.npy` go; None keeps the rows in memory.
        stem: of the files' names.
    """

    def __init__(self, folder: Path | None, stem: str) -> None:
        self.folder, self.stem, self.rows = folder, stem, 0
        self._parts: list[Columns] = []
        self._files: dict[str, IO[bytes]] = {}
        self._headers: dict[str, dict[str, object]] = {}

    def __len__(self) -> int:
        return self.rows

    def path(self, column: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.stem}.{quote(column, safe='')}.npy"

    def append(self, columns: Columns) -> None:
        """Rows of the same columns each time, [n, ...] each."""
        self.rows += len(next(iter(columns.values())))
        if self.folder is None:
            self._parts.append(columns)
            return
        for name, values in columns.items():
            if name not in self._files:
                self._files[name] = self.path(name).open("wb")
                shape, kind = (0, *values.shape[1:]), npy.dtype_to_descr(values.dtype)
                self._headers[name] = {"descr": kind, "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(self._files[name], self._headers[name])
            self._files[name].write(np.ascontiguousarray(values).data)

    def finish(self) -> None:
        """Nothing more will come."""
        if self.folder is None:
            whole = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
            self._parts = [whole]
        for name, file in self._files.items():
            file.seek(0)  # now that the number of rows is known; a header has room for one of any length
            shape = (self.rows, *self._headers[name]["shape"][1:])  # type: ignore[index]
            npy.write_array_header_1_0(file, {**self._headers[name], "shape": shape})
            file.close()

    def remove(self) -> None:
        """The rows are no longer needed."""
        self._parts = []
        for name in self._files:
            self.path(name).unlink()

    def columns(self) -> Columns:
        """Arrays, or memory maps of the files."""
        if self.folder is None:
            return self._parts[0]
        return {name: np.asarray(np.load(self.path(name), mmap_mode="r")) for name in self._files}

    def blocks(self) -> Iterator[Columns]:
        """All rows in order: at once if they are in memory."""
        if self.folder is None:
            yield self._parts[0]
            return
        for low in range(0, self.rows, BLOCK):
            # mapped anew each time, so that the pages of earlier blocks do not stay
            yield {name: np.array(values[low : low + BLOCK]) for name, values in self.columns().items()}


def spooled(folder: Path | None, stem: str, blocks: Iterator[Columns]) -> Spool:
    """All rows of `blocks`."""
    spool = Spool(folder, stem)
    for columns in blocks:
        spool.append(columns)
    spool.finish()
    return spool


def divided(rows: Spool, fractions: Sequence[float], seed: int) -> dict[str, Callable[[], Iterator[Columns]]]:
    """Train, valid and test rows by `fractions`, at random, each in the order of `rows`; a part of no rows is left out.

    Each is a function that gives the part's blocks from the front.
    """
    order = np.random.Generator(np.random.Philox(key=mix(seed))).permutation(len(rows))
    first, second = round(fractions[0] * len(rows)), round((fractions[0] + fractions[1]) * len(rows))
    part = np.zeros(len(rows), dtype=np.int8)  # of each row
    part[order[first:second]], part[order[second:]] = 1, 2

    def blocks(number: int) -> Iterator[Columns]:
        low = 0
        for block in rows.blocks():
            high = low + len(block["label"])
            chosen = np.flatnonzero(part[low:high] == number)
            if len(chosen):
                yield {name: values[chosen] for name, values in block.items()}
            low = high

    sizes = np.bincount(part, minlength=3)
    return {s: partial(blocks, n) for n, s in enumerate(("train", "valid", "test")) if sizes[n]}


class Preparation:
    """The passes over the rows of one table.

    Args:
        columns: the column map.
        vocabularies: known before, by root; those that lack are learned. `learn` adds to it.
        scales: the same of dense columns.
        folder: where spools go; None keeps everything in memory.
    """

    def __init__(
        self,
        columns: ColumnMap,
        vocabularies: dict[str, list[str]],
        scales: dict[str, tuple[float, float]],
        folder: Path | None,
    ) -> None:
        self.map, self.vocabularies, self.scales, self.folder = columns, vocabularies, scales, folder
        self._places: dict[str, dict[str, int]] = {
            root: {} for root in columns.roots.values()
        }  # value -> place, from 1
        self._numbers: dict[str, np.ndarray] = {}  # by root: place -> id
        self._users: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ reading

    def convert(self, table: pa.Table) -> Columns:
        """Rows of a file, checked: label, dense, ids [n, F] and each sequence, with places for ids; and user.

        Whatever can fail comes before anything is kept.

        Raises:
            BadValue: a row cannot be used.
        """
        name = self.map.label
        label = numbers(table[name], name)
        if not ((label == 0) | (label == 1)).all():
            raise BadValue(f"column {name!r}: the label must be 0 or 1, not {table[name][0].as_py()!r}")
        found, dense = self.map.read(table)
        user = None if self.map.user is None else named(table[self.map.user], self.map.user)
        ids = np.empty((len(label), len(self.map.categorical)), dtype=np.int32)
        columns = {"ids": ids, "label": label.astype(np.float32)}
        for place, field in enumerate(self.map.categorical):
            ids[:, place] = self._placed(field, *found[field])
        for field in self.map.sequences:
            columns[self.map.key(field)] = self._placed(field, *found[field])
        if user is not None:
            columns["user"] = numbered(user, self._users)
        return {**columns, "dense": dense} if self.map.dense else columns

    def _placed(self, field: str, codes: np.ndarray, values: list[str]) -> np.ndarray:
        """int32 like `codes`: ids of a hashed field; places in `_places` of another; 0 where a sequence is padded."""
        size = self.map.hash_size(field)
        if size is not None:
            found = hashed(values, size)
        else:
            places = self._places[self.map.roots[field]]
            found = [places.setdefault(value, len(places) + 1) for value in values]
        return np.array([0, *found], dtype=np.int32)[codes + 1]

    # ------------------------------------------------------------------------------------------------ learning

    def learn(self, train: Callable[[], Iterator[Columns]] | None) -> None:
        """Vocabularies, most frequent value first, and scales of the training rows, but for those known before.

        Args:
            train: gives their blocks, from the front each time it is called; None if there are none.

        Raises:
            DataError: something has to be learned, and there are none.
        """
        roots = self.map.roots
        fields = [f for f in roots if roots[f] not in self.vocabularies and not self.map.hash_size(f)]
        features = [
            (place, name)
            for place, (name, feature) in enumerate(self.map.dense.items())
            if feature.normalise != "none" and name not in self.scales
        ]
        if not fields and not features:
            return
        if train is None:
            raise DataError("there are no training rows to learn vocabularies from; see data.split")
        counts = {root: np.zeros(len(places) + 1, dtype=np.int64) for root, places in self._places.items()}
        totals = {name: 0.0 for _, name in features}
        ranges = {name: (np.inf, -np.inf) for _, name in features}
        rows = 0
        for block in train():
            rows += len(block["label"])
            for field in fields:
                count = counts[roots[field]]
                count += np.bincount(self._column(block, field).reshape(-1), minlength=len(count))
            for place, name in features:
                x = block["dense"][:, place].astype(np.float64)
                totals[name] += x.sum()
                ranges[name] = min(ranges[name][0], x.min()), max(ranges[name][1], x.max())
        for root in dict.fromkeys(roots[field] for field in fields):
            values, count = list(self._places[root]), counts[root][1:]
            order = np.argsort(-count, kind="stable")  # frequent rows of the table lie together, and stay in the cache
            kept = order[count[order] >= self.map.fields[root].min_count]
            self.vocabularies[root] = [values[i] for i in kept.tolist()]
        means = {name: total / rows for name, total in totals.items()}
        standard = [(p, name) for p, name in features if self.map.dense[name].normalise == "standard"]
        squares = {name: 0.0 for _, name in standard}
        for block in train() if standard else ():
            for place, name in standard:
                squares[name] += np.square(block["dense"][:, place].astype(np.float64) - means[name]).sum()
        for _, name in features:
            shift, scale = ranges[name][0], ranges[name][1] - ranges[name][0]
            if name in squares:
                shift, scale = means[name], (squares[name] / rows) ** 0.5
            self.scales[name] = (float(shift), float(scale) or 1.0)  # a constant column becomes 0

    def _column(self, block: Columns, field: str) -> np.ndarray:
        if field in self.map.sequences:
            return block[self.map.key(field)]
        return block["ids"][:, list(self.map.categorical).index(field)]

    # ------------------------------------------------------------------------------------------------ numbering

    def number(self, split: str, blocks: Iterator[Columns]) -> tuple[Spool, dict[str, int]]:
        """The columns of a split, places replaced by ids and features normalised; and values with id 0 by field
        (never in hashed ones). A sequence loses values without an id.
        """
        spool = Spool(self.folder, split)
        unseen = {field: 0 for field in self.map.fields if not self.map.hash_size(field)}
        for block in blocks:
            columns: Columns = {name: block[name] for name in ("label", "user") if name in block}
            columns["ids"] = block["ids"].copy()
            for place, field in enumerate(self.map.categorical):
                if field in unseen:
                    columns["ids"][:, place] = self._table(field)[block["ids"][:, place]]
                    unseen[field] += int((columns["ids"][:, place] == 0).sum())
            for field in self.map.sequences:
                key = self.map.key(field)
                columns[key] = block[key]
                if field in unseen:
                    columns[key] = self._table(field)[block[key]]
                    unseen[field] += int(((columns[key] == 0) & (block[key] > 0)).sum())
                    columns[key] = unpadded(columns[key])
            if self.map.dense:
                columns["dense"] = self.map.scaled(block["dense"], self.scales)
            spool.append(columns)
        spool.finish()
        return spool, unseen

    def _table(self, field: str) -> np.ndarray:
        """[places + 1] int32: the id of each place."""
        root = self.map.roots[field]
        if root not in self._numbers:
            places, values = self._places[root], self.vocabularies[root]
            self._numbers[root] = np.zeros(len(places) + 1, dtype=np.int32)
            found = np.fromiter((places.get(value, 0) for value in values), dtype=np.int64, count=len(values))
            there = np.flatnonzero(found)
            self._numbers[root][found[there]] = there + 1
        return self._numbers[root]
