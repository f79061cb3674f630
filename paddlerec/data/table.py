"""Own tables - CSV, TSV, Parquet - by a column map."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch

from paddlecore.data import ArrayRows, DataModule, mix
from paddlecore.errors import DataError, nearest
from paddlecore.task import Batch
from paddlerec.data.ctr_toy import World
from paddlerec.data.reader import BadValue, numbers, pieces, row, salvage, strings, suffix

if TYPE_CHECKING:
    import pyarrow as pa

Options = TypeVar("Options")


@dataclass(frozen=True)
class Categorical:
    """How the values of a column become ids."""

    min_count: int = 1  # values in fewer training rows share id 0 with those never seen
    hash_size: int | None = None  # 1 + crc32(value) % hash_size in place of a vocabulary
    shared: str | None = None  # use the vocabulary of this column, where both count

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")
        if self.hash_size is not None and not 1 <= self.hash_size < 2**31 - 1:
            raise ValueError(f"hash_size must be at least 1 and below 2^31 - 1, got {self.hash_size}")


@dataclass(frozen=True)
class Dense:
    """How the numbers of a column become a feature."""

    log: bool = False  # x -> sign(x) log(1 + |x|), which tames counts with a long tail
    normalise: str = "none"  # then, by the training rows: standard = mean 0 and deviation 1; minmax = 0..1
    missing: float | None = None  # number in place of an empty cell (before log); None: such a row is bad

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "standard", "minmax"):
            raise ValueError(f"normalise must be none, standard or minmax, got {self.normalise!r}")


class _Chunk(NamedTuple):
    """Some rows, converted."""

    label: np.ndarray  # [n] float32
    codes: list[np.ndarray]  # for each field [n] int32: the id where hashed, else a place in `_places`
    dense: list[np.ndarray]  # for each feature [n] float32, not normalised yet


class TableData(DataModule):
    """Rows of categorical and dense columns with a binary label, from tables of one's own.

    `source` is a folder with train, valid and (if there is one) test files, e.g. train.csv.gz; or one file, which is
    split. Text is .csv (quoted with ") or .tsv / .txt (tabs, no quoting), in UTF-8, one row a line, perhaps .gz; else
    .parquet.

    Ids: each column has a vocabulary of its own, learned from the training rows, most frequent value first, from id 1
    on. Id 0 stands for values not seen there (or too rarely); `unseen` and `describe` count them. An empty cell of a
    categorical column is a value like any other.

    A row is bad if it has another number of columns than the header, a label that is not 0 or 1, text or NaN or
    infinity or nothing (unless `missing` is set) in a dense column, or is not UTF-8: bad rows are named by file and
    line (Parquet: by row). A missing column and an empty or damaged file stop the reading, whatever `on_bad_row` says.

    Batch: ids [B, F] int32 and dense [B, D] float32 (left out if D = 0) in the order of the map; label [B] float32.

    Memory: 4 bytes a cell, 8 while reading; and the distinct values of each column that is not hashed.

    Args:
        label: column that holds 0 or 1.
        categorical: columns, or {column: {min_count, hash_size, shared}}; see `Categorical`.
        dense: columns, or {column: {log, normalise, missing}}; see `Dense`.
        columns: names of all columns, for text files without a header line.
        split: fractions of train, valid and test, where `source` is one file.
        split_seed: of that split; the run's seed does not change it.
        **common: see `DataModule`.

    Raises:
        ValueError: the column map contradicts itself.
    """

    def __init__(
        self,
        *,
        label: str,
        categorical: list[str] | dict[str, dict[str, Any] | None],
        dense: list[str] | dict[str, dict[str, Any] | None] | None = None,
        columns: list[str] | None = None,
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.label, self.columns, self.split, self.split_seed = label, columns, list(split), split_seed
        self.categorical = _options(categorical, Categorical, "categorical")
        self.dense = _options(dense or [], Dense, "dense")
        self._check_map()
        # the column that a field takes its vocabulary from: itself, unless shared
        self._roots = {name: options.shared or name for name, options in self.categorical.items()}
        self._vocabularies: dict[str, list[str]] = {}  # by root; id = 1 + place
        self._scales: dict[str, tuple[float, float]] = {}  # normalised = (x - first) / second
        self._places: dict[str, dict[str, int]] = {}  # by root, while reading: each value's place by first appearance
        self._known: dict[str, dict[str, int]] = {}  # by root, once `encode` needs it: value -> id
        self._rows: dict[str, ArrayRows] = {}
        self._paths: list[Path] = []
        self.unseen: dict[str, dict[str, int]] = {}
        """By split and column: rows whose value has id 0 (never in hashed columns)."""

    def _check_map(self) -> None:
        used = [self.label, *self.categorical, *self.dense]
        if twice := sorted({name for name in used if used.count(name) > 1}):
            raise ValueError(f"columns with two roles: {', '.join(twice)}")
        if not self.categorical:
            raise ValueError("data.categorical names no column")
        for name, options in self.categorical.items():
            others = {n for n, o in self.categorical.items() if n != name and o.shared is None}
            if options.shared is not None and options.shared not in others:
                raise ValueError(
                    f"data.categorical.{name}.shared={options.shared!r} must be another categorical column, one with "
                    f"a vocabulary of its own{nearest(options.shared, others)}"
                )
        if self.columns is not None:
            for name in used:
                if name not in self.columns:
                    raise ValueError(f"data.columns lacks {name!r}{nearest(name, self.columns)}")
        if len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1.0) > 1e-6:
            raise ValueError(f"data.split must be three fractions that sum to 1, got {self.split}")

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        return {"vocab_sizes": [self._size(name) for name in self.categorical], "num_dense": len(self.dense)}

    def _size(self, name: str) -> int:
        root = self._roots[name]
        hash_size = self.categorical[root].hash_size
        return 1 + (len(self._vocabulary(root)) if hash_size is None else hash_size)

    def _vocabulary(self, root: str) -> list[str]:
        if root not in self._vocabularies:
            raise DataError(f"column {root!r} has no vocabulary yet: prepare() reads the data, restore() takes a state")
        return self._vocabularies[root]

    def rows(self, split: str) -> ArrayRows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return {
            "vocabularies": self._vocabularies,
            "scales": {name: list(scale) for name, scale in self._scales.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        roots = set(self._roots.values())
        self._known = {}
        self._vocabularies = {k: list(v) for k, v in state.get("vocabularies", {}).items() if k in roots}
        self._scales = {k: (v[0], v[1]) for k, v in state.get("scales", {}).items() if k in self.dense}

    def fingerprint(self) -> str:
        if not self._paths:
            return ""
        from paddlecore.sources import fingerprint

        return fingerprint(self._paths)

    def examples(self) -> list[dict[str, Any]]:
        """Made up of the vocabularies: rows of somebody's data do not belong into a file of weights."""
        rows = []
        for k in range(3):
            known = {name: self._vocabularies.get(root, []) for name, root in self._roots.items()}
            row: dict[str, Any] = {name: v[k % len(v)] if v else f"value {k}" for name, v in known.items()}
            rows.append(row | {name: self._scales.get(name, (0.0, 1.0))[0] for name in self.dense})
        return rows

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "positive": {split: float(rows.columns["label"].mean()) for split, rows in self._rows.items()},
            "ids": dict(zip(self.categorical, self.spec["vocab_sizes"], strict=True)),
            "unseen": {split: {name: n for name, n in found.items() if n} for split, found in self.unseen.items()},
            "skipped": self.bad_rows.first,
        }

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """Read, check and convert everything.

        Raises:
            DataError: a file or row that cannot be used, by file, line and column.
        """
        self._places = {root: {} for root in self._roots.values()}
        self._known = {}
        if self.source == "toy":
            read = {split: _joined([self._convert(table)]) for split, table in self._toy().items()}
        else:
            files = self._files()
            self._paths = list(files.values())
            read = {split: self._read(path) for split, path in files.items()}
            if "all" in read:
                read = self._divided(read["all"])
        self.splits = tuple(read)
        self._learn(read.get("train"))
        self._rows = {split: ArrayRows(self._finished(split, read.pop(split))) for split in self.splits}
        self._places = {}

    def _files(self) -> dict[str, Path]:
        """The file of each split, or {"all": file} of one that is yet to be split."""
        if self.source == "auto":
            raise DataError("data.source: give the path of your table, or toy for generated rows")
        source = Path(self.source)
        if source.is_file():
            return {"all": source}
        if not source.is_dir():
            raise DataError(f"data.source={self.source}: there is no such file or folder")
        there = sorted(source.iterdir())
        files: dict[str, Path] = {}
        for split in ("train", "valid", "test"):
            found = [path for path in there if path.name.split(".")[0] == split and suffix(path)]
            if len(found) > 1:
                raise DataError(f"{source} has several {split} files: {', '.join(p.name for p in found)}; keep one")
            if found:
                files[split] = found[0]
        if "train" not in files or "valid" not in files:
            raise DataError(
                f"{source} must hold a train and a valid file (and may hold a test file), each .csv, .tsv or .txt "
                f"(perhaps with .gz) or .parquet; it holds {', '.join(p.name for p in there[:20]) or 'nothing'}"
            )
        return files

    def _read(self, path: Path) -> _Chunk:
        wanted = [self.label, *self.categorical, *self.dense]
        chunks: list[_Chunk] = []
        for piece in pieces(path, wanted, self.columns):
            chunks += salvage(piece, self._convert, lambda line, why: self.bad_rows.add(path, line, why))
        rows = _joined(chunks) if chunks else None
        if rows is None or not len(rows.label):
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        return rows

    def _convert(self, table: pa.Table) -> _Chunk:
        """Rows of a file, checked. Whatever can fail comes before anything is kept.

        Raises:
            BadValue: a row cannot be used.
        """
        label = numbers(table[self.label], self.label)
        if not ((label == 0) | (label == 1)).all():
            raise BadValue(f"column {self.label!r}: the label must be 0 or 1, not {table[self.label][0].as_py()!r}")
        features = self._features(table)
        codes = [self._codes(name, *found) for name, found in zip(self.categorical, features[0], strict=True)]
        return _Chunk(label.astype(np.float32), codes, features[1])

    def _features(self, table: pa.Table) -> tuple[list[tuple[np.ndarray, list[str]]], list[np.ndarray]]:
        found = [strings(table[name], name) for name in self.categorical]
        dense = [numbers(table[name], name, options.missing) for name, options in self.dense.items()]
        logs = [options.log for options in self.dense.values()]
        dense = [np.sign(x) * np.log1p(np.abs(x)) if log else x for x, log in zip(dense, logs, strict=True)]
        return found, [x.astype(np.float32) for x in dense]

    def _codes(self, name: str, codes: np.ndarray, values: list[str]) -> np.ndarray:
        """[n] int32: ids of a hashed column; places in `_places` of another."""
        root = self._roots[name]
        size = self.categorical[root].hash_size
        if size is not None:
            found = [1 + zlib.crc32(value.encode()) % size for value in values]
        else:
            places = self._places[root]
            found = [places.setdefault(value, len(places)) for value in values]
        return np.array(found, dtype=np.int32)[codes]

    def _divided(self, rows: _Chunk) -> dict[str, _Chunk]:
        """One file's rows by `split`; a part of no rows is left out."""
        count = len(rows.label)
        order = np.random.Generator(np.random.Philox(key=mix(self.split_seed))).permutation(count)
        first, second = round(self.split[0] * count), round((self.split[0] + self.split[1]) * count)
        parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
        # in the file's order, which may have a locality worth keeping
        return {split: _taken(rows, np.sort(chosen)) for split, chosen in parts.items() if len(chosen)}

    def _learn(self, train: _Chunk | None) -> None:
        """Vocabularies and scales from the training rows, but for those that `restore` brought."""
        for root, places in self._places.items():
            options = self.categorical[root]
            if options.hash_size is not None or root in self._vocabularies:
                continue
            counts = np.zeros(len(places), dtype=np.int64)
            for name, codes in zip(self.categorical, _required(train).codes, strict=True):
                if self._roots[name] == root:
                    counts += np.bincount(codes, minlength=len(places))
            values = list(places)
            order = np.argsort(-counts, kind="stable")  # frequent rows of the table lie together, and stay in the cache
            self._vocabularies[root] = [values[i] for i in order[counts[order] >= options.min_count].tolist()]
        for place, (name, settings) in enumerate(self.dense.items()):
            if settings.normalise == "none" or name in self._scales:
                continue
            x = _required(train).dense[place].astype(np.float64)
            shift, scale = (x.mean(), x.std()) if settings.normalise == "standard" else (x.min(), np.ptp(x))
            self._scales[name] = (float(shift), float(scale) or 1.0)  # a constant column becomes 0

    def _finished(self, split: str, rows: _Chunk) -> dict[str, np.ndarray]:
        ids = np.empty((len(rows.label), len(self.categorical)), dtype=np.int32)  # [n, F]
        tables: dict[str, np.ndarray] = {}  # by root: place -> id
        for place, (name, root) in enumerate(self._roots.items()):
            if self.categorical[root].hash_size is not None:
                ids[:, place] = rows.codes[place]
                continue
            if root not in tables:
                known = self._ids(root)
                tables[root] = np.array([known.get(value, 0) for value in self._places[root]], dtype=np.int32)
            ids[:, place] = tables[root][rows.codes[place]]
            self.unseen.setdefault(split, {})[name] = int((ids[:, place] == 0).sum())
        columns = {"ids": ids, "label": rows.label}
        return {**columns, "dense": self._scaled(rows.dense)} if self.dense else columns

    def _scaled(self, dense: list[np.ndarray]) -> np.ndarray:
        """[n, D] float32 in the order of the map."""
        out = np.stack(dense, 1)
        for place, name in enumerate(self.dense):
            shift, scale = self._scales.get(name, (0.0, 1.0))
            out[:, place] = (out[:, place] - shift) / scale
        return out

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """A row as a dict, or as the text of a JSON object: each column's value as it would stand in the table.

        Values never seen get id 0. The label may be there, and is not looked at.
        """
        names = [*self.categorical, *self.dense]
        given = row(raw, names, self.label)
        import pyarrow as pa

        try:
            found, dense = self._features(pa.table({name: [given[name]] for name in names}))
        except (ValueError, TypeError, OverflowError) as error:  # BadValue, and what pyarrow makes of odd objects
            raise DataError(str(error)) from None
        ids = [self._id(name, values[0]) for name, (_, values) in zip(self.categorical, found, strict=True)]
        batch = {"ids": torch.tensor([ids], dtype=torch.int32)}
        return {**batch, "dense": torch.from_numpy(self._scaled(dense))} if self.dense else batch

    def _id(self, name: str, value: str) -> int:
        root = self._roots[name]
        size = self.categorical[root].hash_size
        if size is not None:
            return 1 + zlib.crc32(value.encode()) % size
        if root not in self._known:
            self._known[root] = self._ids(root)
        return self._known[root].get(value, 0)

    def _ids(self, root: str) -> dict[str, int]:
        return {value: 1 + place for place, value in enumerate(self._vocabulary(root))}

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, pa.Table]:
        """Generated rows that fit the column map."""
        import pyarrow as pa

        world = World([20] * len(self.categorical), len(self.dense), self.split_seed)
        tables = {}
        for number, (split, count) in enumerate({"train": 10_000, "valid": 2_000, "test": 2_000}.items()):
            columns, _ = world.draw(count, mix(self.split_seed, number))
            table = {self.label: columns["label"]}
            for place, name in enumerate(self.categorical):
                table[name] = np.char.add(f"{self._roots[name]}_", columns["ids"][:, place].astype(str))
            for place, name in enumerate(self.dense):
                table[name] = columns["dense"][:, place].astype(np.float64)
            tables[split] = pa.table(table)
        return tables


def _options(given: list[str] | dict[str, Any], kind: type[Options], where: str) -> dict[str, Options]:
    """The column map as {column: options}."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    made = {}
    for name, options in (given if isinstance(given, dict) else dict.fromkeys(given)).items():
        for key in options or {}:
            if key not in known:
                raise ValueError(f"data.{where}.{name}.{key}: no such option{nearest(key, known)} ({', '.join(known)})")
        try:
            made[name] = kind(**(options or {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"data.{where}.{name}: {error}") from None
    return made


def _joined(chunks: Sequence[_Chunk]) -> _Chunk:
    return _Chunk(
        np.concatenate([c.label for c in chunks]),
        [np.concatenate(parts) for parts in zip(*(c.codes for c in chunks), strict=True)],
        [np.concatenate(parts) for parts in zip(*(c.dense for c in chunks), strict=True)],
    )


def _taken(rows: _Chunk, chosen: np.ndarray) -> _Chunk:
    return _Chunk(rows.label[chosen], [c[chosen] for c in rows.codes], [d[chosen] for d in rows.dense])


def _required(train: _Chunk | None) -> _Chunk:
    if train is None:
        raise DataError("there are no training rows to learn vocabularies from; see data.split")
    return train
