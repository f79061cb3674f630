"""What the trainer costs: its step against a bare loop, the time to a first step, and how fast a mistake is refused.

    python benchmarks/overhead.py

The bare loop makes the same forward, backward and optimiser calls on the same batches and nothing else. Both run in
turns in one process; figures are medians over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paddlecore import config, run  # noqa: E402
from paddlecore.data import to_device  # noqa: E402

CPU = torch.device("cpu")


def bare(recipe: str, steps: int, *overrides: str) -> float:
    """Seconds a step of a loop without a trainer, without the time to fetch batches."""
    trainer, _ = run.build_trainer(config.compose([f"recipe={recipe}", "data.source=toy", *overrides]), CPU)
    task, stream = trainer.task.train(), trainer.loader.stream(0, 0)
    (optimizer,) = trainer.optimizers.values()
    spent = 0.0
    for step in range(steps + 5):
        (batch,) = next(stream)
        assert batch is not None
        started = time.perf_counter()
        output = task(to_device(batch, CPU))
        output.loss_sum.backward()
        optimizer.collect()
        optimizer.scale(1.0 / float(output.weight))
        optimizer.step(1.0)
        optimizer.zero()
        spent += time.perf_counter() - started if step >= 5 else 0.0
    return spent / steps


def trained(recipe: str, steps: int, *overrides: str) -> float:
    """Seconds a step of `Trainer.fit`, without the time it waited for batches."""
    options = [f"train.max_steps={steps + 5}", "train.max_epochs=null", "train.eval_every=1000000"]
    cfg = config.compose([f"recipe={recipe}", "data.source=toy", *options, *overrides])
    trainer, _ = run.build_trainer(cfg, CPU)
    trainer.valid, marks, waited = None, [], 0.0
    advance, stream = trainer._advance, trainer.loader.stream

    def timed(epoch: int, step: int):  # noqa: ANN202
        nonlocal waited
        batches = stream(epoch, step)
        while True:
            started = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - started
            yield batch

    def mark(sums: list[torch.Tensor]) -> None:
        advance(sums)
        marks.append((time.perf_counter(), waited))

    trainer._advance, trainer.loader.stream = mark, timed  # type: ignore[method-assign, assignment]
    trainer.fit()
    (first, waited_before), (last, waited_after) = marks[4], marks[-1]
    return (last - first - (waited_after - waited_before)) / steps


def command_seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "tools" / "train.py"), *words], capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--recipes", nargs="+", default=["rec/deepfm_frappe", "cv/lenet_mnist", "nlp/textcnn_mr"])
    arguments = parser.parse_args()
    print(f"{'recipe':<22} {'bare ms':>9} {'trainer ms':>11} {'extra ms':>9} {'extra %':>8}")
    for recipe in arguments.recipes:
        pairs = [(bare(recipe, arguments.steps), trained(recipe, arguments.steps)) for _ in range(arguments.turns)]
        without, with_ = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        extra = statistics.median(b - a for a, b in pairs) * 1e3
        print(f"{recipe:<22} {without:9.3f} {with_:11.3f} {extra:9.3f} {extra / without:8.1%}")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        command = ["recipe=rec/deepfm_toy", "train.max_steps=1", "train.max_epochs=null", "train.log_every=1"]
        first = [command_seconds(*command, "train.max_eval_batches=1", f"output_dir={folder}/{i}") for i in range(4)]
    print(f"one step, an evaluation and a save, from the command on (warm): {statistics.median(first[1:]):.2f} s")
    typo = [command_seconds("recipe=rec/deepfm_toy", "train.max_stepps=1") for _ in range(5)]
    print(f"a mistyped key is refused in {statistics.median(typo):.2f} s")


if __name__ == "__main__":
    main()
