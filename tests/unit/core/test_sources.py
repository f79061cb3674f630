"""Data is fetched, checked and unpacked as declared or not at all; against a local server and hostile archives."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from paddlecore import sources
from paddlecore.errors import DataError
from paddlecore.files import sha256_of
from paddlecore.sources import File, Source, download, fingerprint, locate, unpack, unpacked

ROOT = Path(__file__).resolve().parents[3]
BODY = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request with the next of the path's `script` (the last one again and again); records requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: dict[str, list[Callable[[Handler], None]]] = {}
        self.seen: list[tuple[str, str | None]] = []  # (path, Range)
        self.sent = 0  # bytes of bodies

    def url(self, path: str, *answers: Callable[[Handler], None]) -> str:
        self.script[path] = list(answers)
        return f"http://127.0.0.1:{self.server_port}{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [span for _, span in self.seen]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Range")))
        script = self.server.script[self.path]
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.write(body)

    def write(self, data: bytes) -> None:
        # counted before it is written: the client may have read it all, and the test looked, before this thread goes on
        self.server.sent += len(data)
        self.wfile.write(data)


def serve(
    body: bytes = BODY, *, etag: str = '"one"', cut: int | None = None, ranges: bool = True, pause: float = 0
) -> Callable[[Handler], None]:
    """A correct server for `body`, that may close the connection after `cut` bytes or wait `pause` s before them."""

    def answer(handler: Handler) -> None:
        span, status, start, headers = handler.headers.get("Range"), 200, 0, {"ETag": etag}
        if ranges and span and handler.headers.get("If-Range", etag) == etag:
            status, start = 206, int(span.removeprefix("bytes=").removesuffix("-"))
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        data = body[start:]
        handler.reply(status, b"", Content_Length=str(len(data)), **headers)
        time.sleep(pause)
        handler.write(data if cut is None else data[:cut])

    return answer


def status(code: int) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(code, b"<html>no</html>")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PADDLE_OFFLINE", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PADDLE_DATA", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PADDLE_OFFLINE", raising=False)
    return folder


def file(*urls: str, body: bytes = BODY, name: str = "a.bin") -> File:
    return File(name, hashlib.sha256(body).hexdigest(), len(body), urls)


def fetch(target: File, folder: Path, **options: Any) -> Path:
    return download(target, folder, **({"backoff": 0.0, "timeout": 5.0, "tries": 3} | options))


def fetching(target: File) -> str:
    """Code for another process."""
    return f"import sys; from paddlecore.sources import File, download; print(download({target!r}, sys.argv[1]))"


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def source(*files: File, folder: str = "rec/set") -> Source:
    return Source("Set", folder, files, "research only", "https://example.org", "1. ask the authors\n2. wait")


# ---------------------------------------------------------------------------------------------------- download


def test_good_download_leaves_the_file_alone_in_its_folder(server: Server, tmp_path: Path) -> None:
    path = fetch(file(server.url("/a", serve())), tmp_path / "new" / "folder")
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["a.bin"]
    fetch(file(server.url("/a", serve())), path.parent)  # there already: no request
    assert server.ranges == [None]


def test_a_cut_transfer_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    path = fetch(file(server.url("/a", serve(cut=100_000), serve(cut=50_000), serve())), tmp_path)
    assert path.read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent == len(BODY)


def test_a_later_call_goes_on_too_and_a_finished_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    wanted = file(server.url("/other", status(404)), server.url("/a", serve(cut=100_000), serve()))
    with pytest.raises(DataError, match="100000 of 300000 bytes"):
        fetch(wanted, tmp_path, tries=1)
    assert names(tmp_path) == [".a.bin.part", ".a.bin.part.json"]
    record = (tmp_path / ".a.bin.part.json").read_bytes()
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    # the address that the part came from is asked first
    assert server.seen == [("/other", None), ("/a", None), ("/a", "bytes=100000-")]

    (tmp_path / "a.bin").rename(tmp_path / ".a.bin.part")  # as if killed before the rename
    (tmp_path / ".a.bin.part.json").write_bytes(record)
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    assert len(server.seen) == 3


def test_a_server_that_sends_a_range_in_pieces_is_asked_for_each(server: Server, tmp_path: Path) -> None:
    def piece(handler: Handler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = min(start + 100_000, len(BODY))
        handler.reply(206, BODY[start:end], ETag='"one"', Content_Range=f"bytes {start}-{end - 1}/{len(BODY)}")

    assert fetch(file(server.url("/a", serve(cut=50_000), piece)), tmp_path, tries=9).read_bytes() == BODY
    assert server.ranges == [None, *(f"bytes={start}-" for start in (50_000, 150_000, 250_000))]
    assert server.sent == len(BODY)


def test_a_length_that_is_no_number_is_passed_over(server: Server, tmp_path: Path) -> None:
    odd = server.url("/a", lambda handler: handler.reply(200, BODY, Content_Length="\u00b2", Connection="close"))
    assert fetch(file(odd), tmp_path).read_bytes() == BODY


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    path = fetch(file(server.url("/a", serve(cut=100_000), serve(ranges=False))), tmp_path)
    assert path.read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-"]
    assert server.sent == len(BODY) + 100_000


def test_another_version_on_the_server_is_never_joined_to_the_first(server: Server, tmp_path: Path) -> None:
    old = bytes(len(BODY))
    path = fetch(file(server.url("/a", serve(old, cut=100_000), serve(etag='"two"'))), tmp_path)
    assert path.read_bytes() == BODY
    assert server.sent == len(BODY) + 100_000


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_there_is_no_resuming(server: Server, tmp_path: Path, etag: str) -> None:
    assert fetch(file(server.url("/a", serve(cut=9, etag=etag), serve(etag=etag))), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, None]


def test_last_modified_serves_where_there_is_no_etag(server: Server, tmp_path: Path) -> None:
    def first(handler: Handler) -> None:
        date = "Tue, 03 Nov 2015 08:00:00 GMT"
        handler.reply(200, BODY[:10], Content_Length=str(len(BODY)), Last_Modified=date)

    def second(handler: Handler) -> None:
        assert handler.headers["If-Range"] == "Tue, 03 Nov 2015 08:00:00 GMT"
        handler.reply(206, BODY[10:], Content_Range=f"bytes 10-{len(BODY) - 1}/{len(BODY)}")

    assert fetch(file(server.url("/a", first, second)), tmp_path, tries=2).read_bytes() == BODY


def test_416_and_a_wrong_content_range_start_over(server: Server, tmp_path: Path) -> None:
    def shifted(handler: Handler) -> None:
        handler.reply(206, BODY[5:], Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}", ETag='"one"')

    url = server.url("/a", serve(cut=10), status(416), serve(cut=20), shifted, serve())
    assert fetch(file(url), tmp_path, tries=9).read_bytes() == BODY
    assert server.ranges == [None, "bytes=10-", None, "bytes=20-", None]


def test_a_damaged_part_is_found_out_and_fetched_again_whole(server: Server, tmp_path: Path) -> None:
    wanted = file(server.url("/a", serve(cut=100), serve()))
    with pytest.raises(DataError):
        fetch(wanted, tmp_path, tries=1)
    (tmp_path / ".a.bin.part").write_bytes(bytes(100))  # what a power cut may leave
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=100-", None]


def test_wrong_content_leads_to_the_next_address(server: Server, tmp_path: Path) -> None:
    wanted = file(server.url("/bad", serve(bytes(len(BODY)))), server.url("/good", serve()))
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    assert [path for path, _ in server.seen] == ["/bad", "/good"]  # wrong content is not asked for twice


def test_a_packed_address_is_unpacked_as_it_arrives(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(BODY)
    url = server.url("/a.bin.gz", serve(packed, cut=20_000), serve(packed))
    file = File.at(url.replace("a.bin", "{}"), "a.bin", SHA, len(BODY))
    assert fetch(file, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, None]  # it does not go on in the middle of a packed stream
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "body, why",
    [
        (BODY, "not in gzip's format"),
        (gzip.compress(BODY + b"!"), "more than the expected"),
        (gzip.compress(bytes(1 << 28)), "more than the expected"),  # unpacks to a thousand times its size
        (gzip.compress(BODY)[:-9], "the connection ended"),
        (gzip.compress(BODY[::-1]), "wrong content"),
    ],
)
def test_what_a_packed_address_may_not_be(server: Server, tmp_path: Path, body: bytes, why: str) -> None:
    file = File("a.bin", SHA, len(BODY), (server.url("/a.bin.gz", serve(body)),))
    with pytest.raises(DataError, match=why):
        fetch(file, tmp_path, tries=1)
    assert not (tmp_path / "a.bin").exists()


def test_when_all_addresses_fail_each_is_named_with_its_cause(server: Server, tmp_path: Path) -> None:
    def too_much(handler: Handler) -> None:  # without a length: found out while it comes
        handler.reply(200, BODY + b"!", Content_Length="", ETag='"x"')

    def stalled(handler: Handler) -> None:
        handler.reply(200, b"some", Content_Length=str(len(BODY)))
        time.sleep(0.5)

    causes = {
        server.url("/gone", status(404)): "HTTP 404 Not Found",
        server.url("/broken", status(500)): r"HTTP 500 .*gave up after 2 attempts",
        server.url("/larger", serve(BODY + b"!")): "has 300001 bytes, expected 300000",
        server.url("/endless", too_much): "sends more than the expected 300000 bytes",
        server.url("/wrong", serve(bytes(len(BODY)))): f"wrong content: expected sha256 {SHA}, got [0-9a-f]{{64}}",
        server.url("/stalled", stalled): "no data for 0.1 s",
        server.url("/empty", lambda h: h.reply(204)): "HTTP 204",
        server.url("/file", lambda h: h.reply(302, Location="file:///etc/passwd")): "(?i)redirection to url 'file",
        server.url("/ftp", lambda h: h.reply(301, Location="ftp://127.0.0.1/a")): "only http and https",
        "file:///etc/passwd": "only http and https",
        "http://127.0.0.1:1/closed": "refused",
        "http://": "gave up",
    }
    with pytest.raises(DataError) as caught:
        fetch(file(*causes), tmp_path, timeout=0.1, tries=2)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(causes)
    for line, (url, cause) in zip(lines, causes.items(), strict=True):
        assert line.strip().startswith(url + ": ")
        with pytest.raises(AssertionError, match=cause):
            raise AssertionError(line)
    asked = [path for path, _ in server.seen]
    assert asked.count("/gone") == 1  # what will not change is not asked for again
    assert asked.count("/broken") == 2
    assert not (tmp_path / "a.bin").exists()


def test_a_redirect_within_http_is_followed_and_keeps_the_range(server: Server, tmp_path: Path) -> None:
    there = server.url("/there", serve(cut=1000), serve())
    here = server.url("/here", lambda handler: handler.reply(302, Location=there))
    assert fetch(file(here), tmp_path).read_bytes() == BODY
    assert server.seen[-1] == ("/there", "bytes=1000-")


def test_attempts_that_bring_data_do_not_count(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PROGRESS", 50_000)
    assert fetch(file(server.url("/a", serve(cut=60_000))), tmp_path, tries=2).read_bytes() == BODY
    assert len(server.seen) == 5


def test_waiting_doubles(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(sources.time, "sleep", waits.append)
    with pytest.raises(DataError):
        fetch(file(server.url("/a", status(503))), tmp_path, tries=9, backoff=1.0)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_offline_opens_no_connection(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_OFFLINE", "1")
    wanted = file(server.url("/a", serve()))
    with pytest.raises(DataError, match="PADDLE_OFFLINE"):
        fetch(wanted, root)
    with pytest.raises(DataError, match="PADDLE_OFFLINE"):
        locate(source(wanted))
    assert server.seen == []
    assert names(root) == []
    monkeypatch.setenv("PADDLE_OFFLINE", "0")
    assert not sources.offline()


def test_a_full_disk_is_named_and_the_part_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wanted = file(server.url("/a", serve()))
    monkeypatch.setattr(sources.os, "fsync", full)  # where a delayed allocation reports it
    with pytest.raises(DataError, match="the disk is full: a.bin needs 0.3 MiB"):
        fetch(wanted, tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert names(tmp_path) == [".a.bin.part", ".a.bin.part.json"]
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    assert server.sent == len(BODY)


def test_a_disk_that_fills_up_while_writing(server: Server, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / ".a.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="the disk is full"):
        fetch(file(server.url("/a", serve())), tmp_path)


def test_a_write_that_takes_less_than_it_is_given_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:9999])

    def opened(path: Any, mode: str, **options: Any) -> Any:
        return Short(path, mode) if mode == "ab" else open(path, mode, **options)

    monkeypatch.setattr(sources, "open", opened, raising=False)
    assert fetch(file(server.url("/a", serve())), tmp_path).read_bytes() == BODY
    assert len(server.seen) == 1


def test_a_killed_process_leaves_neither_a_lock_nor_lost_bytes(server: Server, tmp_path: Path) -> None:
    def hangs(handler: Handler) -> None:
        handler.reply(200, BODY[:100_000], Content_Length=str(len(BODY)), ETag='"one"')
        time.sleep(5)

    wanted = file(server.url("/a", hangs, serve()))
    job = subprocess.Popen([sys.executable, "-c", fetching(wanted), str(tmp_path)], cwd=ROOT)
    part, end = tmp_path / ".a.bin.part", time.monotonic() + 20
    while not (part.exists() and part.stat().st_size == 100_000) and time.monotonic() < end:
        time.sleep(0.01)
    job.kill()
    job.wait()
    assert ".a.bin.lock" in names(tmp_path)
    assert fetch(wanted, tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_wrong_file_in_the_place_is_named_and_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="a.bin is not the published file: expected 300000 bytes, got 4 bytes"):
        fetch(file(server.url("/a", serve())), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.seen == []


def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    code = fetching(file(server.url("/a", serve(pause=0.5))))
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    results = [job.communicate(timeout=20) for job in jobs]
    assert [out.strip() for out, _ in results] == [str(tmp_path / "a.bin")] * 2, results
    assert len(server.seen) == 1
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with sources.exclusive(tmp_path / "x"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert names(tmp_path) == []


def test_where_there_are_no_locks_parts_are_apart(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "fcntl", None)
    with sources.exclusive(tmp_path / "x") as one, sources.exclusive(tmp_path / "x") as two:
        assert one != two
    assert fetch(file(server.url("/a", serve())), tmp_path).read_bytes() == BODY


def test_the_bar_shows_on_a_terminal_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = file(server.url("/a", serve()))
    fetch(wanted, tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(wanted, tmp_path / "bar")
    assert "a.bin: 100%" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- locate


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PADDLE_DATA", "~/d")
    assert sources.data_root() == tmp_path / "d"
    monkeypatch.setenv("PADDLE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert sources.data_root() == tmp_path / "c/paddle-suite/data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert sources.data_root() == tmp_path / ".cache/paddle-suite/data"

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert sources.data_root() is None
    with pytest.raises(DataError, match="set PADDLE_DATA"):
        locate(source(file()))


def test_report(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = sources.report()
    assert facts["data root"] == str(root) and facts["state"].startswith("writable, ")
    monkeypatch.setenv("PADDLE_DATA", str(root / "none"))
    monkeypatch.setenv("PADDLE_OFFLINE", "1")
    facts = sources.report()
    assert facts["state"] == "does not exist yet" and facts["offline"].startswith("yes")


def test_a_mistyped_root_is_refused_not_made(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PADDLE_DATA", str(root / "typo"))
    with pytest.raises(DataError, match="typo is not a folder"):
        locate(source(file("http://127.0.0.1:1/a")))
    assert names(root) == []


def test_locate_fetches_what_is_missing(server: Server, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "rec/set").mkdir(parents=True)
    (root / "rec/set/here.txt").write_bytes(b"here")
    wanted = source(file(body=b"here", name="here.txt"), file(server.url("/a", serve()), name="sub/a.bin"))
    assert locate(wanted) == root / "rec/set"
    assert (root / "rec/set/sub/a.bin").read_bytes() == BODY
    assert "licence: research only" in capsys.readouterr().err
    assert locate(wanted) == root / "rec/set"
    assert server.ranges == [None]


@pytest.mark.parametrize("case", ["no address", "offline", "mirrors fail"])
def test_missing_files_are_answered_with_all_one_needs(
    server: Server, root: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = file(*([] if case == "no address" else [server.url("/a", status(404))]))
    if case == "offline":
        monkeypatch.setenv("PADDLE_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        locate(source(wanted))
    text = str(caught.value)
    why = {"no address": "may not or cannot", "offline": "PADDLE_OFFLINE", "mirrors fail": "/a: HTTP 404"}[case]
    for part in (
        why, "research only", "https://example.org", "1. ask the authors", "2. wait", "data.source=toy",
        "data.source=<path>", f"{root / 'rec/set/a.bin'}  (300000 bytes, sha256 {SHA})",
    ):  # fmt: skip
        assert part in text


def test_a_corrupt_file_is_named_before_anything_is_fetched(server: Server, root: Path) -> None:
    folder = root / "rec/set"
    folder.mkdir(parents=True)
    (folder / "b.bin").write_bytes(bytes(len(BODY)))
    wanted = source(file(server.url("/a", serve())), file(server.url("/b", serve()), name="b.bin"))
    with pytest.raises(DataError, match=rf"b\.bin is not .* expected sha256 {SHA}, got sha256 [0-9a-f]{{64}}"):
        locate(wanted)
    assert server.seen == []
    assert (folder / "b.bin").read_bytes() == bytes(len(BODY))
    (folder / "b.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="got 5 bytes"):
        locate(wanted)


def read_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for root, whom permissions do not stop: every write below `root` begins with one of these calls."""
    mkdir, opened = os.mkdir, os.open

    def refuse(path: Any) -> None:
        if str(path).startswith(str(root)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def checked_open(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "mkdir", lambda path, *rest: refuse(path) or mkdir(path, *rest))
    monkeypatch.setattr(os, "open", checked_open)


def test_a_read_only_root_with_the_right_files_works(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(("pictures/1.txt", b"one"))
    folder = root / "cv/set"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(BODY)
    (folder / "pictures.zip").write_bytes(archive)
    wanted = source(file(), file(body=archive, name="pictures.zip"), folder="cv/set")
    before = {p: p.stat().st_mtime_ns for p in [root, *root.rglob("*")]}
    read_only(root, monkeypatch)
    monkeypatch.setattr(sources, "REMEMBER", 0)
    for _ in range(2):
        assert locate(wanted) == folder
        assert (unpacked(wanted, "pictures.zip") / "pictures/1.txt").read_bytes() == b"one"
    assert {p: p.stat().st_mtime_ns for p in [root, *root.rglob("*")]} == before
    with pytest.raises(DataError, match=r"(?s)Read-only.*1\. ask the authors"):
        locate(source(file("http://127.0.0.1:1/x", name="missing"), folder="cv/set"))


def test_a_hash_is_taken_once_and_again_when_the_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "REMEMBER", 0)
    taken: list[Any] = []
    monkeypatch.setattr(sources, "sha256_of", lambda path: taken.append(path) or sha256_of(path))
    path = root / "rec/set/a.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    for _ in range(3):
        locate(source(file()))
    assert len(taken) == 1
    path.write_bytes(BODY[::-1])
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="is not the published file"):
        locate(source(file()))
    path.write_bytes(BODY)
    locate(source(file()))
    for entry in (root.parent / "cache/paddle-suite/sha256").iterdir():
        entry.write_text("rubbish")
    locate(source(file()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a cache that cannot be written
    locate(source(file()))
    assert len(taken) == 5


def test_an_archive_is_unpacked_once_a_version(server: Server, root: Path) -> None:
    old, new = make_tar(("x.txt", b"old")), make_tar(("x.txt", b"new"))
    for body in (old, new):
        wanted = source(file(server.url("/a", serve(body)), body=body, name="a.tar"))
        (root / "rec/set/a.tar").unlink(missing_ok=True)
        assert (unpacked(wanted, "a.tar") / "x.txt").read_bytes() == body[512:515]
    inode = (unpacked(wanted, "a.tar") / "x.txt").stat().st_ino
    assert (unpacked(wanted, "a.tar") / "x.txt").stat().st_ino == inode
    assert len(list((root.parent / "cache/paddle-suite/unpacked/rec/set").iterdir())) == 2
    assert names(root) == ["rec", "rec/set", "rec/set/a.tar"]  # published files alone


def test_fingerprint(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "d/e").mkdir(parents=True)
        for name in ("a", "b", "d/e/c"):
            (tmp_path / place / name).write_text(name)
    first = fingerprint([tmp_path / "one" / name for name in "abd"])
    assert first == fingerprint([tmp_path / "two" / name for name in "dba"])
    assert first != fingerprint([tmp_path / "two" / name for name in "ab"])
    (tmp_path / "two/d/e/c").write_text("other")
    changed = fingerprint([tmp_path / "two" / name for name in "abd"])
    (tmp_path / "two/d/e/c").write_text("d/e/c")
    (tmp_path / "two/d/e/c").rename(tmp_path / "two/d/e/C")
    assert len({first, changed, fingerprint([tmp_path / "two" / name for name in "abd"])}) == 3
    with pytest.raises(DataError, match="none cannot be read"):
        fingerprint([tmp_path / "none"])
    assert sha256_of(tmp_path / "one/a") == hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize("change", [
    {"name": "../a"}, {"name": "/a"}, {"name": ""}, {"name": "a\\b"}, {"name": "c:a"}, {"sha256": "ab"},
    {"sha256": SHA.upper()}, {"size": -1}, {"urls": "http://x"},
])  # fmt: skip
def test_a_wrong_declaration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        File(**({"name": "a", "sha256": SHA, "size": 1, "urls": ()} | change))
    with pytest.raises(ValueError, match="relative"):
        source(file(), folder="a/../b")
    with pytest.raises(ValueError, match="same name"):
        source(file(), file())


@pytest.mark.parametrize("without", ["licence", "homepage", "manual"])
def test_a_source_says_its_terms_and_how_to_get_it_by_hand(without: str) -> None:
    said = {"licence": "research only", "homepage": "https://example.org", "manual": "ask the authors", without: " "}
    with pytest.raises(ValueError, match="Set: say its licence, its homepage and the steps by hand"):
        Source("Set", "rec/set", (), **said)


# ---------------------------------------------------------------------------------------------------- unpack


def make_tar(*entries: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                header = tarfile.TarInfo(entry[0])
                header.size, header.mode = len(entry[1]), 0o4777
                archive.addfile(header, io.BytesIO(entry[1]))
    return out.getvalue()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header


def make_zip(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = 0, flags: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type, info.external_attr = name, method, mode << 16
            archive.writestr(info, data)
    data = bytearray(out.getvalue())
    if flags:
        data[6] |= flags
        data[data.index(b"PK\x01\x02") + 8] |= flags
    return bytes(data)


def unpack_bytes(tmp_path: Path, name: str, data: bytes, **caps: Any) -> Path:
    (tmp_path / "in").mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / name).write_bytes(data)
    return unpack(tmp_path / "in" / name, tmp_path / "out" / "content", **caps)


GOOD = (("./a/1.txt", b"one"), ("b/2.txt", b"two" * 9999), ("b/é/3.txt", b""))


@pytest.mark.parametrize(("name", "pack"), [
    ("x.tar", bytes), ("x.tar.gz", gzip.compress), ("x.TGZ", gzip.compress), ("x.tar.bz2", bz2.compress),
    ("x.tar.xz", lzma.compress), ("x.zip", None),
])  # fmt: skip
def test_good_archives(tmp_path: Path, name: str, pack: Callable[[bytes], bytes] | None) -> None:
    folder = special("b", tarfile.DIRTYPE)
    data = pack(make_tar(special("./", tarfile.DIRTYPE), folder, *GOOD)) if pack else make_zip(("b/", b""), *GOOD)
    out = unpack_bytes(tmp_path, name, data)
    assert names(out) == ["a", "a/1.txt", "b", "b/2.txt", "b/é", "b/é/3.txt"]
    assert (out / "b/2.txt").read_bytes() == b"two" * 9999
    assert names(out.parent)[0] == "content" and len(list(out.parent.iterdir())) == 1
    plain = tmp_path / "plain"
    plain.touch()
    assert (out / "a/1.txt").stat().st_mode == plain.stat().st_mode  # not 4777, as the archive would have it


def test_a_single_gz(tmp_path: Path) -> None:
    out = unpack_bytes(tmp_path, "t.csv.gz", gzip.compress(b"a,b") + gzip.compress(b"\n1,2"))
    assert names(out) == ["t.csv"] and (out / "t.csv").read_bytes() == b"a,b\n1,2"


def test_long_names_of_both_tar_formats(tmp_path: Path) -> None:
    for number, format in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        name = "/".join(["d" * 200] * 3) + f"/{number}"
        (tmp_path / "t.tar").write_bytes(make_tar((name, b"x"), format=format))
        assert (unpack(tmp_path / "t.tar", tmp_path / str(number)) / name).read_bytes() == b"x"


EVIL_NAMES = {
    "../out.txt": "leads out", "a/../../out.txt": "leads out", "a/..": "leads out", "/abs.txt": "absolute",
    "C:/x.txt": "absolute", "c:x": "absolute", "a\\..\\b": "backslash", "a\nb": "control character",
    "n" * 256: "has too long a name", "é" * 128: "has too long a name", "a/" * 2100 + "x": "has too long a name",
    ".": "no name",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_evil_names(tmp_path: Path, kind: str) -> None:
    for name, why in EVIL_NAMES.items():
        entries = (("good.txt", b"fine"), (name, b"evil"))
        with pytest.raises(DataError, match=why):
            unpack_bytes(tmp_path, f"x.{kind}", (make_tar if kind == "tar" else make_zip)(*entries))
        assert names(tmp_path) == ["in", f"in/x.{kind}", "out"], name


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's, as the archive is made
@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(("one", "two", "why"), [
    ("a/Read.me", "a/read.ME", "only in case"), ("A/x", "a/y", "only in case"), ("a", "A/b", "only in case"),
    ("stra\u00dfe", "STRASSE", "only in case"), ("\u00e9", "e\u0301", "accents"), ("same", "same", "twice"),
    ("a", "a/b", "twice"), ("a/b", "a", "twice"), ("a/b", "a//./b", "twice"),
])  # fmt: skip
def test_names_that_meet_on_another_system(tmp_path: Path, kind: str, one: str, two: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        unpack_bytes(tmp_path, f"x.{kind}", (make_tar if kind == "tar" else make_zip)((one, b"1"), (two, b"2")))
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(("entry", "why"), [
    (special("l", tarfile.SYMTYPE, "/etc"), "link to '/etc'"),
    (special("l", tarfile.SYMTYPE, "good.txt"), "link to"),
    (special("l", tarfile.LNKTYPE, "good.txt"), "link to"),
    (special("l", tarfile.LNKTYPE, "/etc/passwd"), "link to"),
    (special("l", tarfile.CHRTYPE), "device"), (special("l", tarfile.BLKTYPE), "device"),
    (special("l", tarfile.FIFOTYPE), "device, pipe"), (special("l", tarfile.CONTTYPE), "device"),
    (special("l", b"Z"), "device"),
], ids=lambda value: value.type.decode() if isinstance(value, tarfile.TarInfo) else "")  # fmt: skip
def test_tar_entries_that_are_not_plain(tmp_path: Path, entry: tarfile.TarInfo, why: str) -> None:
    with pytest.raises(DataError, match=why):
        unpack_bytes(tmp_path, "x.tar", make_tar(("good.txt", b"fine"), entry))
    assert names(tmp_path / "out") == []


def test_writing_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(DataError, match="link to"):
        unpack_bytes(tmp_path, "x.tar", make_tar(special("d", tarfile.SYMTYPE, str(target)), ("d/evil", b"x")))
    assert names(target) == []
    with pytest.raises(DataError, match="is a link or device"):
        unpack_bytes(tmp_path, "x.zip", make_zip(("d", str(target).encode()), mode=0o120777))
    assert names(tmp_path / "out") == []


def test_sparse_tar_entries_are_refused(tmp_path: Path) -> None:
    """Holes of any size take a few bytes in the archive."""
    old = bytearray(make_tar(special("s", tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT))
    pax = special("s", tarfile.REGTYPE)
    pax.pax_headers = {"GNU.sparse.size": str(1 << 25), "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{1 << 25},0"}
    for data in (bytes(old), make_tar(pax)):
        with pytest.raises(DataError, match="sparse"):
            unpack_bytes(tmp_path, "x.tar", data)


def test_zip_encryption_and_methods(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="entry 'a' is encrypted"):
        unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"x"), flags=1))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(DataError, match="compression method"):
            unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"x"), method=method))


def zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, 1 << 20):
        yield bytes(min(1 << 20, size - start))


def bomb(kind: str, size: int) -> bytes:
    """`size` zero bytes in an archive, made without holding them."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as entry:
            for block in zeros(size):
                entry.write(block)
        return out.getvalue()
    header = tarfile.TarInfo("zeros")
    header.size = size
    openers: dict[str, Any] = {"tar.gz": gzip.open, "gz": gzip.open, "tar.bz2": bz2.open, "tar.xz": lzma.open}
    with openers[kind](out, "wb", **({"preset": 0} if kind == "tar.xz" else {"compresslevel": 1})) as stream:
        stream.write(header.tobuf() if kind != "gz" else b"")
        for block in zeros(size):
            stream.write(block)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "gz", "tar.gz", "tar.bz2", "tar.xz"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    data = bomb(kind, 24 << 20)
    with pytest.raises(DataError, match="more than 200 times its size"):
        unpack_bytes(tmp_path, f"x.{kind}", data)
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        unpack_bytes(tmp_path, f"x.{kind}", data, max_bytes=1_000_000, max_ratio=1e9)
    assert names(tmp_path / "out") == []


def test_a_zip_whose_declared_size_is_a_lie(tmp_path: Path) -> None:
    """The directory says 10 bytes; one that believed it would pass the cap."""
    data = bytearray(make_zip(("a", BODY)))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 10)
    with pytest.raises(DataError, match="damaged|more than"):
        unpack_bytes(tmp_path, "x.zip", bytes(data), max_bytes=1000)
    with pytest.raises(DataError, match="more than 1000 bytes"):
        unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"x" * 600), ("b", b"x" * 600)), max_bytes=1000)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_too_many_entries(tmp_path: Path, kind: str) -> None:
    data = (make_tar if kind == "tar" else make_zip)(*[(f"d/{i}", b"") for i in range(10)])
    unpack_bytes(tmp_path / "fits", f"x.{kind}", data, max_files=11)  # the folder counts too
    with pytest.raises(DataError, match="more than 10 entries"):
        unpack_bytes(tmp_path, f"x.{kind}", data, max_files=10)


def test_tar_headers_that_would_fill_memory(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        header = special("h", kind)
        header.size = 1 << 30
        with pytest.raises(DataError, match="a header of 1073741824 bytes"):
            unpack_bytes(tmp_path, "x.tar", header.tobuf() + bytes(1 << 20))


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.xz", "x.zip", "x.gz"])
def test_truncated_or_altered_archives_are_never_half_unpacked(tmp_path: Path, name: str) -> None:
    """Cut anywhere, or with bytes changed: refused, or (where tar has no check) whole; nothing else is left behind."""
    generator = random.Random(1)
    tar = make_tar(("a", BODY[:3000]), ("b/c", BODY[3000:5000]))
    good = {"x.tar": tar, "x.tar.gz": gzip.compress(tar, mtime=0), "x.tar.xz": lzma.compress(tar),
            "x.zip": make_zip(("a", BODY[:3000]), ("b/c", BODY[3000:5000])),
            "x.gz": gzip.compress(BODY[:5000], mtime=0)}[name]  # fmt: skip
    for round in range(24):
        data = bytearray(good)
        if round % 2:
            del data[generator.randrange(1, 5000) :]
        else:
            for _ in range(generator.randrange(1, 5)):
                data[generator.randrange(min(len(data), 6000))] ^= generator.randrange(1, 256)
        out = tmp_path / str(round)
        (tmp_path / name).write_bytes(data)
        try:
            unpack(tmp_path / name, out)
        except DataError:
            assert not out.exists()
        else:
            assert round % 2 == 0
            assert len([p for p in out.rglob("*") if p.is_file()]) == (1 if name == "x.gz" else 2)
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or p.suffix == ".part"]


def test_a_damaged_header_in_the_middle_does_not_end_a_tar_in_silence(tmp_path: Path) -> None:
    data = bytearray(make_tar(("a", b"1"), ("b", b"2")))
    data[1024 + 10] ^= 1
    with pytest.raises(DataError, match="bad tar header"):
        unpack_bytes(tmp_path, "x.tar", bytes(data))


def test_unpacking_needs_a_new_folder_and_leaves_others_alone(tmp_path: Path) -> None:
    out = unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"1")))
    (out / "mine").touch()
    with pytest.raises(DataError, match="exists already"):
        unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"2")))
    assert names(out) == ["a", "mine"] and (out / "a").read_bytes() == b"1"


def test_the_folder_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the rename all is there under the other name, and nothing under the right one."""
    rename, seen = os.rename, []

    def watched(part: Any, folder: Any) -> None:
        seen.append((names(Path(part)), Path(folder).exists()))
        rename(part, folder)

    monkeypatch.setattr(sources.os, "rename", watched)
    stale = tmp_path / "out" / ".content.part"  # of a process that was killed
    stale.mkdir(parents=True)
    (stale / "old").touch()
    unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"1"), ("b", b"2")))
    assert seen == [(["a", "b"], False)]
    assert names(tmp_path / "out") == ["content", "content/a", "content/b"]


def test_a_full_disk_while_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match="the disk is full"):
        unpack_bytes(tmp_path, "x.zip", make_zip(("a", b"1")))
    assert names(tmp_path / "out") == []


def test_unknown_kinds(tmp_path: Path) -> None:
    for name in ("x.rar", "x.7z", "tar", "x"):
        with pytest.raises(DataError, match="not a kind of archive"):
            unpack_bytes(tmp_path, name, b"")
    for name in ("x.tar", "x.zip", "x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.gz"):
        with pytest.raises(DataError, match="damaged|cannot be unpacked"):
            unpack_bytes(tmp_path, name, b"this is no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "none.zip", tmp_path / "out2")
