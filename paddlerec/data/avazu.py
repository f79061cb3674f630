"""Avazu Click-Through Rate Prediction (Avazu, 2014, on Kaggle): is an advertisement on a mobile device clicked?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddlerec.data.reader import BadValue, numbers
from paddlerec.data.table import TableData, got_by_hand

if TYPE_CHECKING:
    import pyarrow as pa

# of the raw file, in order; `id` tells rows apart and is no feature
_FIELDS = [
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id",
    "device_ip", "device_model", "device_type", "device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20",
    "C21",
]  # fmt: skip

_HELP = """
  licence: that of the challenge: research, no redistribution
  homepage: https://www.kaggle.com/c/avazu-ctr-prediction
  to get it by hand: accept the terms there, fetch train.gz, and put it there as train.csv.gz (or unpacked as
    train.csv); the challenge's own test file has no labels and is of no use
  or ask for generated data with data.source=toy, or for your own with data.source=<path>"""


class AvazuData(TableData):
    """Rows of the raw file as it is: commas, a header, 24 columns. All features are categories; `hour`, which the file
    has as YYMMDDHH, becomes the hour of the day, 0 to 23, and the weekday, 0 = Monday.

    `source`: auto = rec/avazu/train.csv (or .gz, .parquet) under PADDLE_DATA; a file of the same columns, which is
    split at random as `split` says; a folder with train, valid and test files; toy = generated rows.

    Args:
        min_count: values in fewer training rows share id 0 with those never seen.
        hash_size: ids of each field by hashing, instead of vocabularies.
        split: fractions of train, valid and test of one file.
        split_seed: of that split; the run's seed does not change it.
        cache: folder of prepared columns, auto or null; see `TableData`.
        **common: see `DataModule`.
    """

    def __init__(
        self,
        *,
        min_count: int = 2,
        hash_size: int | None = None,
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        options = {"min_count": min_count, "hash_size": hash_size}
        super().__init__(
            label="click",
            categorical={"hour": {}, "weekday": {}, **dict.fromkeys(_FIELDS, options)},
            split=split,
            split_seed=split_seed,
            cache=cache,
            **common,
        )

    def _inputs(self) -> list[str]:
        return ["hour", *_FIELDS]

    def _derive(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        hour, weekday = times(numbers(table["hour"], "hour"))
        place = table.schema.get_field_index("hour")
        return table.set_column(place, "hour", pa.array(hour)).append_column("weekday", pa.array(weekday))

    def _files(self) -> dict[str, Path]:
        return {"all": got_by_hand("rec/avazu", "train", _HELP)} if self.source == "auto" else super()._files()

    def _toy(self) -> dict[str, pa.Table]:
        import pyarrow as pa

        tables = {}
        for split, table in super()._toy().items():
            hours, days = (
                np.char.rpartition(table[name].to_numpy().astype(str), "_")[:, 2] for name in ("hour", "weekday")
            )
            stamps = 14102100 + 100 * (days.astype(int) % 7) + hours.astype(int) % 24
            tables[split] = table.drop_columns(["hour", "weekday"]).append_column("hour", pa.array(stamps))
        return tables

    def examples(self) -> list[Any]:
        rows = []
        for k, example in enumerate(super().examples()):
            del example["weekday"]
            rows.append({**example, "hour": 14102100 + 107 * k})
        return rows


def times(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers YYMMDDHH of this century [n] -> hour of the day [n] int64, and weekday [n] int64, 0 = Monday.

    Raises:
        BadValue: a number is none of these.
    """
    with np.errstate(invalid="ignore"):  # beyond int64, which then is not what it was
        whole = stamps.astype(np.int64)
    years, months, dates, hours = whole // 10**6, whole // 10**4 % 100, whole // 100 % 100, whole % 100
    good = (whole == stamps) & (years >= 0) & (years < 100) & (months >= 1) & (months <= 12) & (hours < 24)
    first = ((30 + years) * 12 + months - 1).astype("datetime64[M]")  # months since 1970
    days = first.astype("datetime64[D]") + (dates - 1)
    if not (good & (dates >= 1) & (days.astype("datetime64[M]") == first)).all():
        raise BadValue(f"column 'hour': {stamps[0]:.0f} is not a time YYMMDDHH")
    return hours, (days.astype(np.int64) + 3) % 7  # the first day of 1970 was a Thursday
