"""Frappe: counts of the published split, original values and feature ids. The files are not part of the project."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data import FrappeData
from paddlerec.data.frappe import SOURCE

SIZES = [957, 4082, 7, 7, 2, 3, 2, 9, 80, 233]
FIRST = [204, 4798, 5041, 5046, 5053, 5055, 5058, 5060, 5073, 5183]  # line 2 of test.csv


@pytest.fixture(scope="module")
def frappe() -> FrappeData:
    root = data_root()
    if root is None or not (root / SOURCE.folder / "test.csv.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    data = FrappeData()
    data.prepare()
    return data


def test_counts_are_those_of_the_published_split(frappe: FrappeData) -> None:
    rows = {split: frappe.rows(split).columns for split in frappe.splits}
    assert {split: len(c["label"]) for split, c in rows.items()} == {"train": 202_027, "valid": 57_722, "test": 28_860}
    assert sum(int(c["label"].sum()) for c in rows.values()) == 96_203
    assert int(rows["train"]["label"].sum()) == 67_604
    assert frappe.spec == {"vocab_sizes": [size + 1 for size in SIZES], "num_dense": 0}
    assert sum(SIZES) == 5382
    for columns in rows.values():
        assert columns["ids"].min() >= 1 and (columns["ids"].max(0) <= SIZES).all()
    assert len(frappe.fingerprint()) == 64


def test_first_test_row_by_its_original_values(frappe: FrappeData) -> None:
    first = frappe.rows("test").columns["ids"][0]
    by_ids = frappe.encode(FIRST)
    assert by_ids["ids"].tolist() == [first.tolist()]
    row = {
        "user": 204, "item": 4798 - 957, "daytime": "evening", "weekday": "sunday", "isweekend": "weekend",
        "homework": "unknown", "cost": "free", "weather": "sunny", "country": "Canada",
    }  # fmt: skip
    fresh = FrappeData()
    fresh.restore(json.loads(json.dumps(frappe.state())))
    encoded = fresh.encode({**row, "city": frappe._values["city"][5183 - 5149]})
    assert encoded["ids"].tolist() == [first.tolist()]
    assert fresh.encode({**row, "city": "Atlantis"})["ids"][0, 9] == 0


def test_toy_has_the_same_fields_and_sizes() -> None:
    data = FrappeData(source="toy")
    data.prepare()
    assert data.spec == {"vocab_sizes": [size + 1 for size in SIZES], "num_dense": 0}
    ids = np.concatenate([data.rows(split).columns["ids"] for split in data.splits])
    assert ids.min() >= 1 and (ids.max(0) <= SIZES).all()
    assert (ids.max(0) > np.array(SIZES) * 0.7).all()
    fresh = FrappeData()
    fresh.restore(json.loads(json.dumps(data.state())))
    for example in fresh.examples():
        assert (fresh.encode(json.dumps(example))["ids"] > 0).all()


def test_without_a_feature_map_rows_are_given_by_feature_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_DATA", str(tmp_path))
    data = FrappeData()
    assert all((data.encode(example)["ids"] > 0).all() for example in data.examples())
    names = "user item daytime weekday isweekend homework cost weather country city".split()
    with pytest.raises(DataError, match="feature ids"):
        data.encode({name: 3 for name in names})
    assert data.state() == {}  # nothing of the data travels with the weights
    with pytest.raises(DataError, match="expected 10 feature ids"):
        data.encode([1, 2])


def test_missing_files_are_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PADDLE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="(?s)redistribution.*Frappe_x1.*data.source"):
        FrappeData().prepare()


def test_own_folder_in_the_published_form(tmp_path: Path) -> None:
    header = "label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"
    for split in ("train", "valid", "test"):
        line = ",".join(map(str, [1, *FIRST]))
        (tmp_path / f"{split}.csv").write_text(f"{header}\r\n{line}\r\n", newline="")
    data = FrappeData(source=str(tmp_path))
    data.prepare()
    assert data.rows("test").columns["ids"].tolist() == data.encode(FIRST)["ids"].tolist()
    assert isinstance(data.examples()[0], list)
