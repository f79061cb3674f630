"""Killed at any moment, the same command goes on, and the end is the same to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from paddlecore import checkpoint, testing
from paddlecore.journal import read_metrics

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import survive  # noqa: E402

TRAIN = HERE.parents[1] / "tools" / "train.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
MEASURED = ("examples_per_s", "data_wait", "memory_gb", "seconds_left")  # not what was computed, but how fast


def job(folder: Path, ranks: int, kills: int) -> dict[str, Any]:
    arguments = [sys.executable, str(HERE / "survive.py"), str(folder), str(ranks), str(kills), "7"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENV, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines if line["kind"] != "note"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_ten_kills_leave_no_trace(ranks: int, tmp_path: Path) -> None:
    """Augmentation, dropout, EMA, two data workers; killed ten times, some of them in the middle of a save."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert job(whole, ranks, 0)["codes"] == [0] * ranks
    report = job(killed, ranks, 10)
    assert report.get("codes") == [0] * ranks, (report, Path(f"{killed}.log").read_text()[-3000:])
    assert report["kills"] == 10 and report["in_save"] >= 1, report
    step = f"step_{survive.STEPS:08d}"
    for name in ("model.safetensors", "ema.safetensors", "optimizer.pt"):
        a, b = (folder / "checkpoints" / step / name for folder in (whole, killed))
        assert a.read_bytes() == b.read_bytes(), name
    assert numbers(whole) == numbers(killed)
    a, b = (json.loads((folder / "result.json").read_text()) for folder in (whole, killed))
    assert all(a[key] == b[key] for key in ("steps", "final", "best", "test"))


def running(folder: Path, ranks: int = 1, *extra: str, steps: int = 100_000) -> list[subprocess.Popen[str]]:
    """The command itself, on `ranks` processes; returns once a checkpoint is there."""
    processes = testing.begin([str(TRAIN), *survive.command(folder, steps), *extra], ranks)
    wait_for_a_save(folder, processes)
    return processes


def wait_for_a_save(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 90
    while not checkpoint.steps(folder / "checkpoints"):
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no checkpoint in 90 s"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_command_saves_and_has_its_own_exit_code(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (process,) = running(folder)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err[-3000:]
    assert "saved" in err and "Traceback" not in err
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None and json.loads((folder / "last.json").read_text())["checkpoint"] == last.name


def test_a_second_job_in_the_same_run_folder_is_refused_on_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (first,) = running(folder)
    try:
        for second in testing.launch([str(TRAIN), *survive.command(folder)], 2):
            assert second.returncode == 2, second.stderr[-3000:]
            assert f"trains into {folder} (process {first.pid} on " in second.stderr, second.stderr[-3000:]
        assert first.poll() is None
    finally:
        first.kill()


def test_bad_data_end_every_rank_with_the_message_and_its_code(tmp_path: Path) -> None:
    """Only rank 0 reads them: the others have to be told."""
    (tmp_path / "images").mkdir()
    command = [str(TRAIN), *survive.command(tmp_path / "run"), f"data.source={tmp_path / 'images'}"]
    for done in testing.launch(command, 2):
        assert done.returncode == 3, done.stderr[-3000:]
        assert f"{tmp_path / 'images'}" in done.stderr and "Traceback" not in done.stderr, done.stderr[-3000:]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_by_the_others(victim: int, tmp_path: Path) -> None:
    processes = running(tmp_path / "run", 2)
    started = time.monotonic()
    processes[victim].kill()
    survivor = processes[1 - victim]
    _, err = survivor.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert survivor.returncode == 6, err[-3000:]
    assert f"rank {victim}" in err.splitlines()[-1] and "gone" in err.splitlines()[-1], err[-3000:]


def test_a_rank_that_hangs_is_named_too(tmp_path: Path) -> None:
    """A stopped process keeps its connections open, so no reduction fails: only the watch can tell."""
    processes = running(tmp_path / "run", 2, "train.rank_timeout=4")
    processes[1].send_signal(signal.SIGSTOP)
    try:
        _, err = processes[0].communicate(timeout=30)
    finally:
        processes[1].kill()
    assert processes[0].returncode == 6 and "rank 1 of 2 has given no sign" in err, err[-3000:]


def test_torchrun_restarts_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2",
                 f"--master-port={testing.free_port()}", str(TRAIN), *survive.command(folder, 30)]  # fmt: skip
    process = subprocess.Popen(arguments, env=ENV, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for_a_save(folder, [process])
    ranks = [c for c in psutil.Process(process.pid).children() if str(TRAIN) in c.cmdline()]
    assert len(ranks) == 2
    ranks[1].kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert json.loads((folder / "result.json").read_text())["steps"] == 30
    notes = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "note"]
    assert any("resumed_from" in line for line in notes)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, str(TRAIN), *survive.command(folder, 12)]
    subprocess.run(command, env=ENV, check=True, capture_output=True, timeout=120)
    before = {p.name: p for p in checkpoint.steps(folder / "checkpoints")}
    last = before["step_00000012"]
    expected = (last / "model.safetensors").read_bytes()
    content = bytearray(expected)
    content[-1] ^= 1
    (last / "model.safetensors").write_bytes(content)
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step_00000012/model.safetensors does not have the sha256" in done.stderr
    assert "step_00000009" in done.stderr  # the one it went on from
    assert (last / "model.safetensors").read_bytes() == expected  # made again, to the bit


def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: writing fails in the middle of the second checkpoint's weights."""
    folder = tmp_path / "run"
    # in this process: the limit would also hold for the shared memory through which workers pass batches
    here = "data.workers=0"
    command = [sys.executable, str(TRAIN), *survive.command(folder, 3), here]
    subprocess.run(command, env=ENV, check=True, capture_output=True, timeout=120)
    saved = {p.name for p in checkpoint.steps(folder / "checkpoints")}
    limit = ["bash", "-c", 'ulimit -f 60; exec "$@"', "-", sys.executable, str(TRAIN)]
    done = subprocess.run(
        [*limit, *survive.command(folder, 9), here], env=ENV, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 5, done.stderr[-3000:]
    assert "earlier checkpoints are whole" in done.stderr and "Traceback" not in done.stderr
    assert {p.name for p in checkpoint.steps(folder / "checkpoints")} == saved
    checkpoint.verify(folder / "checkpoints" / sorted(saved)[-1])
    done = subprocess.run([*command[:2], *survive.command(folder, 9), here], env=ENV, capture_output=True, timeout=120)
    assert done.returncode == 0  # room was made: it goes on


def test_weights_do_not_depend_on_workers() -> None:
    states = []
    for workers in (0, 1):
        trainer, _ = testing.tiny_trainer(survive.RECIPE, f"data.workers={workers}", "model.dropout=0.2")
        trainer.fit()
        states.append(testing.weights(trainer))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
