"""Own tables - CSV, TSV, Parquet - by a column map."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import ArrayRows, DataModule, mix
from paddlecore.errors import DataError, nearest
from paddlecore.sources import data_root, split_files
from paddlecore.task import Batch
from paddlerec.data import cache
from paddlerec.data.columns import Categorical, ColumnMap, Dense, Sequence, hashed, options
from paddlerec.data.ctr_toy import World
from paddlerec.data.preparation import Columns, Preparation, divided, spooled
from paddlerec.data.reader import converted, row, row_table, suffix

if TYPE_CHECKING:
    import pyarrow as pa


class TableRows(ArrayRows):
    """Rows of prepared columns; sequences, which are stored as int32, come as int64, cut to the longest of the batch.

    Args:
        columns: [n, ...] each, arrays or memory maps.
        sequences: names of those that are sequences.
    """

    def __init__(self, columns: Columns, sequences: list[str]) -> None:
        super().__init__(columns)
        self.sequences = sequences

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        batch = super().fetch(rows, epoch)
        for name in self.sequences:
            longest = max(int((batch[name] > 0).sum(1).max()), 1)
            batch[name] = batch[name][:, :longest].long()
        return batch


class TableData(DataModule):
    """Rows of categorical, sequence and dense columns with a binary label, from your own tables.

    `source` is a folder with train, valid and (if there is one) test files, e.g. train.csv.gz; or one file, which is
    split. Text is .csv (commas, quoted with "), .tsv (tabs, no quoting) or .txt (either of the two), in UTF-8, one row
    a line, optionally .gz; else .parquet.

    Ids: each column has a vocabulary of its own, learned from the training rows, most frequent value first, from id 1
    on. Id 0 stands for values not seen there (or too rarely); `unseen` and `describe` count them. An empty cell of a
    categorical column is a value like any other. A sequence leaves out values without an id, and may be empty.

    A row is bad if it has another number of columns than the header, a label that is not 0 or 1, text or NaN or
    infinity or nothing (unless `missing` is set) in a dense column, or is not UTF-8: bad rows are named by file and
    line (Parquet: by row). A missing column and an empty or damaged file stop the reading, whatever `on_bad_row` says.

    Batch: ids [B, F] int32 and dense [B, D] float32 (left out if D = 0) in the order of the map; label [B] float32; a
    sequence [B, T] int64, right-padded with 0, as `history` if it is the only one, else by its column's name; user [B]
    int64, a number for each value of the column `user`, if there is one.

    Tables are prepared once, into memory-mapped columns: a cache, named by the content of the files, the map and
    whatever else the result depends on. One that is damaged is made again. In memory while that runs: a block of rows,
    and the distinct values of columns without `hash_size` (about 150 bytes each).

    Args:
        label: column that holds 0 or 1.
        categorical: columns, or {column: {min_count, hash_size, shared}}; see `Categorical`.
        dense: columns, or {column: {log, normalise, missing}}; see `Dense`.
        sequences: columns, or {column: {separator, max_len, min_count, hash_size, shared}}; see `Sequence`.
        user: column that says whose row it is, for the AUC within users (`task.gauc`); it may be a feature as well.
        columns: names of all columns, for text files without a header line.
        split: fractions of train, valid and test, where `source` is one file.
        split_seed: of that split; the run's seed does not change it.
        cache: folder of prepared columns; auto = one in the user's cache folder, and none for files below 32 MB
            together; null = none: all rows stay in memory.
        **common: see `DataModule`.

    Raises:
        ValueError: the column map contradicts itself.
    """

    vocabulary_state = "vocabularies"
    vocabulary_of = "values of this table"
    optional = 0  # cells at the end of a line of text that may be missing, and are empty then

    def __init__(
        self,
        *,
        label: str,
        categorical: list[str] | dict[str, dict[str, Any] | None],
        dense: list[str] | dict[str, dict[str, Any] | None] | None = None,
        sequences: list[str] | dict[str, dict[str, Any] | None] | None = None,
        user: str | None = None,
        columns: list[str] | None = None,
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.columns, self.split, self.split_seed, self.cache = columns, list(split), split_seed, cache
        self.map = ColumnMap(
            label,
            options(categorical, Categorical, "categorical"),
            options(sequences, Sequence, "sequences"),
            options(dense, Dense, "dense"),
            user,
        )
        if columns is not None:
            for name in self._wanted():
                if name not in columns:
                    raise ValueError(f"data.columns lacks {name!r}{nearest(name, columns)}")
        if len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1.0) > 1e-6:
            raise ValueError(f"data.split must be three fractions that sum to 1, got {self.split}")
        self._vocabularies: dict[str, list[str]] = {}  # by root; id = 1 + place
        self._trained_with: list[str] = []  # columns with a vocabulary in the weights
        self._scales: dict[str, tuple[float, float]] = {}  # normalised = (x - first) / second
        self._known: dict[str, dict[str, int]] = {}  # by root, once `encode` needs it: value -> id
        self._rows: dict[str, TableRows] = {}
        self.unseen: dict[str, dict[str, int]] = {}
        """By split and column: values with id 0 (never in hashed columns)."""

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        """`vocab_sizes` and `num_dense`. With sequences also `sequence_sizes`, `num_items` if there is one only, and
        `history_fields`: of those that share the vocabulary of a categorical column, {key in a batch: its place}."""
        fields = list(self.map.categorical)
        spec: dict[str, Any] = {"vocab_sizes": [self._size(name) for name in fields], "num_dense": len(self.map.dense)}
        if self.map.sequences:
            spec["sequence_sizes"] = sizes = [self._size(name) for name in self.map.sequences]
            roots = {self.map.key(name): self.map.roots[name] for name in self.map.sequences}
            spec["history_fields"] = {key: fields.index(root) for key, root in roots.items() if root in fields}
            if len(sizes) == 1:
                spec["num_items"] = sizes[0]
        return spec

    def _size(self, name: str) -> int:
        hash_size = self.map.hash_size(name)
        return 1 + (len(self._vocabulary(self.map.roots[name])) if hash_size is None else hash_size)

    def _vocabulary(self, root: str) -> list[str]:
        if root not in self._vocabularies:
            if self._trained_with:
                raise DataError(
                    f"column {root!r} is unknown to the weights, which know {', '.join(self._trained_with)}: give the "
                    "same data.categorical and data.sequences as in training"
                )
            raise DataError(f"column {root!r} has no vocabulary yet: prepare() reads the data, restore() takes a state")
        return self._vocabularies[root]

    def vocabulary(self) -> list[str]:
        """The rows of a `FieldTable` of the categorical columns: each one's unseen values, and then what it knows."""
        rows = []
        for name in self.map.categorical:
            size = self.map.hash_size(name)
            values = self._vocabulary(self.map.roots[name]) if size is None else [str(i) for i in range(size)]
            rows += [name, *(f"{name}\n{value}" for value in values)]
        return rows

    def unknown_share(self) -> float:
        own = [name for name in self.map.categorical if self.map.hash_size(name) is None]
        found, cells = self.unseen[self.splits[0]], len(self._rows[self.splits[0]]) * len(own)
        return sum(found.get(name, 0) for name in own) / max(cells, 1)

    def rows(self, split: str) -> TableRows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return self._learned()

    def _learned(self) -> dict[str, Any]:
        return {
            "vocabularies": self._vocabularies,
            "scales": {name: list(scale) for name, scale in self._scales.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        roots = set(self.map.roots.values())
        self._known = {}
        self._trained_with = list(state.get("vocabularies", {}))
        self._vocabularies = {k: list(v) for k, v in state.get("vocabularies", {}).items() if k in roots}
        self._scales = {k: (v[0], v[1]) for k, v in state.get("scales", {}).items() if k in self.map.dense}

    def examples(self) -> list[Any]:
        """Made up of the vocabularies: rows of somebody's data do not belong into a file of weights."""
        rows = []
        for k in range(3):
            known = {name: self._vocabularies.get(root, []) for name, root in self.map.roots.items()}
            row: dict[str, Any] = {name: v[k % len(v)] if v else f"value {k}" for name, v in known.items()}
            for name, settings in self.map.sequences.items():
                row[name] = settings.separator.join([*known[name][: k + 1], row[name]])
            rows.append(row | {name: self._scales.get(name, (0.0, 1.0))[0] for name in self.map.dense})
        return rows

    def describe(self) -> dict[str, Any]:
        sequences = {name: self._size(name) for name in self.map.sequences}
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "positive": {split: float(rows.columns["label"].mean()) for split, rows in self._rows.items()},
            "ids": dict(zip(self.map.categorical, self.spec["vocab_sizes"], strict=True)) | sequences,
            "unseen": {split: {name: n for name, n in found.items() if n} for split, found in self.unseen.items()},
        }

    # ------------------------------------------------------------------------------------------------ reading

    def _inputs(self) -> list[str]:
        """The columns of a file, and of a raw row, that features are made of."""
        return self.map.features

    def _wanted(self) -> list[str]:
        """The columns of a file that are read, each once."""
        return list(dict.fromkeys([self.map.label, *self._inputs(), *([self.map.user] if self.map.user else [])]))

    def _derive(self, table: pa.Table) -> pa.Table:
        """The features of `_inputs`; here they are the same.

        Raises:
            BadValue: a row cannot be used.
        """
        return table

    def prepare(self) -> None:
        """Read, check and convert everything, or find that it was done before.

        Raises:
            DataError: a file or row that cannot be used, by file, line and column.
        """
        self._known, self.unseen, self._paths = {}, {}, []
        folder, given = None, bool(self._vocabularies)
        if self.source != "toy":
            self._paths = list(self._files().values())
            folder = self._cache_folder()
        columns = self._made(None) if folder is None else self._cached(folder)
        self.splits = tuple(columns)
        sequences = [self.map.key(name) for name in self.map.sequences]
        self._rows = {split: TableRows(found, sequences) for split, found in columns.items()}
        if given:
            self._warn_unseen()

    def _warn_unseen(self) -> None:
        """Say it where most values of a column are unknown to a vocabulary that came with weights: it tells nothing.

        Columns that share the vocabulary of another, as a film's second genre, may well be empty.
        """
        rows, found = len(self._rows[self.splits[0]]), self.unseen[self.splits[0]]
        own = [name for name in self.map.categorical if self.map.roots[name] == name]
        if names := [name for name in own if found.get(name, 0) > rows / 2]:
            warnings.warn(f"most values of {', '.join(names)} are not in the vocabulary and share id 0", stacklevel=3)

    def _cache_folder(self) -> Path | None:
        return cache.folder_for(self.cache, self._paths)

    def _cached(self, folder: Path) -> dict[str, Columns]:
        options = [self.map.facts(), self.columns, self._inputs(), self.split, self.split_seed]
        restored = self._learned() if self._vocabularies or self._scales else None
        made, columns = cache.kept(self, folder, self._files(), options, restored, self._fill)
        learned = made["learned"]
        self._vocabularies, self._scales = learned["vocabularies"], {k: (*v,) for k, v in learned["scales"].items()}
        self.unseen = made["unseen"]
        return {split: columns[split] for split in made["splits"]}

    def _fill(self, folder: Path) -> dict[str, Any]:
        columns = self._made(folder)
        return {"splits": list(columns), "learned": self._learned(), "unseen": self.unseen}

    def _made(self, folder: Path | None) -> dict[str, Columns]:
        """The columns of each split: arrays, or memory maps of files in `folder`."""
        work = Preparation(self.map, self._vocabularies, self._scales, folder)
        raw = {part: spooled(folder, f"raw-{part}", blocks) for part, blocks in self._tables(work).items()}
        parts = (
            divided(raw["all"], self.split, self.split_seed) if "all" in raw else {s: r.blocks for s, r in raw.items()}
        )
        work.learn(parts.get("train"))
        made = {}
        for split, blocks in parts.items():
            spool, self.unseen[split] = work.number(split, blocks())
            made[split] = spool.columns()
        for spool in raw.values():
            spool.remove()
        return made

    def _tables(self, work: Preparation) -> dict[str, Iterator[Columns]]:
        """The converted rows of each split, or {"all": rows} of one file that is yet to be split, piece by piece."""
        if self.source == "toy":
            return {split: iter([work.convert(self._derive(table))]) for split, table in self._toy().items()}
        return {split: self._read(path, work) for split, path in self._files().items()}

    def _files(self) -> dict[str, Path]:
        """The file of each split, or {"all": file} of one that is yet to be split."""
        if self.source == "auto":
            raise DataError("data.source: give the path of your table, or toy for generated rows")
        source = Path(self.source)
        if source.is_file():
            return {"all": source}
        return split_files(source, suffix, ".txt, .tsv, .csv (optionally with .gz) or .parquet", ("train", "valid"))

    def _read(self, path: Path, work: Preparation) -> Iterator[Columns]:
        rows, bad = 0, partial(self.bad_rows.add, path)
        for columns in converted(
            path, self._wanted(), lambda table: work.convert(self._derive(table)), bad, self.columns,
            optional=self.optional,
        ):  # fmt: skip
            rows += len(columns["label"])
            yield columns
        if not rows:
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """A row as a dict, or as the text of a JSON object: each column's value as it would stand in the table; a
        sequence may also be a list.

        Values never seen get id 0. The label may be there, and is not looked at.
        """
        names = self._inputs()
        given = row(raw, names, self.map.label)
        table = row_table({name: given[name] for name in names})
        try:
            found, dense = self.map.read(self._derive(table))
        except (ValueError, TypeError, OverflowError) as error:  # BadValue, and what pyarrow makes of odd objects
            raise DataError(str(error)) from None
        ids = [self._ids(field, found[field][1])[0] for field in self.map.categorical]
        batch = {"ids": torch.tensor([ids], dtype=torch.int32)}
        for field in self.map.sequences:
            codes, values = found[field]
            known = np.array([0, *self._ids(field, values)])[codes[0] + 1]  # [max_len]
            known = known[known > 0] if known.any() else known[:1]
            batch[self.map.key(field)] = torch.from_numpy(known[None])
        if self.map.dense:
            batch["dense"] = torch.from_numpy(self.map.scaled(dense, self._scales))
        return batch

    def _ids(self, field: str, values: list[str]) -> list[int]:
        root, size = self.map.roots[field], self.map.hash_size(field)
        if size is not None:
            return hashed(values, size)
        if root not in self._known:
            self._known[root] = {value: 1 + place for place, value in enumerate(self._vocabulary(root))}
        return [self._known[root].get(value, 0) for value in values]

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, pa.Table]:
        """Generated rows that fit the column map; in a subclass with `_inputs` of its own, such columns."""
        import pyarrow as pa

        world = World([20] * len(self.map.fields), len(self.map.dense), self.split_seed)
        tables = {}
        for number, (split, count) in enumerate({"train": 10_000, "valid": 2_000, "test": 2_000}.items()):
            columns, _ = world.draw(count, mix(self.split_seed, number))
            table = {self.map.label: columns["label"]}
            for place, (name, settings) in enumerate(self.map.fields.items()):
                texts = np.char.add(f"{self.map.roots[name]}_", columns["ids"][:, place].astype(str))
                if isinstance(settings, Sequence):  # up to four earlier rows' values, then its own
                    cells = [texts[max(i - i % 5, 0) : i + 1] for i in range(count)]
                    texts = np.array([settings.separator.join(cell) for cell in cells])
                table[name] = texts
            for place, name in enumerate(self.map.dense):
                table[name] = columns["dense"][:, place].astype(np.float64)
            if self.map.user is not None and self.map.user not in table:
                table[self.map.user] = np.arange(count) % 50
            tables[split] = pa.table(table)
        return tables


def got_by_hand(folder: str, stem: str, manual: str) -> Path:
    """The table `<stem>.*` in a folder below the data root, of which no published hash is known.

    Raises:
        DataError: it is not there; the message ends in `manual`.
    """
    root = data_root()
    if root is None:
        raise DataError("there is no home folder to keep data in; set PADDLE_DATA to a folder")
    there = sorted((root / folder).iterdir()) if (root / folder).is_dir() else []
    for path in there:
        if path.name.split(".")[0] == stem and suffix(path):
            return path
    raise DataError(f"{root / folder} holds no {stem} file (.csv, .tsv, .txt, optionally .gz, or .parquet){manual}")
