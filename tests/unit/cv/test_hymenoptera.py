"""Ants and bees: what is for training, and what is for testing alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paddlecv.data import HymenopteraData


def test_the_real_files() -> None:
    root = os.environ.get("PADDLE_DATA")
    if not root or not (Path(root) / "cv/hymenoptera").is_dir():
        pytest.skip("PADDLE_DATA has no cv/hymenoptera")
    data = HymenopteraData(size=16, resize=16)
    data.prepare()
    assert data.describe()["classes"] == {"train": {"ants": 123, "bees": 121}, "test": {"ants": 70, "bees": 83}}
    chosen = HymenopteraData(size=16, resize=16, holdout=5)
    chosen.prepare()
    assert {s: len(chosen.rows(s)) for s in chosen.splits} == {"train": 196, "valid": 48, "test": 153}
    assert data.fingerprint() == chosen.fingerprint() != ""


def test_own_folders_are_read_as_elsewhere(tmp_path: Path) -> None:
    data = HymenopteraData(source=str(tmp_path / "missing"))
    with pytest.raises(Exception, match="there is no such folder"):
        data.prepare()
