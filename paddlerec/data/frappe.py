"""Frappe: which app is used in which context (Baltrunas, Church, Karatzoglou, Oliver, 2015, arXiv:1505.03014)."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import BadRows, mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, data_root, locate
from paddlecore.task import Batch
from paddlerec.data.ctr_toy import World
from paddlerec.data.reader import from_json, lines, row
from paddlerec.data.table import TableData

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = Source(
    name="Frappe",
    folder="rec/frappe",
    files=(
        File("train_redrawn.csv.gz", "16b55b86f87873f010a6fe4ec3f855c0b52c064221019083ebd2aa311594eb9d", 1_775_411),
        File("valid.csv.gz", "5bb1407a6ab553fcab580cb64e9c2765656b283bad8b78d47adaaee192590bc4", 508_145),
        File("test.csv.gz", "d341c18a6c1586f4fff5d20111627fcca196c7cebc49dc84f6b3bc89310fbe94", 254_365),
        File("feature_map.tsv.gz", "6e788062a34051b1ab4da2c781f408e401b6051c4068ecf358a22b3ffe45116a", 24_871),
    ),
    licence="research only, no commercial use, no redistribution without permission; cite arXiv:1505.03014",
    homepage="https://arxiv.org/abs/1505.03014",
    manual="""
The licence does not let us pass these files on.
Get the split Frappe_x1 of the BARS benchmark (https://github.com/reczoo/Datasets): train.csv, valid.csv, test.csv.
Put the three into a folder of their own and give it as data.source=<folder>.
In the files below, valid and test are that split; the items of train's negatives were drawn again by the same rule.
""",
)

# the files hold feature ids, numbered through all fields in this order
_FIELDS = {
    "user": 957, "item": 4082, "daytime": 7, "weekday": 7, "isweekend": 2, "homework": 3, "cost": 2, "weather": 9,
    "country": 80, "city": 233,
}  # fmt: skip
_FIRST = dict(zip(_FIELDS, accumulate(_FIELDS.values(), initial=0), strict=False))


class FrappeData(TableData):
    """288 609 rows in the split of NFM (He and Chua, SIGIR 2017) and AFN (AAAI 2020), `Frappe_x1` in BARS.

    Ten categorical fields: user, app and eight of context. Label 1 = the app was used, 0 = drawn as a negative, two for
    each positive. Ids of a field are 1..size in the order of the released feature map; 0 is kept for unseen values.

    `source`: auto = the files under PADDLE_DATA (rec/frappe); a folder with train, valid and test files of the same
    columns; toy = generated rows with the same fields and sizes.

    Args:
        **common: see `DataModule`.
    """

    vocabulary_state = ""  # it is fixed

    def __init__(self, **common: Any) -> None:
        super().__init__(
            label="label", categorical=list(_FIELDS), dense=None, columns=None, split=(0.8, 0.1, 0.1), split_seed=1,
            **common,
        )  # fmt: skip
        self._vocabularies = {
            name: [str(i) for i in range(_FIRST[name], _FIRST[name] + size)] for name, size in _FIELDS.items()
        }

    def state(self) -> dict[str, Any]:
        return {}  # the feature map is a part of the data, which may not travel with the weights

    def restore(self, state: dict[str, Any]) -> None:
        pass  # the vocabularies are fixed

    def _files(self) -> dict[str, Path]:
        if self.source != "auto":
            return super()._files()
        folder = locate(SOURCE)
        names = {"train": "train_redrawn.csv.gz", "valid": "valid.csv.gz", "test": "test.csv.gz"}
        return {split: folder / name for split, name in names.items()}

    def _toy(self) -> dict[str, pa.Table]:
        import pyarrow as pa

        world, tables = World(list(_FIELDS.values()), 0, 1), {}
        for number, (split, count) in enumerate({"train": 2000, "valid": 500, "test": 500}.items()):
            columns, _ = world.draw(count, mix(number))
            ids = columns["ids"] - 1 + np.array(list(_FIRST.values()))
            tables[split] = pa.table({"label": columns["label"], **dict(zip(_FIELDS, ids.T, strict=True))})
        return tables

    def encode(self, raw: Any) -> Batch:
        """A row as the list of its ten feature ids, or by the fields' original values, {"user": 0, ..., "weather":
        "sunny", ...}, which takes the released feature map beside the data; either may be JSON text. Unknown values
        get id 0."""
        raw = from_json(raw)
        if isinstance(raw, list):
            if len(raw) != len(_FIELDS):
                raise DataError(f"expected {len(_FIELDS)} feature ids ({', '.join(_FIELDS)}), got {len(raw)}")
            return super().encode(dict(zip(_FIELDS, raw, strict=True)))
        given = row(raw, list(_FIELDS), self.map.label)
        known = [(self._values[name], str(given[name])) for name in _FIELDS]
        ids = [1 + values.index(value) if value in values else 0 for values, value in known]
        return {"ids": torch.tensor([ids], dtype=torch.int32)}

    def examples(self) -> list[Any]:
        """Made up of feature ids: the licence does not let rows of the data travel with the weights."""
        return [[_FIRST[name] + k % size for name, size in _FIELDS.items()] for k in (0, 1, 2)]

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        """What the ids of each field stand for, from id 1 on."""
        if self.source == "toy":
            return {name: [str(i) for i in range(size)] for name, size in _FIELDS.items()}
        folder = (data_root() or Path()) / SOURCE.folder if self.source == "auto" else Path(self.source)
        found = folder / "feature_map.tsv.gz"
        if not found.is_file():
            raise DataError(f"{found} is missing, so a row can be given by its feature ids only: [...]")
        return _feature_map(found)


def _feature_map(path: Path) -> dict[str, list[str]]:
    """Original values of each field in the order of their feature ids."""
    values: dict[str, list[str]] = {name: [] for name in _FIELDS}
    for number, line in lines(path, partial(BadRows().add, path)):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != 3 or cells[1] not in values or cells[0] != str(_FIRST[cells[1]] + len(values[cells[1]])):
            raise DataError(f"{path}:{number}: expected feature id, field and value in order of the ids, got {cells}")
        values[cells[1]].append(cells[2])
    return values
