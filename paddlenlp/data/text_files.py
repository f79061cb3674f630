"""Text files as people have them: formats, encodings, tokens; what the data sets of texts and of pairs share."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import logging
import re
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from paddlecore import sources
from paddlecore.data import BadRows
from paddlecore.errors import ConfigError, DataError, nearest

_SET_ENCODING = "convert the file, or set data.encoding"
_KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".txt": "txt", ".all": "txt"}

# what is written over, under or into the letters of a word: accents, vowels of Hebrew, Arabic, Hindi and Thai, joiners
_MARKS = "\u200c\u200d" + "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M")
# words; n't and 's, 've, ... as tokens of their own, as in the Penn Treebank; any other character but space by itself
_WORD = re.compile(rf"\w[\w{_MARKS}]*?(?=n't\b)|n't\b|'(?:s|m|re|ve|ll|d)\b|\w[\w{_MARKS}]*|[^\w\s]", re.IGNORECASE)


def _characters(text: str) -> list[str]:
    return [c for c in text if not c.isspace()]


def _bigrams(text: str) -> list[str]:
    single = _characters(text)
    return [token for pair in zip_longest(single, map("".join, pairwise(single))) for token in pair if token]


def _jieba(text: str) -> list[str]:
    try:
        import jieba
    except ImportError:
        raise ConfigError(
            "data.tokenizer=jieba needs the package jieba: pip install 'paddle-suite[chinese]'; "
            "data.tokenizer=characters needs none"
        ) from None
    jieba.setLogLevel(logging.WARNING)
    return [token for token in jieba.lcut(text) if not token.isspace()]


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "words": _WORD.findall,
    "space": str.split,
    "characters": _characters,
    "bigrams": _bigrams,
    "jieba": _jieba,
}
SPACED = ("words", "space")  # those whose tokens have spaces between them in a text


class BadRow(ValueError):
    """A row cannot be used; the text says why."""


def kind_of(path: Path) -> str | None:
    suffixes = path.suffixes[:-1] if path.suffix == ".gz" else path.suffixes
    return _KINDS.get(suffixes[-1].lower()) if suffixes else None


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines, counted from 1, without their ends."""
    line = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for line, raw in enumerate(file, start=1):
                yield line, raw.rstrip(b"\r\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{line + 1}: the file is damaged or cut off ({error})") from None


def decoded(raw: bytes, encoding: str, line: int, remedy: str = "convert the file") -> str:
    """A line as text; the first one without the mark that editors on Windows put before UTF-8.

    Raises:
        BadRow: it is not in `encoding`.
    """
    if line == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadRow(f"byte {error.start + 1} of the line is not {encoding} ({error.reason}); {remedy}") from None


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing: there are but spaces, control characters and marks such as zero-width joiners."""
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def _cells(content: str, kind: str) -> list[str]:
    if kind == "tsv":
        return content.split("\t")
    if kind == "txt":
        return content.split(None, 1)
    if len(content) > csv.field_size_limit():  # 131 072 at first; a cell may be a whole book
        csv.field_size_limit(len(content))
    try:
        return next(csv.reader([content], strict=True))
    except csv.Error as error:
        raise BadRow(f"not a CSV row on one line: {error}") from None


def _row(content: str, kind: str, columns: list[str]) -> dict[str, str]:
    """The cells of a row by their columns."""
    found = _cells(content, kind)
    if len(found) != len(columns):
        raise BadRow(f"expected {len(columns)} columns ({', '.join(columns[:20])}), found {len(found)}")
    return dict(zip(columns, found, strict=True))


def _json_object(content: str, names: Iterable[str]) -> dict[str, Any]:
    """The object of a line, which has all of `names`."""
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadRow(f"expected a JSON object, got {content[:40]}")
    for name in names:
        if name not in row:
            raise BadRow(f"no key {name!r}{nearest(name, row)}")
    return row


def string_of(value: Any, what: str) -> str:
    """The value, if it is a text; JSON may have halves of surrogate pairs, which UTF-8 and sentencepiece have not.

    Raises:
        BadRow: it is none; `what` says in the error what it should be.
    """
    if not isinstance(value, str):
        raise BadRow(f"the {what} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            f"the {what} has half of a surrogate pair in place {error.start + 1}, which is no character"
        ) from None
    return value


def text_of(raw: Any, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The text of a raw input and the object it stands in: a text by itself, or an object, possibly as JSON text, with
    the text under one of `names`.

    Raises:
        DataError: something else.
    """
    given: Any = raw
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):  # a text may begin with a brace
            given = json.loads(raw)
    if not isinstance(given, dict):
        given = {names[0]: raw}
    name = next((name for name in names if name in given), None)
    if name is None:
        raise DataError(f'expected {{"{names[0]}": ...}}, got the keys {", ".join(sorted(map(str, given)))}')
    try:
        return string_of(given[name], "text"), given
    except BadRow as error:
        raise DataError(str(error)) from None


def check_reading(tokenizer: str, encoding: str) -> None:
    """
    Raises:
        ValueError: one of these options is not known, or lines cannot be told apart in the encoding.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"data.tokenizer must be one of {', '.join(TOKENIZERS)}, got {tokenizer!r}")
    try:
        if "\n".encode(encoding).removeprefix(codecs.BOM_UTF8) != b"\n":  # which utf-8-sig puts before any text
            raise ValueError(f"data.encoding={encoding}: lines cannot be told apart in it; convert to utf-8")
    except LookupError:
        raise ValueError(f"data.encoding={encoding!r}: there is no such encoding; try utf-8 or latin-1") from None


def check_columns(columns: list[str] | None, names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: the option `columns` lacks one of `names`, or has it twice.
    """
    if columns is None:
        return
    for name in names:
        if name not in columns:
            raise ValueError(f"data.columns lacks {name!r}{nearest(name, columns)}")
        if columns.count(name) > 1:
            raise ValueError(f"data.columns has {name!r} twice; which is to be read?")


def _check_header(path: Path, line: int, columns: list[str], names: Iterable[str], options: str) -> None:
    """
    Raises:
        DataError: one of `names` is not in the header, or twice.
    """
    for name in names:
        if columns.count(name) != 1:
            what = "twice" if name in columns else "not"
            raise DataError(
                f"{path}:{line}: column {name!r} is {what} in the header ({', '.join(columns[:20])})"
                f"{nearest(name, columns) if what == 'not' else ''}; see {options} and data.columns"
            )


def read_table(
    path: Path,
    kind: str,
    names: Sequence[str],
    take: Callable[[int, dict[str, Any]], None],
    bad_rows: BadRows,
    *,
    columns: list[str] | None,
    options: str,
    encoding: str | None = None,
) -> None:
    """Hand the line and the values by name of each row to `take`, which may refuse one by `BadRow`, as the reading of
    it does; such rows go to `bad_rows`. Blank lines are left out.

    Args:
        path: the file.
        kind: csv, tsv, jsonl or txt.
        names: columns or keys that each row must have.
        take: called for each row that has them.
        bad_rows: of the data.
        columns: names of all columns; None = the first line has them.
        options: that say which columns are read, for errors.
        encoding: of the file; None = UTF-8, which no option changes.

    Raises:
        DataError: the header lacks a column, or stands there beside `columns`; the file is damaged, or has no rows that
            can be used.
    """
    line = taken = 0
    for line, raw in lines_of(path):
        try:
            content = decoded(raw, encoding or "utf-8", line, _SET_ENCODING if encoding else "convert the file")
            if not content.strip():
                continue
            if kind == "jsonl":
                take(line, _json_object(content, names))
            elif columns is None:
                columns = _cells(content, kind)
                _check_header(path, line, columns, names, options)
                continue
            else:
                row = _row(content, kind, columns)
                if not taken and kind != "txt" and list(row.values()) == columns:
                    raise DataError(f"{path}:{line}: this line names the columns itself: leave data.columns out")
                take(line, row)
            taken += 1
        except BadRow as error:
            bad_rows.add(path, line, str(error))
    if not taken:
        skipped = " that can be used" if bad_rows.count else ""
        raise DataError(f"{path}:{max(line, 1)}: the file {'has no rows' + skipped if line else 'is empty'}")


def frequent(counts: Counter[str], min_count: int, path: Path) -> list[str]:
    """The tokens that were counted at least `min_count` times, the most frequent first.

    Raises:
        DataError: none was; `path` is the file of the training rows.
    """
    kept = [token for token, count in counts.most_common() if count >= min_count]
    if not kept:
        raise DataError(f"{path}: no token occurs data.min_count={min_count} times; set it lower, or give more texts")
    return kept


def warn_unknown(path: Path, share: float) -> None:
    """Say it where most tokens of a file are unknown to a vocabulary that came with weights: little is learned then."""
    if share > 0.5:
        warnings.warn(f"{path}: {share:.0%} of the tokens are not in the vocabulary of the weights", stacklevel=2)


def split_files(source: Path) -> dict[str, Path]:
    """The file of each split in the folder `source`; see `paddlecore.sources.split_files`."""
    return sources.split_files(source, kind_of, ".csv, .tsv, .jsonl or .txt, optionally with .gz", ("train", "valid"))
