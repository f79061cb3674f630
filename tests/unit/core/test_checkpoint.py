"""Checkpoints: whole or not at all, damage is named, and nothing inside is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddlecore import checkpoint, files
from paddlecore.errors import CheckpointError

STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


def make(root: Path, step: int) -> Path:
    return checkpoint.save(
        root,
        step,
        tensors={"model": STATE},
        optimizer={"main": {"w": {"m": torch.ones(2)}}},
        records={"trainer": {"step": step}, "data": {"state": {}}},
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = make(tmp_path, 12)
    assert folder.name == "step_00000012"
    checkpoint.verify(folder)
    loaded = checkpoint.load_tensors(folder / "model.safetensors")
    assert all(torch.equal(loaded[k], STATE[k]) for k in STATE)
    assert checkpoint.load_plain(folder / "optimizer.pt")["main"]["w"]["m"].tolist() == [1, 1]
    assert files.read_json(folder / "trainer.json") == {"step": 12}
    assert not list(tmp_path.glob(".*"))


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    w = torch.arange(6.0).reshape(2, 3)
    folder = checkpoint.save(tmp_path, 1, tensors={"model": {"a": w, "b": w, "t": w.t()}}, optimizer={}, records={})
    loaded = checkpoint.load_tensors(folder / "model.safetensors")
    assert torch.equal(loaded["a"], loaded["b"]) and torch.equal(loaded["t"], w.t())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make(tmp_path, 5), make(tmp_path, 10)
    path = bad / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        content = content[: len(content) // 2] if damage == "truncate" else content
        if damage == "flip":
            content[len(content) // 2] ^= 0x21
        path.write_bytes(content)
    assert checkpoint.latest(tmp_path) == good
    assert name in capsys.readouterr().err
    (good / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        checkpoint.latest(tmp_path)


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    good = make(tmp_path, 5)
    (tmp_path / ".step_00000010.part").mkdir()
    (tmp_path / "step_junk").mkdir()
    assert checkpoint.latest(tmp_path) == good
    checkpoint.prune(tmp_path, 1, None, good.name)
    assert not (tmp_path / ".step_00000010.part").exists()
    assert checkpoint.latest(tmp_path / "none") is None


def test_checkpoints_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("step_100000000", "step_99999999", "step_00000007", "step_x"):
        (tmp_path / name).mkdir()
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step_00000007", "step_99999999", "step_100000000"]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    checkpoint.prune(tmp_path, 2, "step_00000001", "step_00000004")
    assert [p.name[-1] for p in checkpoint.steps(tmp_path)] == ["1", "3", "4"]


@pytest.mark.parametrize("at", range(7))
def test_a_failing_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    good = make(tmp_path, 5)
    calls = 0
    real = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left.*step_00000005|(?s:No space left.*step_00000005)"):
        make(tmp_path, 10)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == good


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch ran",))


@pytest.mark.parametrize("mapped", [False, True])
def test_a_pickle_with_code_is_refused_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "optimizer.pt"
    path.write_bytes(pickle.dumps({"x": Hostile()}))
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.load_plain(path, mapped=mapped)
    torch.save({"x": Hostile()}, path)  # the same in torch's zip layout
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.load_plain(path, mapped=mapped)
    # a zip whose pickle was exchanged
    whole = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = pickle.dumps(Hostile(), protocol=2) if item.filename.endswith("data.pkl") else source.read(item)
            target.writestr(item, data)
    with pytest.raises(CheckpointError, match="plain tensors"):
        checkpoint.load_plain(path, mapped=mapped)
    assert not (tmp_path / "ran").exists()


@given(noise=st.binary(max_size=300), at=st.integers(0, 10_000), cut=st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_a_loader_do_anything_but_load_or_refuse(
    tmp_path: Path, noise: bytes, at: int, cut: bool
) -> None:
    folder = tmp_path / "step_00000001"
    if not folder.exists():
        make(tmp_path, 1)
    for name, load in (
        ("model.safetensors", checkpoint.load_tensors),
        ("optimizer.pt", checkpoint.load_plain),
        ("optimizer.pt", partial(checkpoint.load_plain, mapped=True)),
        ("trainer.json", files.read_json),
    ):
        content = (folder / name).read_bytes()
        where = at % (len(content) + 1)
        (tmp_path / name).write_bytes(content[:where] + noise + (b"" if cut else content[where + len(noise) :]))
        try:
            load(tmp_path / name)
        except CheckpointError as error:
            assert name in str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_is_verified_or_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": value}))
    try:
        checkpoint.verify(tmp_path)
    except CheckpointError:
        pass


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = make(tmp_path / "c", 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.verify(folder)


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("this ran",)


def test_a_refused_file_says_why_and_not_how_to_load_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": _Runs()}, tmp_path / "runs.pth")
    with pytest.raises(
        CheckpointError, match=r"runs.pth is not a readable file of plain tensors \(.*GLOBAL print"
    ) as e:
        checkpoint.load_plain(tmp_path / "runs.pth")
    assert (
        "two options" not in str(e.value) and "Please" not in str(e.value) and "this ran" not in capfd.readouterr().out
    )
    (tmp_path / "junk.pth").write_bytes(b"junk" * 100)
    with pytest.raises(CheckpointError, match=r"junk.pth is not a readable file of plain tensors \(KeyError"):
        checkpoint.load_plain(tmp_path / "junk.pth")
