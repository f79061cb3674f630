"""Small files written whole or not at all, and their hashes. Importing this loads no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from paddlecore.errors import CheckpointError

CHUNK = 1 << 20  # bytes read at a time


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk; Windows does so with files alone, and open for writing."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write so that `path` holds either the old or the new content, whatever happens in between.

    Raises:
        OSError: it cannot be written; names the file, also where the disk is full.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # the system names none of a file that is open
        raise


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write `value` in the place of what `path` holds; see `replacing`. `compact`: long lists that nobody reads."""
    spaces: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    with replacing(path) as file:
        file.write((json.dumps(value, **spaces) + "\n").encode())


def read_json(path: Path) -> Any:
    """
    Raises:
        CheckpointError: the file is missing, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value
