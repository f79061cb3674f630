"""Where data comes from: declared files with their hashes, fetched once, checked, and unpacked without trust.

A data set's module declares one `Source` beside its DataModule and asks `locate(SOURCE)` for the folder. Files are
looked for below PADDLE_DATA (default: the user's cache folder), which may be read-only. What is missing is fetched if
the source has URLs and PADDLE_OFFLINE is not set; anything else ends in a DataError that says what to do. A present
file is never altered or deleted, and generated data never stands in for real data unless `data.source=toy` asks so.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import http.client
import json
import lzma
import os
import re
import secrets
import shutil
import sys
import tarfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from paddlecore import __version__
from paddlecore.errors import DataError
from paddlecore.files import CHUNK, flush, sha256_of

try:
    import fcntl
except ImportError:  # Windows: no lock, so each process fetches into a part file of its own
    fcntl = None  # type: ignore[assignment]

PROGRESS = 1 << 20  # bytes that an attempt must bring to count as progress
REMEMBER = 1 << 20  # files of fewer bytes are hashed each time: that takes no longer than looking the result up
MAX_BYTES = 1 << 40  # of one unpacked archive
MAX_FILES = 5_000_000
MAX_RATIO = 200.0  # unpacked / packed; text and masks reach 20 to 50, deflate cannot exceed about 1030
RATIO_FROM = 16 << 20  # unpacked bytes below which the ratio is not looked at

_TAR_READERS: dict[str, Any] = {
    "tar": open, "tar.gz": gzip.open, "tgz": gzip.open, "tar.bz2": bz2.open, "tbz2": bz2.open, "tbz": bz2.open,
    "tar.xz": lzma.open, "txz": lzma.open,
}  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_HEADER = 1 << 20  # bytes of one tar name or attribute header; tarfile reads each into memory whole
_HELP = "or ask for generated data with data.source=toy, or for your own with data.source=<path>"


def _relative(path: str) -> bool:
    """A plain path below some folder, the same on every system."""
    return bool(path) and not re.search(r'[\\:*?"<>|\x00-\x1f]', path) and not {"", ".", ".."} & set(path.split("/"))


@dataclass(frozen=True)
class File:
    """One file of a data set, as published.

    Args:
        name: path below the source's folder.
        sha256: of the whole file, 64 lower-case hex digits.
        size: bytes.
        urls: http(s) addresses, the official one first, then mirrors; empty where the licence wants a person to ask.
            One that ends in .gz, where the name does not, is unpacked as it arrives.
    """

    name: str
    sha256: str
    size: int
    urls: tuple[str, ...] = ()

    @classmethod
    def at(cls, bases: str | Sequence[str], name: str, sha256: str, size: int) -> File:
        """One whose addresses are `bases` with its name in the place of {}."""
        return cls(name, sha256, size, tuple(b.format(name) for b in ([bases] if isinstance(bases, str) else bases)))

    def __post_init__(self) -> None:
        if not _relative(self.name):
            raise ValueError(f"name must be a relative path with '/': {self.name!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: sha256 must be 64 lower-case hex digits: {self.sha256!r}")
        if self.size < 0 or isinstance(self.urls, str):
            raise ValueError(f"{self.name}: size must not be negative, urls must be a tuple")


@dataclass(frozen=True)
class Source:
    """A data set: its files, where they belong, on what terms, and how a person gets them.

    Args:
        name: as people call it.
        folder: below the data root, for example `rec/frappe`.
        files: all of them are needed.
        licence: what it allows, in a line.
        homepage: of the publisher.
        manual: steps to get the files by hand, one a line.
    """

    name: str
    folder: str
    files: tuple[File, ...]
    licence: str
    homepage: str
    manual: str

    def __post_init__(self) -> None:
        if not _relative(self.folder):
            raise ValueError(f"folder must be a relative path with '/': {self.folder!r}")
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError(f"{self.name}: two files have the same name")
        if not (self.licence.strip() and self.homepage.startswith("http") and self.manual.strip()):
            raise ValueError(f"{self.name}: say its licence, its homepage and the steps by hand")


def data_root() -> Path | None:
    """PADDLE_DATA, else the user's cache folder; None where there is neither (no home folder)."""
    if given := os.environ.get("PADDLE_DATA"):
        return Path(os.path.abspath(os.path.expanduser(given)))
    cache = cache_folder()
    return cache / "data" if cache else None


def offline() -> bool:
    """True if PADDLE_OFFLINE is set: then nothing here opens a connection."""
    return os.environ.get("PADDLE_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def cache_folder() -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the XDG specification says to ignore a relative one
        return Path(given) / "paddle-suite"
    try:
        return Path.home() / ".cache" / "paddle-suite"
    except RuntimeError:
        return None


def report() -> dict[str, Any]:
    """What `paddlesuite doctor` shows of the data root."""
    root = data_root()
    facts: dict[str, Any] = {
        "data root": str(root) if root else "none",
        "given by": "PADDLE_DATA" if os.environ.get("PADDLE_DATA") else "default (set PADDLE_DATA to change it)",
        "state": "does not exist yet",
        "offline": "yes (PADDLE_OFFLINE)" if offline() else "no",
    }
    if root and root.is_dir():
        writable = "writable" if os.access(root, os.W_OK) else "read-only"
        facts["state"] = f"{writable}, {shutil.disk_usage(root).free / 2**30:.1f} GB free"
    return facts


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------ hashes


def _remembered_sha256(path: Path) -> str:
    """As `sha256_of`, but a file whose path, size and mtime are those of an earlier call is not read again.

    The memory is one small file an entry in the user's cache folder, so the data root may be read-only. Where the
    cache cannot be written, the file is hashed each time.
    """
    stat, cache = path.stat(), cache_folder()
    if stat.st_size < REMEMBER or cache is None:
        return sha256_of(path)
    key = f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}"
    entry = cache / "sha256" / hashlib.sha256(os.fsencode(key)).hexdigest()
    try:
        known = entry.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{64}", known):
            return known
    except (OSError, ValueError):
        pass
    digest = sha256_of(path)
    keep_in_cache(entry, lambda part: part.write_text(digest, encoding="ascii"))
    return digest


def keep_in_cache(entry: Path, write: Callable[[Path], object]) -> None:
    """Make a file of the user's cache, whole or not at all, where it can be written; other processes may do the same.

    `write` is given the path to make it under, which ends like `entry`.
    """
    part = entry.with_name(f"{entry.stem}.{secrets.token_hex(4)}{entry.suffix}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, entry)
    except OSError:
        pass  # no room, or no right to write: it is made again next time


SPLITS = {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}
"""What the file or folder of a split may be called."""


def only(split: str, found: Sequence[Path]) -> Path | None:
    """The one file or folder of a split; None if there is none.

    Raises:
        DataError: there are several, and one would go unseen.
    """
    if len(found) > 1:
        raise DataError(f"there is more than one {split}: {' and '.join(map(str, found))}; keep one")
    return found[0] if found else None


def split_files(
    source: Path, fits: Callable[[Path], object], kinds: str, needed: Sequence[str] = ("train",)
) -> dict[str, Path]:
    """The file of each split in the user's folder `source`: train.csv, test.tsv.gz and the like; see `SPLITS`.

    Args:
        source: what `data.source` names.
        fits: is this path of a kind that can be read?
        kinds: what `fits` accepts, in words.
        needed: splits without which the folder is refused.

    Raises:
        DataError: there is no such folder, it lacks a needed split, or has several files of one.
    """
    if source.is_file():
        raise DataError(f"data.source={source} is a file: give the folder that holds those of train, valid and test")
    if not source.is_dir():
        raise DataError(f"data.source={source}: there is no such file or folder")
    there = sorted(source.iterdir())
    files: dict[str, Path] = {}
    for split, names in SPLITS.items():
        file = only(split, [path for path in there if path.name.split(".")[0] in names and fits(path)])
        if file is not None:
            files[split] = file
    if not set(needed) <= files.keys():
        must = " and ".join(f"a {split}" for split in needed)
        may = " and ".join(split for split in ("valid", "test") if split not in needed)
        shown = ", ".join(path.name for path in there[:20]) or "nothing"
        raise DataError(f"{source} must hold {must} file (and may hold {may}), each {kinds}; it holds {shown}")
    return files


def fingerprint(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One sha256 for the names and contents of several files; folders count with all the files below them.

    It depends neither on where the files lie nor on the order of `paths`, so it is the same on every machine.

    Raises:
        DataError: a path does not exist, or cannot be read.
    """
    entries = []
    for path in map(Path, paths):
        below = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        try:
            entries += [(p.relative_to(path.parent).as_posix(), _remembered_sha256(p)) for p in below]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from None
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def _check(path: Path, file: File) -> None:
    try:
        size = path.stat().st_size
        if size != file.size:
            expected, got = f"{file.size} bytes", f"{size} bytes"
        elif (digest := _remembered_sha256(path)) == file.sha256:
            return
        else:
            expected, got = f"sha256 {file.sha256}", f"sha256 {digest}"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    raise DataError(
        f"{path} is not the published file: expected {expected}, got {got}. It is damaged, incomplete or another "
        "version; move it away and run again, or put the right file in its place"
    )


# ------------------------------------------------------------------------------------------------------ locate


def locate(source: Source) -> Path:
    """The folder in which all files of `source` lie, fetched first if need be, each with the declared size and sha256.

    Raises:
        DataError: a file is not as declared, or is missing and cannot be fetched. The message holds the licence, the
            steps to get the files by hand, and the places where they are expected.
    """
    root = data_root()
    if root is None:
        raise DataError("there is no home folder to keep data in; set PADDLE_DATA to a folder")
    if os.environ.get("PADDLE_DATA") and not root.is_dir():
        raise DataError(f"PADDLE_DATA={os.environ['PADDLE_DATA']} is not a folder; create it, or correct the variable")
    folder = root / source.folder
    missing = [file for file in source.files if not (folder / file.name).is_file()]
    for file in source.files:  # first of all: a damaged neighbour would make the download useless
        if file not in missing:
            _check(folder / file.name, file)
    if missing:
        _fetch_missing(source, missing, folder)
    return folder


def published(source: Source) -> dict[str, Path]:
    """The files of `source` under the data root by name, fetched if need be; .gz files of the same content will do.

    Raises:
        DataError: a file is missing and cannot be fetched, or has other content than the published one.
    """
    root = data_root()
    folder = root / source.folder if root else None
    if folder and all((folder / f"{file.name}.gz").is_file() for file in source.files):
        packed = {file.name: folder / f"{file.name}.gz" for file in source.files}
        for file in source.files:
            digest = hashlib.sha256()
            try:
                with gzip.open(packed[file.name]) as stream:
                    while piece := stream.read(1 << 20):
                        digest.update(piece)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{packed[file.name]} is damaged: {error}") from None
            if digest.hexdigest() != file.sha256:
                raise DataError(
                    f"{packed[file.name]} is not the published file: its content has sha256 {digest.hexdigest()}, "
                    f"expected {file.sha256}; move it away and run again, or put the right file in its place"
                )
        return packed
    folder = locate(source)
    return {file.name: folder / file.name for file in source.files}


def _fetch_missing(source: Source, missing: list[File], folder: Path) -> None:
    by_hand = [file.name for file in missing if not file.urls]
    why = ""
    if by_hand:
        why = f"{', '.join(by_hand)} may not or cannot be fetched automatically"
    elif offline():
        why = "PADDLE_OFFLINE is set, so there is no network access"
    else:
        _say(f"{source.name}: fetching {len(missing)} file(s) into {folder}; licence: {source.licence}")
        try:
            for file in missing:
                download(file, folder)
        except DataError as error:
            why = str(error)
    if why:
        still = [file for file in missing if not (folder / file.name).is_file()]
        places = [f"    {folder / file.name}  ({file.size} bytes, sha256 {file.sha256})" for file in still]
        steps = [f"    {line}" for line in source.manual.strip().splitlines()]
        raise DataError("\n".join([
            f"{source.name}: {len(still)} of {len(source.files)} files missing: {why}",
            f"  licence: {source.licence}", f"  homepage: {source.homepage}", "  to get it by hand:", *steps,
            "  expected here:", *places, f"  {_HELP}",
        ]))  # fmt: skip


def unpacked(source: Source, name: str) -> Path:
    """The folder with the content of the archive `name` of `source`, fetched and unpacked first if need be.

    It lies in the user's cache folder (XDG_CACHE_HOME moves that): the data root holds published files alone. It has
    the start of the archive's hash in its name, so another version never meets the content of an old one.

    Raises:
        DataError: as by `locate`, or the archive is refused by `unpack`.
    """
    archive, cache = locate(source) / name, cache_folder()
    if cache is None:
        raise DataError("there is no home folder to unpack into; set XDG_CACHE_HOME to a folder")
    digest = next(file.sha256 for file in source.files if file.name == name)
    place = cache / "unpacked" / source.folder / f"{archive.name.split('.')[0]}-{digest[:12]}"
    if place.is_dir():
        return place
    try:
        return unpack(archive, place)
    except DataError:
        if place.is_dir():  # another process was faster
            return place
        raise


# ------------------------------------------------------------------------------------------------------ download


class _Failed(Exception):
    """An address did not give the file; `again`: trying once more may help."""

    def __init__(self, why: str, *, again: bool = True) -> None:
        super().__init__(why)
        self.again = again


def download(
    file: File, folder: str | os.PathLike[str], *, timeout: float = 30.0, tries: int = 4, backoff: float = 1.0
) -> Path:
    """Fetch `file` into `folder` and return its path. The path exists only once the content is whole and right.

    Bytes go to `.<name>.part`, and a later call goes on where an earlier one ended if the server still has the same
    version (its ETag or Last-Modified is kept beside the part). Several processes may call this at once: one fetches,
    the others wait for it.

    Args:
        timeout: seconds without a byte after which a connection is given up.
        tries: attempts in a row on one address; one that brought at least 1 MiB more does not count.
        backoff: seconds before the second attempt; doubled for each one after it, up to a minute.

    Raises:
        DataError: PADDLE_OFFLINE is set, the disk is full, a wrong file is in the place, or every address failed
            (the message has the cause for each).
    """
    target = Path(folder) / file.name
    if offline():
        raise DataError(f"PADDLE_OFFLINE is set, so {file.name} is not fetched; unset it, or put the file at {target}")
    try:
        with exclusive(target) as part:
            if target.exists():
                _check(target, file)
                return target
            causes = []
            begun = _record(part).get("url")
            for url in sorted(file.urls, key=lambda url: url != begun):  # the one that a part file came from first
                try:
                    _fetch(url, file, part, timeout=timeout, tries=tries, backoff=backoff)
                except _Failed as failed:
                    causes.append(f"\n    {url}: {failed}")
                    continue
                os.replace(part, target)
                _forget(part)
                flush(target.parent)
                return target
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DataError(
                f"the disk is full: {file.name} needs {file.size / 2**20:.1f} MiB in {target.parent}. Free some space "
                "and run again (it goes on from what is there), or set PADDLE_DATA to a folder on another disk"
            ) from None
        raise DataError(f"{target} cannot be written: {error}") from None
    raise DataError(f"{file.name} could not be fetched:{''.join(causes) or ' it has no address'}")


def _fetch(url: str, file: File, part: Path, *, timeout: float, tries: int, backoff: float) -> None:
    """Bring `part` to the declared size and hash from one address, in as many attempts as it takes."""
    best, failures = _size(part), 0
    while True:
        try:
            resumed = _attempt(url, file, part, timeout)
            digest = sha256_of(part)
            if digest == file.sha256:
                return
            _forget(part)
            # What an earlier process left may be what was wrong, so a resumed file is fetched once more, whole.
            raise _Failed(f"wrong content: expected sha256 {file.sha256}, got {digest}", again=resumed)
        except _Failed as failed:
            if not failed.again:
                raise
            progress = _size(part) - best >= PROGRESS
            best, failures = max(best, _size(part)), 1 if progress else failures + 1
            if failures >= tries:
                raise _Failed(f"{failed} (gave up after {failures} attempts)") from None
        time.sleep(min(backoff * 2 ** (failures - 1), 60.0))


def _attempt(url: str, file: File, part: Path, timeout: float) -> bool:
    """One request, its body written to `part`. Returns whether bytes of an earlier request are among the result."""
    record = _record(part)
    packed = url.endswith(".gz") and not file.name.endswith(".gz")  # cannot be gone on with in the middle
    have = _size(part) if record.get("url") == url and record.get("validator") and not packed else 0
    if have == file.size > 0:
        return True
    if have > file.size:
        have = 0
    headers = {"User-Agent": f"paddle-suite/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": record["validator"]}
    try:
        with _open(urllib.request.Request(url, headers=headers), timeout) as response:
            if response.status == 206:
                span = response.headers.get("Content-Range", "")
                if not have or not re.fullmatch(rf"bytes {have}-\d+/({file.size}|\*)", span.strip()):
                    _forget(part)
                    raise _Failed(f"asked for the bytes from {have} on, got {span or 'no Content-Range'!r}")
            elif response.status == 200:
                have = 0  # the server ignores Range, or has another version now
            else:
                raise _Failed(f"HTTP {response.status} {response.reason}", again=False)
            length = response.headers.get("Content-Length", "")
            # of a range a server may send the beginning only (RFC 9110, section 15.3.7): the next attempt goes on there
            if not have and not packed and length.isdecimal() and int(length) != file.size:
                raise _Failed(f"has {length} bytes, expected {file.size}", again=False)
            if not have:
                part.write_bytes(b"")
                _remember(part, url, response.headers)
            _receive(response, file, part, have, timeout, zlib.decompressobj(wbits=31) if packed else None)
            return have > 0
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                _forget(part)
            again = error.code in (408, 416, 425, 429) or error.code >= 500
            raise _Failed(f"HTTP {error.code} {error.reason}", again=again) from None
    except _Network as error:
        raise _Failed(str(error)) from None


def _receive(
    response: http.client.HTTPResponse, file: File, part: Path, have: int, timeout: float, gzipped: Any = None
) -> None:
    with open(part, "ab", buffering=0) as out, _bar(file, have) as bar:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _Network.of(error, timeout) from None
            if not chunk:
                break
            if gzipped is not None:
                try:  # a byte more than there may be is enough to see that there are too many
                    chunk = gzipped.decompress(gzipped.unconsumed_tail + chunk, file.size - have + 1)
                except zlib.error as error:
                    raise _Failed(f"is not in gzip's format ({error})", again=False) from None
            have += len(chunk)
            if have > file.size:
                _forget(part)
                raise _Failed(f"sends more than the expected {file.size} bytes", again=False)
            view = memoryview(chunk)
            while view:  # a raw write may take less than it is given, as when the disk fills up
                view = view[out.write(view) :]
            if bar is not None:
                bar.update(len(chunk))
        os.fsync(out.fileno())
    if have < file.size:
        raise _Network(f"the connection ended after {have} of {file.size} bytes")


class _Network(Exception):
    """A connection failed. Told apart from OSError, which in a download is about the disk."""

    @classmethod
    def of(cls, error: Exception, timeout: float) -> _Network:
        reason = getattr(error, "reason", error)
        return cls(f"no data for {timeout:g} s" if isinstance(reason, TimeoutError) else f"{reason or error!r}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_http(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_http(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme.lower() not in ("http", "https"):
        raise _Failed(f"refused {url}: only http and https are allowed", again=False)


def _open(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """Open http(s) and nothing else: unlike urllib's usual opener, this one has no handler for file, ftp or data."""
    _require_http(request.full_url)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
        return response
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Network.of(error, timeout) from None


def _bar(file: File, have: int) -> AbstractContextManager[Any]:
    if not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    return tqdm(total=file.size, initial=have, desc=file.name, unit="B", unit_scale=True, unit_divisor=1024)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _beside(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, url: str, headers: http.client.HTTPMessage) -> None:
    """Keep what tells this version of the file from another. A weak ETag cannot (RFC 9110, section 13.1.5)."""
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    _beside(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _record(part: Path) -> dict[str, str]:
    try:
        record = json.loads(_beside(part).read_text(encoding="utf-8"))
        return {key: record[key] for key in ("url", "validator") if isinstance(record[key], str)}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


@contextmanager
def exclusive(target: Path) -> Iterator[Path]:
    """Hold the right to make `target`, waiting for another process that has it; gives the path to make it under.

    The lock goes with the process, also when that is killed. Where the system has no locks the path is unique.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    handle = _lock(path)
    try:
        unique = "" if handle is not None else f".{secrets.token_hex(4)}"
        yield target.with_name(f".{target.name}{unique}.part")  # hidden: a browser's `<name>.part` is not ours
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # before the lock goes: `_lock` sees that the file it waited for is gone
            os.close(handle)


def _lock(path: Path) -> int | None:
    while fcntl is not None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"waiting for another process that makes {path.name[1:-5]}")
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
    return None


# ------------------------------------------------------------------------------------------------------ unpack


def unpack(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    max_ratio: float = MAX_RATIO,
) -> Path:
    """Unpack a .zip, .tar (also .gz, .bz2, .xz) or a single .gz file into the new folder `folder`, and return it.

    The content is not trusted. Only plain files and folders are made, with plain permissions; an archive with anything
    else in it (links, devices, paths that lead out, encrypted or sparse entries, names that are the same on another
    system) is refused as a whole. `folder` appears when everything is in it.

    Args:
        max_bytes: of the unpacked stream, counted while it is read: declared sizes are not believed.
        max_files: files and folders.
        max_ratio: unpacked bytes / bytes of the archive, looked at from 16 MiB on.

    Raises:
        DataError: the archive is refused, damaged or of an unknown kind, `folder` exists, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    ending = next((e for e in ("zip", *_TAR_READERS, "gz") if archive.name.lower().endswith(f".{e}")), None)
    if ending is None:
        raise DataError(f"{archive}: not a kind of archive that can be unpacked (.zip, .tar[.gz|.bz2|.xz], .gz)")
    try:
        with exclusive(folder) as part:
            if folder.exists():
                raise DataError(f"{folder} exists already; {archive} is unpacked into a new folder only")
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            part.mkdir()
            try:
                inside = _Inside(archive, part, max_bytes, max_files, max_ratio)
                if ending == "zip":
                    _unzip(archive, inside)
                elif ending == "gz":
                    with gzip.open(archive) as stream:
                        inside.file(archive.name[:-3], _Counted(stream, inside))
                else:
                    with _TAR_READERS[ending](archive, "rb") as stream:
                        _untar(stream, inside)
                os.rename(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DataError(f"the disk is full: {archive} cannot be unpacked into {folder.parent}") from None
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error}") from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, LookupError,
            OverflowError, NotImplementedError, RuntimeError) as error:  # fmt: skip
        raise DataError(f"{archive} is damaged: {error}") from None
    return folder


class _Inside:
    """The folder that is being filled, and what may still go into it."""

    def __init__(self, archive: Path, root: Path, max_bytes: int, max_files: int, max_ratio: float) -> None:
        self.archive, self.root = archive, root
        self.max_bytes, self.max_files, self.max_ratio = max_bytes, max_files, max_ratio
        self.packed, self.bytes = archive.stat().st_size, 0
        self.seen: dict[str, tuple[str, bool]] = {}  # path as a careless file system sees it -> (path, is a folder)

    def refuse(self, name: str, why: str) -> NoReturn:
        raise DataError(f"{self.archive} is refused: entry {name[:300]!r} {why}. Nothing of it was unpacked")

    def count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.max_bytes:
            raise DataError(f"{self.archive} is refused: it unpacks to more than {self.max_bytes} bytes")
        if self.bytes > max(RATIO_FROM, self.max_ratio * self.packed):
            raise DataError(f"{self.archive} is refused: it unpacks to more than {self.max_ratio:g} times its size")

    def place(self, name: str, *, is_folder: bool) -> Path:
        """The path for an entry called `name`, checked."""
        if name.startswith("/") or re.match("[A-Za-z]:", name):
            self.refuse(name, "has an absolute path")
        if "\\" in name or re.search(r"[\x00-\x1f]", name):
            self.refuse(name, "has a backslash or control character in its name")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            self.refuse(name, "leads out of the folder ('..')")
        if len(os.fsencode(name)) > 4096 or any(len(os.fsencode(part)) > 255 for part in parts):
            self.refuse(name, "has too long a name")
        if not parts and not is_folder:
            self.refuse(name, "has no name")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            here = (path, is_folder or depth < len(parts))
            key = unicodedata.normalize("NFC", path).casefold()
            known = self.seen.get(key)
            if known is None:
                self.seen[key] = here
            elif known[0] != path:
                self.refuse(name, f"differs from {known[0]!r} only in case or accents' encoding")
            elif known != here or not here[1]:
                self.refuse(name, "is in it twice")
        if len(self.seen) > self.max_files:
            raise DataError(f"{self.archive} is refused: it has more than {self.max_files} entries")
        return self.root.joinpath(*parts)

    def folder(self, name: str) -> None:
        self.place(name, is_folder=True).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, stream: Any) -> None:
        path = self.place(name, is_folder=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as out:
            shutil.copyfileobj(stream, out, CHUNK)


class _Counted:
    """A stream that counts what is read from it against the caps of `inside`."""

    def __init__(self, stream: Any, inside: _Inside) -> None:
        self.stream, self.inside = stream, inside

    def read(self, size: int = CHUNK) -> bytes:
        data = self.stream.read(size)
        self.inside.count(len(data))
        return data


def _unzip(archive: Path, inside: _Inside) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            name, kind = entry.orig_filename, (entry.external_attr >> 16) & 0o170000
            if entry.flag_bits & 0x1:
                inside.refuse(name, "is encrypted")
            if kind not in (0, 0o100000, 0o040000):
                inside.refuse(name, "is a link or device")
            # With the other methods zipfile may unpack a block of any size in memory, before a cap can be applied.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                inside.refuse(name, f"has compression method {entry.compress_type}, only stored and deflate are read")
            if name.endswith("/"):
                inside.folder(name)
            else:
                with file.open(entry) as stream:
                    inside.file(name, _Counted(stream, inside))


class _Entry(tarfile.TarInfo):
    """A tar header that is checked before tarfile acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        try:
            entry = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):  # a zero block ends the archive; after a damaged one tarfile would end in silence
                raise ValueError(f"bad tar header: {error}") from None
            raise
        headers = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                   tarfile.GNUTYPE_LONGLINK)  # fmt: skip
        if entry.type in headers and entry.size > _MAX_HEADER:
            raise ValueError(f"a header of {entry.size} bytes")
        return entry


def _untar(stream: IO[bytes], inside: _Inside) -> None:
    counted: Any = _Counted(stream, inside)  # all of tar's own headers count too
    with tarfile.open(fileobj=counted, mode="r|", tarinfo=_Entry) as file:
        while (entry := file.next()) is not None:
            file.members = []  # type: ignore[attr-defined] # tarfile keeps every header it has seen
            if entry.issym() or entry.islnk():
                inside.refuse(entry.name, f"is a link to {entry.linkname[:300]!r}")
            elif entry.isdir():
                inside.folder(entry.name)
            elif entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse():
                inside.file(entry.name, file.extractfile(entry))
            else:
                inside.refuse(entry.name, "is a device, pipe or sparse file")
