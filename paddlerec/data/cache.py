"""Prepared columns on disk: made once for each content and map, whole or not at all, and made again if damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from paddlecore.data import DataModule
from paddlecore.errors import DataError
from paddlecore.sources import cache_folder, exclusive, fingerprint

FORMAT = 2  # part of every key: to be raised when columns are made in another way
_SMALL = 1 << 25  # bytes of all files: what is below stays in memory where `data.cache` is auto

Splits = dict[str, dict[str, np.ndarray]]


def folder_for(given: str | None, paths: Iterable[Path]) -> Path | None:
    """The folder of prepared columns by `data.cache`, for data in files `paths`; None: they stay in memory."""
    if given != "auto":
        return Path(given) if given is not None else None
    user = cache_folder()
    return user / "tables" if user and sum(path.stat().st_size for path in paths) >= _SMALL else None


def kept(
    data: DataModule,
    folder: Path,
    files: dict[str, Path],
    options: list[Any],
    learned: Any,
    fill: Callable[[Path], dict[str, Any]],
) -> tuple[dict[str, Any], Splits]:
    """`made_once` in a folder below `folder`, named by the content of `files`, the class and the options.

    Args:
        data: whose rows they are; its bad rows are counted as when the files were read.
        files: by split.
        options: those that decide the result.
        learned: vocabularies and the like that were restored; empty: they are learned. Where they are those that
            `fill` learned from these files, as in evaluation, its columns are used.
        fill: see `made_once`; of what it returns "learned" are those that the columns are made with.
    """
    bad_rows = data.bad_rows
    facts = {
        "kind": f"{type(data).__module__}.{type(data).__qualname__}",
        "files": {split: fingerprint([path]) for split, path in files.items()},
        "options": [options, bad_rows.on_bad_row, bad_rows.max_bad_rows],
    }
    place = folder / key(facts)
    if learned:
        found = load(place)
        if found is None or found[0]["learned"] != learned:
            place = folder / key({**facts, "learned": learned})
    made, columns = made_once(place, lambda part: {**fill(part), "bad_rows": [bad_rows.count, bad_rows.first]})
    bad_rows.count, bad_rows.first = made["bad_rows"]
    return made, columns


def write(folder: Path, splits: Splits) -> None:
    """Columns that are in memory as the files of `made_once`; each holds something, as nothing cannot be mapped."""
    for split, columns in splits.items():
        for name, values in columns.items():
            np.save(folder / f"{split}.{quote(name, safe='')}.npy", values)


def key(facts: dict[str, Any]) -> str:
    """A folder's name for everything that the columns in it depend on, JSON-able values."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(place: Path, *, check: bool = True) -> tuple[dict[str, Any], Splits] | None:
    """What `fill` returned and the columns it wrote, by split, as memory maps; None if they are not there or damaged.

    Args:
        check: compare the content with its hash (which the user's cache remembers by path, size and time).
    """
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        files = [place / name for name in meta["files"]]
        if check and fingerprint(files) != meta["sha256"]:
            return None
        splits: Splits = {}
        for path in files:
            split, column = unquote(path.stem).split(".", 1)
            # an array that is a view of the map: slices of it are plain arrays
            splits.setdefault(split, {})[column] = np.asarray(np.load(path, mmap_mode="r"))
        return meta["facts"], splits
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def made_once(place: Path, fill: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], Splits]:
    """The columns in `place`, where `fill(folder)` writes them first if need be, as `<split>.<column>.npy`, names
    quoted as in URLs.

    They are written beside the place and renamed, so a run that is stopped leaves nothing that looks whole. Of several
    processes one fills and the others wait.

    Raises:
        DataError: the folder cannot be written; and what `fill` raises.
    """
    if found := load(place):
        return found
    try:
        with exclusive(place) as part:
            if found := load(place):  # another process was faster
                return found
            if place.exists():
                print(f"{place} is damaged and is made again", file=sys.stderr, flush=True)
                shutil.rmtree(place)
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            part.mkdir()
            try:
                facts = fill(part)
                files = sorted(part.glob("*.npy"))
                meta = {"facts": facts, "files": [file.name for file in files], "sha256": fingerprint(files)}
                (part / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
                os.rename(part, place)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(f"prepared columns cannot be written to {place}: {error}; give another data.cache") from None
    made = load(place, check=False)
    assert made is not None
    return made
