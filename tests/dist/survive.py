"""A training job that is killed with SIGKILL, again and again, and started again by the same command.

Runs as a program of its own: it imports torch once and forks the ranks of each attempt from there, which saves the
start of the interpreter and of torch, not more: every attempt composes the recipe, finds its checkpoint, starts its
data workers and joins its process group anew.

    python survive.py <folder> <ranks> <kills> <seed>
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from paddlecore import config, run, testing

RECIPE = "cv/lenet_mnist"  # has augmentation and dropout
STEPS = 180  # ten attempts go on by some six steps each on a slow machine, and by twice that on a fast one


def command(folder: Path, steps: int = STEPS) -> list[str]:
    data = ["data.source=toy", "data.batch_size=32", "data.workers=2", "model.dropout=0.2", "train.ema=0.9"]
    often = ["train.eval_every=20", "train.save_every=3", "train.log_every=2", "train.max_eval_batches=2"]
    length = [
        f"train.max_steps={steps}",
        "train.max_epochs=null",
        "train.ema=0.9",
        f"optim.schedule.total_steps={STEPS}",
    ]
    return [f"recipe={RECIPE}", f"output_dir={folder}", "device=cpu", *data, *often, *length]


def start(folder: Path, ranks: int) -> list[int]:
    """Fork the ranks of one attempt; each is a process group of its own, with its data workers."""
    port = testing.free_port()
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        os.setpgid(0, 0)
        os.environ |= testing.rank_environment(rank, ranks, port)
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            run.train(config.compose(command(folder)))
            code = 0
        except BaseException as error:
            print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = getattr(error, "exit_code", 1)
        finally:
            os._exit(code)
    return pids


def finish(pids: list[int]) -> list[int]:
    """Exit codes, once all have ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def kill(pids: list[int]) -> None:
    """SIGKILL to the ranks and their data workers at once, as a power cut does."""
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def saves(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("step_*")}


def saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".step_*.part"))


def main(folder: Path, ranks: int, kills: int, seed: int) -> dict[str, object]:
    """`kills` attempts that end in SIGKILL, then one that may finish.

    Each attempt is let come to a save of its own, so that the job advances, and is then killed after a random while: in
    a step, an evaluation or a save, as chance has it; every third one is caught in the middle of a save.
    """
    chance = random.Random(seed)
    in_save, reached = 0, []
    for attempt in range(kills):
        pids = start(folder, ranks)
        before = saves(folder)
        deadline = time.monotonic() + 60
        while saves(folder) <= before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        while attempt % 3 == 2 and not saving(folder) and time.monotonic() < deadline:
            time.sleep(0.0002)
        kill(pids)
        codes = finish(pids)
        in_save += saving(folder)
        reached.append(max(saves(folder), default=""))
        if any(code != -signal.SIGKILL for code in codes):
            return {"error": f"attempt {attempt} ended by itself: {codes}", "reached": reached}
    return {"kills": kills, "in_save": in_save, "reached": reached, "codes": finish(start(folder, ranks))}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))))
