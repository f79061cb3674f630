"""Tables in pieces, and files of lines: fast where all is well, exact about file, line and column where it is not.

A piece of a table is parsed and checked as a whole, by vectorised code. Only where that fails is it halved, and halved
again, until the rows that cannot be used stand alone and can be named; the rest of the piece is kept.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import numpy as np

from paddlecore.errors import DataError, nearest, some

if TYPE_CHECKING:
    import pyarrow as pa
    from tqdm import tqdm

# None: tabs if the first line has one, else commas. The last two: MovieLens
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None, ".data": "\t", ".dat": "::"}
_MOVIELENS = ["user", "item", "rating", "time"]
_BLOCK = 1 << 24  # bytes of text in a piece
_BATCH = 1 << 17  # rows of Parquet in a piece
_SHOWN = 1 << 14  # lines that are read between two looks at the bar

T = TypeVar("T")


class BadValue(ValueError):
    """Some row cannot be used. The text speaks of the first one, and is shown once that row stands alone."""


class Piece(Protocol):
    """Consecutive rows of a file."""

    rows: int
    line: int  # of the first row; counts from 1, a header included
    share: float  # of the file's bytes that are read once these rows are

    def table(self, low: int, high: int) -> pa.Table:
        """Rows low..high-1 as a table of the wanted columns.

        Raises:
            BadValue: a row has another number of columns, or is not text.
        """
        ...


def suffix(path: Path) -> str | None:
    """`.csv`, `.tsv`, `.txt` or `.parquet`, a `.gz` after the first three left out; None for other files."""
    kinds = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    kind = kinds[0].lower() if kinds else ""
    return kind if kind in _DELIMITERS or (kind == ".parquet" and path.suffix != ".gz") else None


def pieces(
    path: Path, wanted: Sequence[str], columns: Sequence[str] | None = None, *, optional: int = 0
) -> Iterator[Piece]:
    """The file's rows in order.

    Args:
        path: .csv (commas, quoted with "), .tsv (tabs, no quoting) or .txt (either: tabs if its first line has one),
            each optionally .gz; or .parquet.
        wanted: columns to read.
        columns: names of all columns, for text without a header line; a first line that says the same is skipped.
        optional: cells that may be missing at the end of a line, and are empty then: what strips blanks off
            the ends of lines takes the tabs of empty cells with them.

    Raises:
        DataError: the file is empty or damaged, its header lacks a column or has one twice, or its suffix says nothing.
    """
    kind = suffix(path)
    if kind is None:
        raise DataError(f"{path}: the name must end in .csv, .tsv, .txt (each optionally with .gz) or .parquet")
    if path.stat().st_size == 0:
        raise DataError(f"{path}:1: the file is empty")
    if kind == ".parquet":
        yield from _parquet(path, wanted)
    else:
        yield from _text(path, wanted, columns, _DELIMITERS[kind], optional)


def salvage(piece: Piece, convert: Callable[[pa.Table], T], bad: Callable[[int, str], None]) -> list[T]:
    """`convert` all rows of a piece but those for which it raises BadValue; `bad(line, why)` hears of each of these.

    Costs one call where every row is good, and about 2 log2(rows) more for each that is not.
    """

    def good(low: int, high: int) -> list[T]:
        try:
            return [convert(piece.table(low, high))]
        except BadValue as error:
            if high - low == 1:
                bad(piece.line + low, str(error))
                return []
        middle = (low + high) // 2
        return good(low, middle) + good(middle, high)

    return good(0, piece.rows)


def converted(
    path: Path,
    wanted: Sequence[str],
    convert: Callable[[pa.Table], T],
    bad: Callable[[int, str], None],
    columns: Sequence[str] | None = None,
    *,
    optional: int = 0,
) -> Iterator[T]:
    """A whole file by `convert`, with a bar: see `pieces` and `salvage`."""
    size = path.stat().st_size
    with progress(f"reading {path.name}", size, "B") as bar:
        for piece in pieces(path, wanted, columns, optional=optional):
            yield from salvage(piece, convert, bad)
            bar.update(int(piece.share * size) - bar.n)


def progress(what: str, total: int, unit: str) -> tqdm[NoReturn]:
    """A bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=None, leave=False)


# ---------------------------------------------------------------------------------------------------- text


class _Text:
    def __init__(
        self,
        block: bytes,
        line: int,
        share: float,
        names: Sequence[str],
        wanted: Sequence[str],
        delimiter: str,
        optional: int,
    ) -> None:
        self.block, self.line, self.share, self.optional = block, line, share, optional
        self.names, self.wanted, self.delimiter = names, wanted, delimiter
        self.quoted = delimiter == ","
        self.rows = block.count(b"\n") + (not block.endswith(b"\n"))  # lines, blank ones included
        self.lines: list[bytes] | None = None

    def table(self, low: int, high: int) -> pa.Table:
        import pyarrow as pa

        block = self.block
        if high - low < self.rows:
            if self.lines is None:
                self.lines = [line + b"\n" for line in block.split(b"\n")]  # not splitlines: \r alone ends no line
            block = b"".join(self.lines[low:high])
        # what the parser would take for the end of a line, or for none, and so shift the count
        if block.count(b"\r") != block.count(b"\r\n") + block.endswith(b"\r"):
            raise BadValue("a carriage return within the line")
        if self.quoted and b'"' in block:
            _check_quotes(block)
        try:
            return self._parsed(block)
        except pa.ArrowInvalid as error:
            if self.optional and (filled := self._filled(block)) != block:
                try:
                    return self._parsed(filled)
                except pa.ArrowInvalid:
                    pass
            raise BadValue(self._why(block, str(error)) if high - low == 1 else "") from None

    def _parsed(self, block: bytes) -> pa.Table:
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        return pa_csv.read_csv(
            pa.py_buffer(block),
            read_options=pa_csv.ReadOptions(column_names=list(self.names)),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.delimiter, quote_char='"' if self.quoted else False, double_quote=self.quoted
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in self.wanted},
                include_columns=list(self.wanted),
                strings_can_be_null=False,
            ),
        )

    def _filled(self, block: bytes) -> bytes:
        """Lines that lack `optional` cells or fewer, with these as empty ones."""
        cell, lines = self.delimiter.encode(), []
        for line in block.split(b"\n"):
            missing = len(self.names) - 1 - line.count(cell)
            lines.append(line.rstrip(b"\r") + missing * cell if line.strip() and missing <= self.optional else line)
        return b"\n".join(lines)

    def _why(self, line: bytes, otherwise: str) -> str:
        """What is wrong with a single line that does not parse."""
        for name, value in zip(self.names, line.rstrip(b"\r\n").split(self.delimiter.encode()), strict=False):
            try:
                value.decode()
            except UnicodeDecodeError as error:
                return f"column {name!r}: {value!r} is not UTF-8 ({error.reason})"
        count = len(_split(line.decode(errors="replace"), self.delimiter))
        if count != len(self.names):
            return f"expected {len(self.names)} columns, found {count}"
        return otherwise


def _check_quotes(block: bytes) -> None:
    """Raises BadValue if some line has an odd number of quotation marks: it would swallow the lines after it."""
    data = np.frombuffer(block, dtype=np.uint8)
    lines = np.searchsorted(np.flatnonzero(data == ord("\n")), np.flatnonzero(data == ord('"')))
    if (np.bincount(lines) % 2).any():
        raise BadValue("a quotation mark is not closed (a value cannot hold a line break)")


def _split(line: str, delimiter: str) -> list[str]:
    one = [line.rstrip("\r\n")]
    try:
        if delimiter == ",":
            return next(csv.reader(one), [])
        return next(csv.reader(one, delimiter=delimiter, quoting=csv.QUOTE_NONE), [])
    except csv.Error:
        return line.split(delimiter)


def _text(
    path: Path, wanted: Sequence[str], columns: Sequence[str] | None, delimiter: str | None, optional: int
) -> Iterator[Piece]:
    size = path.stat().st_size
    with _opened(path) as (raw, file):
        first = file.readline()
        if delimiter == "::" and delimiter.encode() not in first:
            delimiter = ","  # YooChoose's clicks
        colons = delimiter == "::"  # the parser wants one character
        if colons:
            first, delimiter = first.replace(b"::", b"\t"), "\t"
        elif delimiter is None:
            delimiter = "\t" if b"\t" in first else ","
        try:
            header = _split(first.decode("utf-8-sig"), delimiter)  # Excel begins files with a byte order mark
        except UnicodeDecodeError:
            if columns is None:
                raise DataError(f"{path}:1: the header is not UTF-8 text: save the file as UTF-8") from None
            header = []
        names, line, rest = header, 2, b""
        if columns is not None and header != list(columns):
            names, line, rest = list(columns), 1, first
        if not any(names):
            raise DataError(f"{path}:1: the file is empty")
        said_by = "; the first line names the columns, where data.columns does not" if columns is None else ""
        _check_names(f"{path}:1", names, wanted, said_by)
        for block in _blocks(file, rest):
            if colons:
                block = block.replace(b"::", b"\t")
            piece = _Text(block, line, raw.tell() / size, names, wanted, delimiter, optional)
            yield piece
            line += piece.rows


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedIOBase, BufferedIOBase]]:
    """The file as it lies there, and what it says: the same, unless it is .gz. Raises DataError."""
    try:
        with path.open("rb") as raw, gzip.open(raw, "rb") if path.suffix == ".gz" else nullcontext(raw) as file:
            yield raw, file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def movielens(path: Path) -> list[str] | None:
    """The columns of a file that has none of them in a header, as MovieLens leaves it: `ratings.dat` (parted by ::) and
    `u.data` (tabs); None for other files. Raises DataError: it is damaged."""
    parted = {".dat": b"::", ".data": b"\t"}.get(suffix(path) or "")
    if parted is None:
        return None
    with _opened(path) as (_, file):
        return list(_MOVIELENS) if parted in file.readline() else None


def contents(path: Path) -> bytes:
    """All of a file, which may be .gz. Raises DataError: it is missing or damaged."""
    with _opened(path) as (_, file):
        return file.read()


def lines(path: Path, bad: Callable[[int, str], None], encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Number, from 1 on, and text of each line of a file, which may be .gz; for files that are no tables. With a bar.

    Line ends come with the text; a byte order mark does not. `bad(number, why)` hears of a line in another encoding, or
    with a carriage return inside, which ends lines in other files.

    Raises:
        DataError: the file is missing or damaged.
    """
    with _opened(path) as (raw, file), progress(f"reading {path.name}", path.stat().st_size, "B") as bar:
        for number, line in enumerate(file, start=1):
            if number % _SHOWN == 0:
                bar.update(raw.tell() - bar.n)
            if b"\r" in line.rstrip(b"\r\n"):
                bad(number, "a carriage return within the line")
                continue
            try:
                yield number, (line.removeprefix(BOM_UTF8) if number == 1 else line).decode(encoding)
            except UnicodeDecodeError as error:
                bad(number, f"not {encoding.upper()} ({error.reason})")


def _blocks(file: BufferedIOBase, rest: bytes) -> Iterator[bytes]:
    """`rest` and what follows it in the file, in blocks of whole lines."""
    while data := file.read(_BLOCK):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = data[end:]
        else:
            rest += data
    if rest:
        yield rest


def _check_names(where: str, names: Sequence[str], wanted: Sequence[str], said_by: str = "") -> None:
    if twice := sorted({name for name in wanted if names.count(name) > 1}):  # others may have no name
        raise DataError(f"{where}: columns that are there twice: {', '.join(map(repr, twice))}{said_by}")
    for place, name in enumerate(wanted):
        if name in wanted[:place]:
            raise DataError(f"{where}: column {name!r} is asked for twice")
        if name not in names:
            known = f"the file has: {some(names, 20)}{said_by}{nearest(name, names)}"
            raise DataError(f"{where}: no column {name!r}; {known}")


# ---------------------------------------------------------------------------------------------------- Parquet


class _Batch:
    def __init__(self, table: pa.Table, line: int, share: float) -> None:
        self._table, self.line, self.share, self.rows = table, line, share, table.num_rows

    def table(self, low: int, high: int) -> pa.Table:
        return self._table.slice(low, high - low)


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_names(str(path), file.schema_arrow.names, wanted)
            line = 1
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(wanted)):
                share = (line - 1 + batch.num_rows) / file.metadata.num_rows
                yield _Batch(pa.Table.from_batches([batch]), line, share)
                line += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged, or not Parquet: {error}") from None


# ---------------------------------------------------------------------------------------------------- columns


def numbers(column: pa.ChunkedArray, name: str, missing: float | None = None, *, remedy: str = "") -> np.ndarray:
    """A column of numbers, or of text that says numbers, as [n] float64, every one within the range of float32.

    Args:
        missing: what an empty cell (null, or blank text) becomes.
        remedy: what is said of an empty cell where `missing` is None.

    Raises:
        BadValue: text, NaN, infinity, or an empty cell where `missing` is None.
    """
    import pyarrow as pa

    plain = _plain(column, name)
    try:
        cast = plain.cast(pa.float64(), safe=False)  # "safe" refuses whole numbers above 2^53
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BadValue(f"column {name!r}: {column[0].as_py()!r} is not a number") from None
    values = np.array(cast.to_numpy(), dtype=np.float64)  # a copy, which may be written to; null becomes NaN
    empty = cast.is_null().to_numpy()
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    if not (finite | empty).all():
        raise BadValue(f"column {name!r}: {column[0].as_py()!r} is not a finite number")
    if empty.any():
        if missing is None:
            raise BadValue(f"column {name!r} is empty{remedy}")
        values[empty] = missing
    return values


class Times:
    """The column of times of one file, all rows alike: numbers of whatever rises, or dates as seconds since 1970.

    Dates are Parquet's own, or text in ISO 8601: 2014-04-07, 2014-04-07 10:51:09, 2014-04-07T10:51:09.277Z. Without a
    zone they are UTC.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dates: bool | None = None  # known from the first rows that can be read

    def read(self, column: pa.ChunkedArray) -> np.ndarray:
        """[n] float64.

        Raises:
            BadValue: a row is neither, or not what the rows before are.
        """
        if not self.dates:
            try:
                found = numbers(column, self.name)
            except BadValue:
                if self.dates is not None:
                    raise
            else:
                self.dates = False
                return found
        found, self.dates = _seconds(column, self.name), True
        return found


def _seconds(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A column of dates as seconds since 1970, [n] float64. Raises BadValue."""
    import pyarrow as pa

    plain = _plain(column, name)
    if pa.types.is_string(plain.type) or pa.types.is_temporal(plain.type):
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):  # text without a zone, and with one
            try:
                found = plain.cast(kind, safe=False)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
            if not found.null_count:
                return np.array(found.cast(pa.int64()).to_numpy(), dtype=np.float64) / 1e6
    value = plain[0].as_py()
    if value is None:
        raise BadValue(f"column {name!r} is empty")
    raise BadValue(f"column {name!r}: {value!r:.80} is not a number, nor a date like 2014-04-07 10:51:09")


def _plain(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column without its dictionary; text of every type as strings without the blanks at their ends, null where
    nothing is left. Raises BadValue."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if not _is_text(plain.type):
        return plain
    try:
        plain = pc.utf8_trim_whitespace(plain.cast(pa.string()))
    except pa.ArrowInvalid:
        raise BadValue(f"column {name!r}: {column[0].as_py()!r} is not UTF-8") from None
    return pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain)


def strings(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, list[str]]:
    """A column as (codes [n] int32, distinct values): text as it is, whole numbers as their digits, null as "".

    Raises:
        BadValue: something that has no plain text, such as bytes that are not UTF-8.
    """
    import pyarrow as pa

    try:
        encoded = column.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BadValue(f"column {name!r}: {column[0].as_py()!r} is not text, nor a number") from None
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return encoded.indices.to_numpy(), _texts(encoded.dictionary, kind)


def _texts(values: pa.Array, kind: pa.DataType) -> list[str]:
    """Text that Arrow made of values of a type, but whole numbers as digits: from 10^10 on it has 1e+10 for a float,
    and a column of whole numbers with an empty cell is one of floats in many programs."""
    import pyarrow as pa

    texts: list[str] = values.to_pylist()
    if not pa.types.is_floating(kind):
        return texts
    return [str(int(float(t))) if "e+" in t and float(t).is_integer() else t for t in texts]


def named(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, list[str]]:
    """`strings` of a column that must say something in each row. Raises BadValue."""
    codes, values = strings(column, name)
    if "" in values:
        raise BadValue(f"column {name!r} is empty")
    return codes, values


def numbered(found: tuple[np.ndarray, list[str]], places: dict[str, int]) -> np.ndarray:
    """[n] int64: what `places` says of each row's value, where new ones get the next number."""
    codes, values = found
    return np.array([places.setdefault(value, len(places)) for value in values], np.int64)[codes]


def sequences(column: pa.ChunkedArray, name: str, separator: str, max_len: int) -> tuple[np.ndarray, list[str]]:
    """A column of lists, or of text with a separator, as (codes [n, max_len] int32, distinct values).

    Codes keep a cell's order and are padded on the right with -1; of a cell with more values the last `max_len` are
    kept. Blanks around a value do not count, and a value of nothing else is left out: "" has no values.

    Raises:
        BadValue: something that has no plain text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    try:
        if _is_list(kind):
            kind, lists = kind.value_type, column.combine_chunks()
        else:
            lists = pc.split_pattern(column.cast(pa.string()).fill_null("").combine_chunks(), separator)
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        owner = np.repeat(np.arange(len(column)), lengths)  # which row each value stands in
        # values are cast, not lists: pyarrow 26 loses values where it casts list views beside a null
        flat = pc.utf8_trim_whitespace(lists.flatten().cast(pa.string()).fill_null(""))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BadValue(f"column {name!r}: {column[0].as_py()!r} is not text, nor a list of values") from None
    there = pc.not_equal(flat, "")
    encoded = flat.filter(there).dictionary_encode()
    owner = owner[there.to_numpy(zero_copy_only=False)]
    ends = np.cumsum(np.bincount(owner, minlength=len(column)))  # [n] where each row's values end
    latest = np.arange(len(owner)) >= ends[owner] - max_len
    starts = np.maximum(np.concatenate([[0], ends[:-1]]), ends - max_len)
    codes = np.full((len(column), max_len), -1, dtype=np.int32)
    codes[owner[latest], (np.arange(len(owner)) - starts[owner])[latest]] = encoded.indices.to_numpy()[latest]
    return codes, _texts(encoded.dictionary, kind)


def row_table(given: dict[str, Any]) -> pa.Table:
    """A row as a table of one row.

    Raises:
        DataError: a value that no column can hold, by its name.
    """
    import pyarrow as pa

    columns = {}
    for name, value in given.items():
        try:
            beyond = is_whole(value) and 2**63 <= value < 2**64  # of hashes without a sign
            columns[name] = pa.array([value], pa.uint64() if beyond else None)
        except (ValueError, TypeError, OverflowError):  # values of several types in a list, lone surrogates, 10^400
            raise DataError(f"column {name!r}: {value!r:.80} is no value, nor a list of values of one type") from None
    return pa.table(columns)


def row(raw: Any, names: Sequence[str], label: str | None = None) -> dict[str, Any]:
    """One row that a user gave, a dict or the text of a JSON object, with every column of `names`.

    Raises:
        DataError: it is something else, lacks a column, or has one that is neither in `names` nor the label.
    """
    raw = from_json(raw)
    if not isinstance(raw, dict):
        raise DataError(f"expected an object with the columns {', '.join(names)}; got {raw!r:.80}")
    for name in raw:
        if name not in names and name != label:
            raise DataError(f"no column is called {name!r}; there are {', '.join(names)}{nearest(str(name), names)}")
    if missing := [name for name in names if name not in raw]:
        raise DataError(f"the row lacks {', '.join(map(repr, missing))}; its columns are {', '.join(names)}")
    return raw


def check_gaps(path: Path, what: str, numbers: np.ndarray) -> None:
    """Raises DataError if ids that are `numbers` [n] leave out nearly all of those below the highest, for each of which
    tables have a row."""
    highest = int(numbers.max(initial=0))
    if highest > 10**6 and highest > 100 * (count := len(np.unique(numbers))):
        raise DataError(
            f"{path}: {what} have numbers up to {highest}, but there are {count} only: number them without large gaps"
        )


def find_file(folder: Path, name: str) -> Path:
    """The file `name`, or `name`.gz, of a user's folder. Raises DataError."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"data.source={folder}: there is no {name} or {name}.gz in it")


def is_whole(value: Any) -> bool:
    """A whole number? True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_name(value: Any) -> bool:
    """May a user have meant a name of the data by this: text, or a whole number, whose digits it is?"""
    return isinstance(value, str) or is_whole(value)


def from_json(raw: Any) -> Any:
    """Text as the JSON value it holds; anything else as it is. Raises DataError."""
    try:
        return json.loads(raw) if isinstance(raw, str) else raw
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error}: {raw!r:.80}; names stand in quotes, lists of them in brackets") from None


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    known = pa.types
    lists = (known.is_list, known.is_large_list, known.is_fixed_size_list, known.is_list_view, known.is_large_list_view)
    return any(is_kind(kind) for is_kind in lists)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    known = pa.types
    text = (known.is_string, known.is_large_string, known.is_string_view)
    return any(is_kind(kind) for is_kind in (*text, known.is_binary, known.is_large_binary, known.is_binary_view))
