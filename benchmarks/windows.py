"""What the benchmarks that compare programs share: each contender is a process that warms up and then waits its turn.

`Gate` stands in the contender's process and times its steps; `Contender` is that process as the measuring one sees it.
Windows are timed in turns, one contender at a time, so that all meet the same noise. Nothing of the project is imported
until `our_trainer` is called: peers run in environments of their own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

SETTLE = 2  # steps before each window that are not timed


class Gate:
    """Called once a step. After the warm-up it answers each line of stdin with the seconds of one window: time passed
    and processor time.
    """

    def __init__(self, warm_up: int, seconds: float) -> None:
        self.warm_up, self.seconds = warm_up, seconds
        self.left, self.steps = warm_up, 0
        self._start()

    def _start(self) -> None:
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def __call__(self) -> None:
        self.left -= 1
        # the first steps of the warm-up touch fresh memory, and those of a window memory and caches that the others
        # had in the meantime: they count for nothing
        if self.left == (self.steps - 1 if self.steps else self.warm_up // 2):
            self._start()
        if self.left >= 0:
            return
        spent = time.perf_counter() - self.started
        if not self.steps:
            done = self.warm_up - self.warm_up // 2
            self.steps = max(2, round(self.seconds * done / spent))
            _say("ready", self.steps)
        else:
            _say("window", spent, time.process_time() - self.cpu)
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)
        self.left = self.steps - 1 + SETTLE


def _say(*words: Any) -> None:
    """To the process that measures, also where a peer's own prints are sent elsewhere."""
    print(*words, file=sys.__stdout__, flush=True)


class Contender:
    """A process that runs `command` up to its `Gate`; it has warmed up when the constructor returns.

    Args:
        name: what the tables call it.
        command: interpreter, script and its options.
        threads: of the process.
        units: samples, events or tokens of one step; `windows` holds units a second.
        cpu: count processor time rather than time passed.

    Raises:
        RuntimeError: the process ended before it was ready, with the end of what it said.
    """

    def __init__(self, name: str, command: list[str], *, threads: int, units: int, cpu: bool) -> None:
        self.name, self.units, self.cpu = name, units, cpu
        self.windows: list[float] = []
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would stop a peer that says much
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        self.steps = int(self._read("ready")[0])

    def _read(self, word: str) -> list[str]:
        """The numbers behind the next line that begins with `word`; peers say other things as well."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        self.close()
        self.errors.seek(0)
        raise RuntimeError(f"{self.name} ended:\n{self.errors.read()[-2000:]}")

    def window(self) -> None:
        """Time one window."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        passed, processor = self._read("window")
        self.windows.append(self.steps * self.units / float(processor if self.cpu else passed))

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, and has been closed before
            self.process.communicate()  # closes stdin, which ends it


def in_turns(starting: Iterable[Contender], windows: int) -> list[Contender]:
    """Start all, time as many windows of each, one contender after the other again and again, and end all."""
    running: list[Contender] = []
    try:
        for contender in starting:  # not extend: those that have started end if a later one does not
            running.append(contender)
        for _ in range(windows):
            for contender in running:
                contender.window()
    finally:
        for contender in running:
            contender.close()
    return running


def our_trainer(
    task: Any, section: dict[str, Any], rows: Any, plan: Any, gate: Callable[[], None], precision: str = "fp32"
) -> Any:
    """The project's own trainer without end, on the CPU; `gate` is called before each step. Freed memory stays with the
    process, as in `train`.

    Args:
        task: a `Task`.
        section: the `optim` section of a recipe.
        rows: what is trained on, a `Rows`.
        plan: its order, a `Plan`.
        gate: a `Gate`, or what stops a profile.
        precision: `train.precision`.
    """
    import torch

    from paddlecore import optim
    from paddlecore.cli import keep_freed_memory
    from paddlecore.data import Loader
    from paddlecore.optim import LRSchedule
    from paddlecore.schema import Train
    from paddlecore.trainer import Trainer

    class Gated(Loader):
        def stream(self, epoch: int, step: int) -> Any:
            for batches in super().stream(epoch, step):
                gate()
                yield batches

    keep_freed_memory()
    return Trainer(
        task,
        {"main": optim.build(task, section, "main", ("*",))},
        {"main": LRSchedule({}, None, plan.steps(0))},
        Gated(rows, plan),
        Train(max_epochs=None, max_steps=2**31, precision=precision),
        device=torch.device("cpu"),
    )
