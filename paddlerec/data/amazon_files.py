"""Amazon reviews as the authors of S3-Rec prepared them: who bought what in which order, and what the items are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from paddlecore.data import BadRows
from paddlecore.errors import DataError
from paddlecore.sources import File, Source
from paddlerec.data.reader import contents, lines

SOURCE = Source(
    name="Amazon Beauty and Toys_and_Games (5-core, 2014), prepared by S3-Rec",
    folder="rec/amazon-s3rec",
    files=(
        File("Beauty.txt.gz", "d90327e98288647f5bae59c0dba82e153af2d940eafb7540f4b05185e108d0fe", 455_497),
        File(
            "Beauty_item2attributes.json.gz", "1914fdc21c3e1b0c36d23c3fc5e2cf64205bcc47f311ccbe7b51089221188fad", 67_122
        ),
        File("Toys_and_Games.txt.gz", "0bd73bdefb52da7dbfb3913e050fc15455ddaa0b98a7cf7049ee21585a5d0936", 391_642),
        File(
            "Toys_and_Games_item2attributes.json.gz",
            "e54973e9c274759cae517f3e34bf0fcad378b6bb9fa17b342250d2828734eb70",
            66_437,
        ),
    ),
    licence="research; cite McAuley et al., 2015, SIGIR",
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    manual="Get data/ of https://github.com/RUCAIBox/CIKM2020-S3Rec and pack each file with gzip.",
)


def sequences(path: Path, bad_rows: BadRows) -> tuple[np.ndarray, np.ndarray]:
    """Lines `user item item ...` in order of time: the items of all lines in one flat array [total] int32, and offsets
    [lines + 1] int64, line i at offsets[i]..offsets[i + 1]. Perhaps .gz.

    A line is bad, and named, if it is not whole numbers from 1 on, or has a user and no item. Blank lines are left out.

    Raises:
        DataError: the file is missing, damaged, or has no line that can be used.
    """
    items: list[int] = []
    offsets = [0]
    bad = partial(bad_rows.add, path)
    for number, line in lines(path, bad):
        if not line.strip():
            continue
        try:
            cells = [int(cell) for cell in line.split()]
            if len(cells) < 2 or min(cells) < 1 or max(cells) >= 2**31:
                raise ValueError
        except ValueError:
            bad(number, f"expected `user item item ...`, whole numbers from 1 on; got {line.strip()!r:.60}")
            continue
        items += cells[1:]
        offsets.append(len(items))
    if not items:
        raise DataError(f"{path}: it has no lines{' that can be used' if bad_rows.count else ''}")
    return np.array(items, dtype=np.int32), np.array(offsets, dtype=np.int64)


def attributes(path: Path) -> dict[int, list[int]]:
    """An object {item: [attribute, ...]}, both numbered from 1: categories and brand, in no order to rely on.

    Raises:
        DataError: the file is missing, damaged, or something else.
    """
    try:
        found = {int(item): [int(a) for a in some] for item, some in json.loads(contents(path)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected an object {{item: [attribute numbers]}}: {error}") from None
    if found and min(min(found), min((min(some) for some in found.values() if some), default=1)) < 1:
        raise DataError(f"{path}: items and attributes are numbered from 1")
    return found
