"""What the trainer costs: its step against a bare loop, the time to a first step, and how fast a mistake is refused.

    python benchmarks/overhead.py

The bare loop makes the same forward, backward and optimiser calls on the same batches and nothing else. Both run in
turns of a few steps in one process; figures are medians over the steps.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paddlecore import config, run  # noqa: E402
from paddlecore.data import to_device  # noqa: E402

CPU = torch.device("cpu")
BLOCK = 6  # steps of one kind in a row


def step_seconds(recipe: str, turns: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of a loop without a trainer and of each of `Trainer.fit`, without the time to fetch batches.

    The bare steps are made while the trainer waits for a batch: blocks of `BLOCK` of each kind, one after the other, so
    that whatever slows the machine slows both. The first step of a block finds the other's data in the caches and is
    left out.
    """
    options = [f"train.max_steps={turns * BLOCK}", "train.max_epochs=null"]
    cfg = config.compose([f"recipe={recipe}", "data.source=toy", "train.eval_every=1000000", *options])
    trainer, _ = run.build_trainer(cfg, CPU)
    other, _ = run.build_trainer(cfg, CPU)
    task, batches = other.task.train(), other.loader.stream(0, 0)
    (optimizer,) = other.optimizers.values()

    def bare_step() -> float:
        (batch,) = next(batches)
        assert batch is not None
        started = time.perf_counter()
        output = task(to_device(batch, CPU))
        output.loss_sum.backward()
        optimizer.collect()
        optimizer.scale(1.0 / float(output.weight))
        optimizer.step(1.0)
        optimizer.zero()
        del output, batch  # frees the graph and the rows, as the trainer's step does
        return time.perf_counter() - started

    bare: list[float] = []
    trained: list[float] = []
    stream = trainer.loader.stream

    def timed(epoch: int, step: int):  # noqa: ANN202
        for number, batch in enumerate(stream(epoch, step)):
            if number % BLOCK == 0:
                bare.extend([bare_step() for _ in range(BLOCK)][1:])
            started = time.perf_counter()
            yield batch
            if number % BLOCK:
                trained.append(time.perf_counter() - started)

    trainer.valid, trainer.loader.stream = None, timed  # type: ignore[method-assign, assignment]
    trainer.fit()
    return bare, trained


def command_seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "tools" / "train.py"), *words], capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--recipes", nargs="+", default=["rec/deepfm_frappe", "cv/lenet_mnist", "nlp/textcnn_mr"])
    arguments = parser.parse_args()
    print(f"{'recipe':<22} {'bare ms':>9} {'trainer ms':>11} {'extra ms':>9} {'extra %':>8}")
    for recipe in arguments.recipes:
        without, with_ = (statistics.median(kind) * 1e3 for kind in step_seconds(recipe, arguments.turns))
        print(f"{recipe:<22} {without:9.3f} {with_:11.3f} {with_ - without:9.3f} {with_ / without - 1:8.1%}")
    with tempfile.TemporaryDirectory() as folder:
        command = ["recipe=rec/deepfm_toy", "train.max_steps=1", "train.max_epochs=null", "train.log_every=1"]
        first = [command_seconds(*command, "train.max_eval_batches=1", f"output_dir={folder}/{i}") for i in range(4)]
    print(f"one step, an evaluation and a save, from the command on (warm): {statistics.median(first[1:]):.2f} s")
    typo = [command_seconds("recipe=rec/deepfm_toy", "train.max_stepps=1") for _ in range(5)]
    print(f"a mistyped key is refused in {statistics.median(typo):.2f} s")


if __name__ == "__main__":
    main()
