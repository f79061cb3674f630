"""The processes that benchmarks compare: they warm up, wait, are timed in turns, and say why they ended."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
WORKER = """
import sys, time
sys.path.insert(0, {folder!r})
from windows import Gate

gate = Gate(4, 0.05)
while True:
    gate()
    print("the program says something", flush=True)
    print("x" * 70_000, file=sys.stderr, flush=True)  # more than a pipe takes
    time.sleep(0.005)
"""


@pytest.fixture
def contender(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from windows import Contender

    return lambda code: Contender("one", [sys.executable, "-c", code], threads=1, units=100, cpu=False)


def test_a_contender_is_timed_window_by_window(contender):
    one = contender(WORKER.format(folder=str(BENCHMARKS)))
    for _ in range(2):
        one.window()
    one.close()
    assert one.steps >= 2 and one.process.returncode == 0
    assert len(one.windows) == 2 and all(0 < units < 100 / 0.005 for units in one.windows)


def test_a_contender_that_cannot_start_says_why(contender):
    with pytest.raises(RuntimeError, match="one ended:(.|\n)*no_such_program"):
        contender("import no_such_program")


def test_memory_is_told_of_each_of_ours(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("deepfm_criteo_shape")
    for name, small in (("BATCH", 8), ("SAMPLES", 80), ("HIDDEN", (4,))):
        monkeypatch.setattr(script, name, small)
    for name in script.OURS:
        figures = script.memory(name, 260)
        assert figures["rest"] > 0 and figures["state"] < 4 * figures["table"]
