"""Interactions, sessions and histories are read and numbered once; tables, which write piece by piece, have a file of
their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paddlecore.errors import DataError
from paddlerec.data import CandidateData, HistoryData, InteractionData, SessionData, SkipGramData, cache, reader
from paddlerec.data.sessions import DigineticaData

Data = InteractionData | SessionData


def text(seed: int = 0) -> str:
    """300 events of 30 users with 20 items; the last time is none."""
    random = np.random.default_rng(seed)
    events = zip(random.integers(0, 30, 300), random.integers(0, 20, 300), random.permutation(300), strict=True)
    rows = "".join(f"u{user},i{item},{time},{1 + time % 5}\n" for user, item, time in events)
    return f"user,item,time,stars\n{rows}u1,i1,never,5\n"


KINDS: dict[str, Callable[..., Data]] = {
    "interactions": partial(InteractionData, time="time", negatives=2),
    "candidates": partial(CandidateData, time="time"),
    "sessions": partial(SessionData, session="user", item="item", time="time", split="last"),
    "parallel": partial(SessionData, session="user", item="item", time="time", batches="parallel", samples=5),
    "words": partial(SkipGramData, session="user", item="item", time="time", sampled=5, min_count=2),
    "histories": partial(HistoryData, negatives=2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, source: Path, folder: Path | None, state: dict[str, Any] | None = None, **options: Any) -> Data:
    options = {"on_bad_row": "skip", "batch_size": 16, **options}
    data = KINDS[kind](source=str(source), cache=None if folder is None else str(folder), **options)
    data.restore(state or {})
    data.prepare()
    return data


def told(data: Data) -> tuple[Any, ...]:
    """What training, evaluation and a checkpoint see of the data."""
    batches = []
    for split in data.splits:
        rows = data.rows(split)
        chosen = data.plan(rows).rows(1, 0) if split == "train" else np.arange(len(rows))
        batch = rows.fetch(chosen, 1)
        batches.append({key: value.tolist() for key, value in batch.items() if isinstance(value, torch.Tensor)})
    facts = {key: value for key, value in data.describe().items() if key != "files"}
    return data.splits, batches, facts, data.state(), data.spec, data.bad_rows.count, data.bad_rows.first


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(text())
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read so far."""
    found: list[str] = []
    progress = reader.progress
    monkeypatch.setattr(reader, "progress", lambda what, *args: found.append(what) or progress(what, *args))  # type: ignore[func-returns-value]
    return found


@every_kind
def test_what_is_kept_is_what_was_read(kind: str, source: Path, read: list[str], tmp_path: Path) -> None:
    plain = told(made(kind, source, None))
    assert plain[-2] == 1 and "never" in plain[-1][0]
    assert plain == told(made(kind, source, tmp_path / "cache")) and len(read) == 2
    assert plain == told(made(kind, source, tmp_path / "cache")) and len(read) == 2
    (place,) = (tmp_path / "cache").iterdir()
    found = cache.load(place)
    assert found is not None and all(isinstance(c.base, np.memmap) for s in found[1].values() for c in s.values())


@every_kind
def test_another_file_or_option_is_read_anew(kind: str, source: Path, read: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    made(kind, source, folder)
    options: list[dict[str, Any]] = [{"max_bad_rows": 7}, {"columns": ["user", "item", "time", "stars"]}]
    if kind in ("interactions", "candidates"):
        options += [{"rating": "stars"}, {"rating": "stars", "min_rating": 2.0}]
    else:
        options += [{"min_count": 15}, *([{"alpha": 0.5}, {"subsample": 0.01}] if kind == "words" else [])]
    if kind != "histories":
        other = "random" if kind in ("candidates", "sessions") else "last"
        options += [{"split": other}, {"valid_share": 0.2}, {"test_share": 0.3}, {"split_seed": 2}]
    for count, option in enumerate(options, start=2):
        assert told(made(kind, source, folder, **option)) == told(made(kind, source, None, **option))
        assert len(list(folder.iterdir())) == count, option
    source.write_text(text(1))
    assert told(made(kind, source, folder)) == told(made(kind, source, None))
    read.clear()
    made(kind, source, folder, batch_size=4, seed=2)  # what is drawn for batches is not kept
    assert not read
    with pytest.raises(DataError, match=r"log\.csv:302: .*never"):  # what skip made is not there for error
        made(kind, source, folder, on_bad_row="error")


@every_kind
def test_restored_vocabularies(kind: str, source: Path, read: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    state = json.loads(json.dumps(made(kind, source, folder).state()))
    read.clear()
    assert told(made(kind, source, folder, state)) == told(made(kind, source, None)) and len(read) == 1
    fewer = {key: names[:0:-1] for key, names in state.items()}  # in another order, and without the first
    for _ in range(2):
        data = made(kind, source, folder, fewer)
        assert told(data) == told(made(kind, source, None, fewer)) and data.state() == fewer
    assert len(read) == 4 and len(list(folder.iterdir())) == 2


@every_kind
def test_a_damaged_folder_is_made_again(
    kind: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    whole = told(made(kind, source, folder))
    (place,) = folder.iterdir()
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f")):
        damage(next(place.glob("train.*.npy")))
        assert told(made(kind, source, folder)) == whole
        assert "is damaged and is made again" in capsys.readouterr().err


def test_folders_of_several_files_and_prefixes(tmp_path: Path, read: list[str]) -> None:
    source, folder = tmp_path / "logs", tmp_path / "cache"
    source.mkdir()
    (source / "train.txt").write_text("1 2 3\n3 2\n4 1 2\n2 4 3 1\n")
    (source / "test.txt").write_text("1 2\t3\n4\t2\n")
    for kind in (SessionData, DigineticaData):  # with names, and with numbers
        options = {"source": str(source), "batch_size": 2, "valid_share": 0.25}
        plain = kind(**options, cache=None)
        kept = [kind(**options, cache=str(folder)) for _ in range(2)]
        for data in (plain, *kept):
            data.prepare()
        assert told(plain) == told(kept[0]) == told(kept[1])
    assert len(read) == 8 and len(list(folder.iterdir())) == 2  # twice two files of each


def test_where_what_is_prepared_goes(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    tables = tmp_path / "user" / "paddle-suite" / "tables"
    for count, small in ((0, 1 << 25), (1, 100)):
        monkeypatch.setattr(cache, "_SMALL", small)
        InteractionData(source=str(source), on_bad_row="skip", max_bad_rows=1).prepare()
        assert len(list(tables.iterdir()) if tables.exists() else []) == count
    InteractionData(source="toy").prepare()
    assert len(list(tables.iterdir())) == 1
