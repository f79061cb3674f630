"""Every command and every piece of Python in README and docs is run, in the order of its page.

A page's ```bash and ```python blocks run one after another in one folder, as a reader would run them. A comment before
a block changes that:

    <!-- test: skip, <why> -->        is not run; pytest reports it as skipped, with the reason
    <!-- test: add <key=value> ... --> is put behind each command of ours, so that a long run becomes a short one
    <!-- test: file <name> -->        (before a block of another language) is written to that file
    <!-- test: fails <code> -->       must end with that exit code
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- test: (?P<test>.*?) -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
OURS = re.compile(r"(python tools/\w+\.py|paddlesuite [\w-]+)")


@dataclass
class Block:
    page: Path
    number: int
    language: str
    code: str
    what: str  # skip, add, file, fails or empty
    value: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1):
            what, _, value = (match["test"] or "").replace(",", " ", 1).partition(" ")
            assert what in ("", "skip", "add", "file", "fails"), f"{page.name}: {match['test']}"
            if match["language"] in ("bash", "python") or what == "file":
                found.append(Block(page, number, match["language"], match["code"], what, value.strip()))
    return found


PARTS = ("paddlecore", "paddlerec", "paddlecv", "paddlenlp", "configs", "tools", "benchmarks")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this checkout, and in bin/ a quick `python` and a `paddlesuite` that run it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pretrained").symlink_to(ROOT / "pretrained")
    (copy / "bin").mkdir()
    with tempfile.TemporaryDirectory(prefix="warm") as folder:  # a socket's path must be short
        path = str(Path(folder) / "socket")
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py")), path], env=environment, stdout=subprocess.PIPE
        )
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        commands = {
            "python": warm_client(path),
            "paddlesuite": '#!/bin/sh\nexec python -m paddlecore.cli "$@"\n',
        }
        for name, text in commands.items():
            (copy / "bin" / name).write_text(text)
            (copy / "bin" / name).chmod(0o755)
        yield copy
        server.kill()
        server.wait()
        server.stdout.close()


def warm_client(path: str) -> str:
    return runpy.run_path(str(Path(__file__).with_name("warm.py")))["client"].format(python=sys.executable, path=path)


def checkout(shared: Path, folder: Path) -> Path:
    """`folder` made to look like a checkout; what commands write there is its own."""
    for name in (*PARTS, "pretrained", "bin"):
        (folder / name).symlink_to(shared / name)
    return folder


def prepared(block: Block) -> str:
    """The block's code with what the test adds to each of our commands."""
    if block.what != "add":
        return block.code
    lines = []
    for line in block.code.replace("\\\n", " ").splitlines():
        command = line.partition("  #")[0].rstrip()
        lines.append(f"{command} {block.value}" if OURS.search(command) else line)
    return "\n".join(lines)


def run(block: Block, folder: Path) -> None:
    if block.what == "file":
        (folder / block.value).write_text(block.code, encoding="utf-8")
        return
    paths = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-e", "-o", "pipefail", "-c"] if block.language == "bash" else [str(folder / "bin/python"), "-c"]
    shown = subprocess.run([*command, prepared(block)], cwd=folder, env=environment, capture_output=True, text=True)
    wanted = int(block.value) if block.what == "fails" else 0
    assert shown.returncode == wanted, f"{block}:\n{block.code}\n{shown.stdout[-2000:]}\n{shown.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, shared: Path, tmp_path: Path) -> None:
    todo = [block for block in blocks() if block.page == page and block.what != "skip"]
    folder = checkout(shared, tmp_path)
    for block in todo:
        run(block, folder)


@pytest.mark.parametrize("block", [b for b in blocks() if b.what == "skip"], ids=str)
def test_skipped_block(block: Block) -> None:
    pytest.skip(block.value)


def test_there_are_blocks_and_a_broken_one_is_seen(shared: Path, tmp_path: Path) -> None:
    assert len(blocks()) > 30
    broken = Block(PAGES[0], 0, "bash", "paddlesuite zoo recipe=rec/no_such_recipe\ntrue\n", "", "")
    with pytest.raises(AssertionError, match="no_such_recipe"):
        run(broken, checkout(shared, tmp_path))


def test_make_demo(tmp_path: Path) -> None:
    """README's first command, with this environment in place of .venv."""
    stamp = tmp_path / "installed"
    stamp.touch()
    run = tmp_path / "demo"
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PADDLE_DATA")}
    shown = subprocess.run(
        ["make", "--no-print-directory", "demo", f"BIN={Path(sys.executable).parent}", f"STAMP={stamp}", f"RUN={run}"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-3000:]
    reached = re.search(r"test: auc ([\d.]+) +\(best possible: ([\d.]+)\)", shown.stdout)
    assert reached is not None, shown.stdout
    auc, bound = map(float, reached.groups())
    assert bound - 0.01 < auc < bound + 0.004  # above only by the luck of one draw of labels
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]
    assert abs(lines[0]["auc"] - auc) < 1e-4  # the saved checkpoint gives the score again
    assert [0 < line["probability"] < 1 for line in lines[1:]] == [True] * 3
