"""Checkpoints on disk: written whole or not at all, hashed, loaded without ever running what is inside.

checkpoints/step_00001234/ holds model.safetensors, ema.safetensors (with an EMA), optimizer.pt, trainer.json,
data.json, recipe.json and manifest.json, which gives size and sha256 of each of the others. It is written under a
temporary name, flushed to disk and renamed, so a run that is killed during a save still has the checkpoints from
before. It does not depend on the number of ranks: every rank holds the same state, and rank 0 writes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from paddlecore.errors import CheckpointError
from paddlecore.files import flush, read_json, sha256_of, write_json


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors, readable by all who may read the folder.

    The format wants contiguous tensors that share no memory, so tied weights are stored under each of their names.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        result[name] = tensor
    try:
        save_file(result, path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from None
    path.chmod(0o644)  # safetensors makes it private to its owner, so no colleague could evaluate it


def save(
    root: Path, step: int, *, tensors: Mapping[str, Mapping[str, Tensor]], optimizer: Any, records: Mapping[str, Any]
) -> Path:
    """Write `root`/step_<step>/.

    Args:
        tensors: state dicts by file stem: {"model": ..., "ema": ...}.
        optimizer: plain tensors and containers.
        records: JSON-able values by file stem: {"trainer": ..., "data": ..., "recipe": ...}.

    Raises:
        CheckpointError: the disk is full or cannot be written; what was written before this call is untouched.
    """
    folder = root / f"step_{step:08d}"
    part = root / f".step_{step:08d}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for stem, state in tensors.items():
            save_tensors(part / f"{stem}.safetensors", state)
        torch.save(optimizer, part / "optimizer.pt")
        for stem, value in records.items():
            write_json(part / f"{stem}.json", value)
        files = sorted(part.iterdir())
        manifest = {f.name: {"sha256": sha256_of(f), "bytes": f.stat().st_size} for f in files}
        for file in files:
            flush(file)
        write_json(part / "manifest.json", {"step": step, "files": manifest})
        flush(part)
        if folder.exists():  # a damaged one of the same step, or the same step saved again
            shutil.rmtree(folder)
        os.rename(part, folder)
        flush(root)
    except (OSError, CheckpointError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        shutil.rmtree(part, ignore_errors=True)
        kept = [c.name for c in steps(root)]
        raise CheckpointError(
            f"saving {folder} failed: {error}\n  earlier checkpoints are whole: {', '.join(kept) or 'none'}; "
            "make room, then run the same command again"
        ) from error
    return folder


def steps(root: Path) -> list[Path]:
    """The checkpoints under `root`, oldest first; nothing is said about whether they are whole."""
    found = (p for p in root.glob("step_*") if p.is_dir() and p.name[5:].isdigit())
    return sorted(found, key=lambda p: _number(p.name))


def _number(name: str) -> int:
    return int(name.removeprefix("step_"))


def verify(folder: Path) -> None:
    """Compare each file with the manifest.

    Raises:
        CheckpointError: names the file that is missing, cut short, or altered.
    """
    manifest = read_json(folder / "manifest.json")
    try:
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'manifest.json'} is not a manifest") from None
    for name, (size, digest) in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(f"{path} is missing, but stands in the manifest")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, the manifest says {size}: cut short?")
        if sha256_of(path) != digest:
            raise CheckpointError(f"{path} does not have the sha256 of the manifest: it was altered or is damaged")


def latest(root: Path) -> Path | None:
    """The newest checkpoint that is whole; says which damaged ones it passed over. None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    damaged = []
    for folder in reversed(steps(root)):
        try:
            verify(folder)
            return folder
        except CheckpointError as error:
            print(f"warning: {error}; trying the checkpoint before it", file=sys.stderr, flush=True)
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(
            f"every checkpoint under {root} is damaged:\n  "
            + "\n  ".join(damaged)
            + "\n  init.resume=never starts afresh in a new folder"
        )
    return None


def whole(root: Path) -> str:
    """What an error says of the checkpoints under `root` that can be used instead of a damaged one."""
    found = []
    for folder in steps(root):
        with contextlib.suppress(CheckpointError):
            verify(folder)
            found.append(f"\n    init.weights={folder}")
    return f"whole checkpoints, to name in its place:{''.join(found)}" if found else "no checkpoint there is whole"


def load_tensors(path: Path, *more: Path) -> dict[str, Tensor]:
    """A safetensors file on the CPU; `more` are its further pieces, if it was cut in several."""
    try:
        return load(b"".join(p.read_bytes() for p in (path, *more))) if more else load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename or path} is missing") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def load_plain(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote, of plain tensors and containers; anything else in the file is refused, never executed.

    `mapped`: the tensors are the file, in pages that the system may take back. Copy what is to outlive it.
    """
    try:
        return torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # torch raises a dozen kinds for damaged or hostile pickles; none may pass as a crash
        # torch's first line is advice to load the file all the same; what it refused stands further down
        refused = str(error).partition("WeightsUnpickler error: ")[2].partition(". ")[0]
        what = refused or f"{type(error).__name__}: {error}".split("\n")[0]
        raise CheckpointError(f"{path} is not a readable file of plain tensors ({what})") from None


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")  # names under which programs save a state dict


def load_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a file of another program: safetensors, or a state dict that torch.save wrote, alone or
    under one of `WRAPPERS` beside other things.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no named tensors.
    """
    state = load_tensors(path) if path.suffix == ".safetensors" else load_plain(path)
    inner = [state[w] for w in WRAPPERS if isinstance(state, dict) and isinstance(state.get(w), dict)]
    state = inner[0] if inner else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        keys = f" but {', '.join(sorted(map(str, state))[:5])}" if isinstance(state, dict) and state else ""
        raise CheckpointError(
            f"{path} does not hold tensors by name{keys}, neither at the top nor as {', '.join(WRAPPERS)}; "
            "save a module's state_dict() alone"
        )
    return {str(name): value for name, value in state.items()}


def prune(root: Path, keep: int, best: str | None, last: str) -> None:
    """Delete all but the newest `keep` checkpoints up to `last`, and `best`; also what killed saves left behind.

    What lies after `last`, the one just written or resumed from, was passed over as damaged: it takes nobody's place.
    """
    for folder in [f for f in steps(root) if _number(f.name) <= _number(last)][:-keep]:
        if folder.name != best:
            shutil.rmtree(folder, ignore_errors=True)
    for part in root.glob(".step_*.part"):
        shutil.rmtree(part, ignore_errors=True)
