"""Criteo Display Advertising Challenge (Criteo Labs, 2014, on Kaggle): is an advertisement clicked?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlerec.data.reader import from_json
from paddlerec.data.table import TableData, got_by_hand

DENSE = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]
COLUMNS = ["label", *DENSE, *CATEGORICAL]

_HELP = """
  licence: that of the challenge: research, no commercial use, no redistribution
  homepage: https://www.kaggle.com/c/criteo-display-ad-challenge
  to get it by hand: accept the terms there, fetch dac.tar.gz, unpack it, and put train.txt there (.txt, .tsv, also
    with .gz, or .parquet with the same columns); the challenge's own test.txt has no labels and is of no use
  or ask for generated data with data.source=toy, or for your own with data.source=<path>"""


class CriteoData(TableData):
    """Rows of the raw file as it is: label, 13 integers I1..I13 and 26 hashed categories C1..C26, tabs, no header.

    Integers: sign(x) log(1 + |x|), the logarithm that tames their long tails (Wang, Fu, Fu, Wang, 2017, "Deep & Cross
    Network for Ad Click Predictions", ADKDD, sec. 4.1, takes one, too), then normalised; an empty cell counts as 0.
    Categories: an empty cell is a value of its own; values in few training rows share one id with those never seen, or
    all values are hashed. Up to four cells at a line's end may be missing: there are copies of the file whose lines
    lost the tabs of empty cells there.

    `source`: auto = rec/criteo/train.txt (or .tsv, .gz, .parquet) under PADDLE_DATA; a file of the same columns, with
    or without a header line, which is split at random as `split` says; a folder with train, valid and test files; toy =
    generated rows.

    Args:
        min_count: values in fewer training rows share id 0 with those never seen.
        hash_size: ids of each field by hashing, instead of vocabularies: `prepare` then needs no memory for them.
        normalise: of the logarithms by the training rows: standard, minmax or none.
        split: fractions of train, valid and test of one file.
        split_seed: of that split; the run's seed does not change it.
        cache: folder of prepared columns, auto or null; see `TableData`.
        **common: see `DataModule`.
    """

    optional = 4

    def __init__(
        self,
        *,
        min_count: int = 10,
        hash_size: int | None = None,
        normalise: str = "standard",
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(
            label="label",
            categorical={name: {"min_count": min_count, "hash_size": hash_size} for name in CATEGORICAL},
            dense={name: {"log": True, "normalise": normalise, "missing": 0.0} for name in DENSE},
            columns=COLUMNS,
            split=split,
            split_seed=split_seed,
            cache=cache,
            **common,
        )

    def _files(self) -> dict[str, Path]:
        return {"all": got_by_hand("rec/criteo", "train", _HELP)} if self.source == "auto" else super()._files()

    def encode(self, raw: Any) -> Batch:
        """A row as {"I1": 3, ..., "C26": "a1b2c3d4"}, as JSON text of that, or as a whole line of the raw file, with or
        without its label. An integer may be null or "", a category ""."""
        if isinstance(raw, str) and "\t" in raw:
            cells = raw.rstrip("\r\n").split("\t")
            names = COLUMNS if len(cells) == len(COLUMNS) else COLUMNS[1:]
            if len(cells) != len(names):
                raise DataError(f"expected {len(COLUMNS)} cells, or {len(names)} without a label; got {len(cells)}")
            end = cells[len(DENSE)]  # C1, which has eight digits in the published file, or, after a label, I13
            labelled = cells[0] in ("0", "1") and len(end) < 8 and (not end or end.lstrip("-").isdecimal())
            if names is not COLUMNS and labelled:
                raise DataError(
                    f"the line has {len(cells)} cells, and the {len(DENSE) + 1}th is {end!r}: I13 after a label, of a "
                    f"line that lost its last cell, or C1 without a label? Give all {len(COLUMNS)} cells, or an object "
                    'like {"I1": 3, ..., "C26": "a1b2c3d4"}'
                )
            raw = dict(zip(names, cells, strict=True))
        return super().encode(from_json(raw))
