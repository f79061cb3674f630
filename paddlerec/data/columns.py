"""The column map: which columns of a table are features, of which type, and how their values become numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from paddlecore.errors import nearest
from paddlerec.data.reader import numbers, sequences, strings

if TYPE_CHECKING:
    import pyarrow as pa

Options = TypeVar("Options")


@dataclass(frozen=True)
class Categorical:
    """How the values of a column become ids."""

    min_count: int = 1  # values in fewer training rows share id 0 with those never seen
    hash_size: int | None = None  # 1 + crc32(value) % hash_size instead of a vocabulary
    shared: str | None = None  # use the vocabulary of this column, where both count

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")
        if self.hash_size is not None and not 1 <= self.hash_size < 2**31 - 1:
            raise ValueError(f"hash_size must be at least 1 and below 2^31 - 1, got {self.hash_size}")
        if self.shared is not None and (self.min_count > 1 or self.hash_size is not None):
            raise ValueError(f"min_count and hash_size are those of {self.shared!r}, whose vocabulary is shared")


@dataclass(frozen=True)
class Sequence(Categorical):
    """How a column of several values a cell becomes ids; for `min_count`, each value that is kept counts."""

    separator: str = " "  # between the values of a cell of text, the oldest first; blanks around a value do not count
    max_len: int = 50  # values kept, the latest ones

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.separator, str) or not self.separator:
            raise ValueError(f"separator must be a piece of text, got {self.separator!r}")
        if self.max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {self.max_len}")


@dataclass(frozen=True)
class Dense:
    """How the numbers of a column become a feature."""

    log: bool = False  # x -> sign(x) log(1 + |x|), which tames counts with a long tail
    normalise: str = "standard"  # then, by the training rows: standard = mean 0 and deviation 1; minmax = 0..1; none
    missing: float | None = None  # number instead of an empty cell (before log); None: such a row is bad

    def __post_init__(self) -> None:
        if self.normalise not in ("none", "standard", "minmax"):
            raise ValueError(f"normalise must be none, standard or minmax, got {self.normalise!r}")


def options(given: list[str] | dict[str, Any] | None, kind: type[Options], where: str) -> dict[str, Options]:
    """A section of the map as {column: options}.

    Raises:
        ValueError: an option that there is not, or with a value that cannot be.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    made = {}
    for name, settings in (given if isinstance(given, dict) else dict.fromkeys(given or [])).items():
        for key in settings or {}:
            if key not in known:
                raise ValueError(f"data.{where}.{name}.{key}: no such option{nearest(key, known)} ({', '.join(known)})")
        try:
            made[name] = kind(**(settings or {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"data.{where}.{name}: {error}") from None
    return made


class ColumnMap:
    """Fields (columns whose values become ids: categorical ones, then sequences) and dense features, in order.

    Args:
        label: the column that holds 0 or 1.
        categorical: one value a row.
        sequences: several values a row.
        dense: numbers.
        user: the column that says whose row it is, which may be a feature as well; None = none.

    Raises:
        ValueError: the map contradicts itself.
    """

    def __init__(
        self,
        label: str,
        categorical: dict[str, Categorical],
        sequences: dict[str, Sequence],
        dense: dict[str, Dense],
        user: str | None = None,
    ) -> None:
        self.label, self.categorical, self.sequences, self.dense = label, categorical, sequences, dense
        self.user = user
        self.fields: dict[str, Categorical] = {**categorical, **sequences}
        used = [label, *categorical, *sequences, *dense]
        if twice := sorted({name for name in used if used.count(name) > 1}):
            raise ValueError(f"columns with two roles: {', '.join(twice)}")
        if not categorical:
            raise ValueError("data.categorical names no column")
        if len(sequences) > 1 and (taken := sorted({"ids", "label", "dense", "user"} & {*sequences})):
            raise ValueError(f"data.sequences.{taken[0]}: a batch has something else by that name; rename the column")
        for where, section in (("categorical", categorical), ("sequences", sequences)):
            for name, settings in section.items():
                others = {n for n, o in self.fields.items() if n != name and o.shared is None}
                if settings.shared is not None and settings.shared not in others:
                    raise ValueError(
                        f"data.{where}.{name}.shared={settings.shared!r} must be another categorical column, one with "
                        f"a vocabulary of its own{nearest(settings.shared, others)}"
                    )
        self.roots = {name: settings.shared or name for name, settings in self.fields.items()}
        """The column that a field takes its vocabulary from: itself, unless shared."""

    @property
    def features(self) -> list[str]:
        return [*self.fields, *self.dense]

    def facts(self) -> dict[str, Any]:
        """The whole map as JSON-able values."""
        sections = {"categorical": self.categorical, "sequences": self.sequences, "dense": self.dense}
        user = {"user": self.user} if self.user is not None else {}
        options = {k: [[n, asdict(o)] for n, o in s.items()] for k, s in sections.items()}  # type: ignore[attr-defined]
        return {"label": self.label} | options | user

    def hash_size(self, field: str) -> int | None:
        return self.fields[self.roots[field]].hash_size

    def key(self, sequence: str) -> str:
        """The key of a sequence in a batch: `history` if it is the only one, else its column's name."""
        return "history" if len(self.sequences) == 1 else sequence

    def read(self, table: pa.Table) -> tuple[dict[str, tuple[np.ndarray, list[str]]], np.ndarray]:
        """Values of a table's rows, not yet ids.

        Returns:
            By field: codes [n] int32, or [n, max_len] right-padded with -1 for a sequence; and the distinct values
            that they count from 0. And the dense features, [n, D] float32, before normalisation.

        Raises:
            BadValue: a row cannot be used.
        """
        found = {name: strings(table[name], name) for name in self.categorical}
        for name, settings in self.sequences.items():
            found[name] = sequences(table[name], name, settings.separator, settings.max_len)
        dense = np.empty((table.num_rows, len(self.dense)), dtype=np.float32)
        for place, (name, feature) in enumerate(self.dense.items()):
            remedy = f"; data.dense.{name}.missing would give such cells a number"
            x = numbers(table[name], name, feature.missing, remedy=remedy)
            dense[:, place] = np.sign(x) * np.log1p(np.abs(x)) if feature.log else x
        return found, dense

    def scaled(self, dense: np.ndarray, scales: dict[str, tuple[float, float]]) -> np.ndarray:
        """Dense features [n, D] normalised: (x - first) / second of each column that has a scale."""
        pairs = np.array([scales.get(name, (0.0, 1.0)) for name in self.dense], dtype=np.float32)  # [D, 2]
        return (dense - pairs[:, 0]) / pairs[:, 1]


def hashed(values: Iterable[str], size: int) -> list[int]:
    """Ids 1..size: 1 + crc32 of the value's UTF-8 bytes, modulo `size`."""
    return [1 + zlib.crc32(value.encode()) % size for value in values]


def unpadded(ids: np.ndarray) -> np.ndarray:
    """Sequences [n, T] without their zeros in the middle (values never seen): those behind move up."""
    if (ids[:, :-1] >= np.minimum(ids[:, 1:], 1)).all():  # no id follows a zero
        return ids
    return np.take_along_axis(ids, np.argsort(ids == 0, axis=1, kind="stable"), axis=1)
