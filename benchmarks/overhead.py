"""What the trainer costs: its step against a bare loop, the time to a first step, and how fast a mistake is refused.

    python benchmarks/overhead.py

"own" is what a step of the trainer spends outside of data, forward, backward and optimiser. "extra" is what it takes
more than a bare loop, which makes the same forward, backward and optimiser calls on the same batches and nothing else;
both run in turns of a few steps in one process. Figures are medians over the steps.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paddlecore import config, run  # noqa: E402
from paddlecore.data import to_device  # noqa: E402

CPU = torch.device("cpu")
BLOCK = 6  # steps of one kind in a row


def build(recipe: str, steps: int) -> Any:
    options = [f"train.max_steps={steps}", "train.max_epochs=null", "train.eval_every=1000000"]
    trainer, _ = run.build_trainer(config.compose([f"recipe={recipe}", "data.source=toy", *options]), CPU)
    trainer.valid = None
    return trainer


def own_seconds(recipe: str, steps: int) -> list[float]:
    """Seconds of each step of `Trainer.fit` that pass outside of data, forward, backward and optimiser."""
    trainer = build(recipe, steps)
    elsewhere, own = 0.0, []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal elsewhere
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                elsewhere += time.perf_counter() - started

        return wrapper

    stream = trainer.loader.stream

    def batches(epoch: int, step: int) -> Iterator[Any]:
        nonlocal elsewhere
        for batch in stream(epoch, step):
            elsewhere, started = 0.0, time.perf_counter()
            yield batch
            own.append(time.perf_counter() - started - elsewhere)

    trainer.loader.stream, trainer.wrapped = batches, timed(trainer.wrapped)
    (optimizer,) = trainer.optimizers.values()
    for name in ("collect", "scale", "step", "zero"):
        setattr(optimizer, name, timed(getattr(optimizer, name)))
    with mock.patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)):
        trainer.fit()
    return own


def step_seconds(recipe: str, turns: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of a loop without a trainer and of each of `Trainer.fit`, without the time to fetch batches.

    The bare steps are made while the trainer waits for a batch: blocks of `BLOCK` of each kind, one after the other, so
    that whatever slows the machine slows both. The first step of a block finds the other's data in the caches and is
    left out.
    """
    trainer, other = build(recipe, turns * BLOCK), build(recipe, turns * BLOCK)
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

    def timed(epoch: int, step: int) -> Iterator[Any]:
        for number, batch in enumerate(stream(epoch, step)):
            if number % BLOCK == 0:
                bare.extend([bare_step() for _ in range(BLOCK)][1:])
            started = time.perf_counter()
            yield batch
            if number % BLOCK:
                trained.append(time.perf_counter() - started)

    trainer.loader.stream = timed
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
    print(f"{'recipe':<22} {'own ms':>8} {'bare ms':>9} {'trainer ms':>11} {'extra ms':>9} {'extra %':>8}")
    for recipe in arguments.recipes:
        own = statistics.median(own_seconds(recipe, arguments.turns * BLOCK)) * 1e3
        without, with_ = (statistics.median(kind) * 1e3 for kind in step_seconds(recipe, arguments.turns))
        extra = with_ - without
        print(f"{recipe:<22} {own:8.3f} {without:9.3f} {with_:11.3f} {extra:9.3f} {extra / without:8.1%}")
    with tempfile.TemporaryDirectory() as folder:
        command = ["recipe=rec/deepfm_toy", "train.max_steps=1", "train.max_epochs=null", "train.log_every=1"]
        first = [command_seconds(*command, "train.max_eval_batches=1", f"output_dir={folder}/{i}") for i in range(4)]
    print(f"one step, an evaluation and a save, from the command on (warm): {statistics.median(first[1:]):.2f} s")
    typo = [command_seconds("recipe=rec/deepfm_toy", "train.max_stepps=1") for _ in range(5)]
    print(f"a mistyped key is refused in {statistics.median(typo):.2f} s")


if __name__ == "__main__":
    main()
