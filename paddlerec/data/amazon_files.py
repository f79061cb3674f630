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

_COPY = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/2a81540ae18615d88ef88227b0c066e5b74781e5/data/{}"

SOURCE = Source(
    name="Amazon Beauty and Toys_and_Games (5-core, 2014), prepared by S3-Rec",
    folder="rec/amazon-s3rec",
    files=(
        File.at(_COPY, "Beauty.txt", "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8", 1_090_094),
        File.at(
            _COPY,
            "Beauty_item2attributes.json",
            "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
            305_674,
        ),
        File.at(
            _COPY, "Toys_and_Games.txt", "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f", 922_166
        ),
        File.at(
            _COPY,
            "Toys_and_Games_item2attributes.json",
            "d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0",
            327_536,
        ),
    ),
    licence="research; cite McAuley et al., 2015, SIGIR",
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    manual="Get data/ of https://github.com/RUCAIBox/CIKM2020-S3Rec, its files packed with gzip or not.",
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
