"""What every recipe is tested for without a line of its own: small runs on toy data that a test can compare.

`python -m paddlecore.testing <folder> <recipe> ...` runs them on this rank of a job and writes what came out, for the
tests that compare two ranks with one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from paddlecore import config, distributed, run
from paddlecore.data import DataModule
from paddlecore.journal import Tape
from paddlecore.schema import RunConfig
from paddlecore.trainer import Trainer

BATCH = 8  # rows of a step; divides into two ranks and two halves


def small(recipe: str) -> list[str]:
    """Overrides that make a heavy recipe cheap to sweep (narrow layers, small images): tests/recipes/small.json."""
    path = config.config_root().parent / "tests" / "recipes" / "small.json"
    found: list[str] = json.loads(path.read_text()).get(recipe, []) if path.is_file() else []
    return found


def tiny(recipe: str, *overrides: str) -> RunConfig:
    """A recipe on its toy data for four steps of eight rows on the CPU; `overrides` come last."""
    return config.compose(
        [
            f"recipe={recipe}",
            "data.source=toy",
            f"data.batch_size={BATCH}",
            "data.workers=0",
            "device=cpu",
            "train.max_steps=4",
            "train.max_epochs=null",
            "train.precision=fp32",  # in bf16 two halves round otherwise than the whole
            "train.log_every=1",
            "train.eval_every=1000",
            "train.max_eval_batches=4",
            *small(recipe),
            *overrides,
        ]
    )


def tiny_trainer(
    recipe: str,
    *overrides: str,
    quiet: bool = False,
    folder: Path | None = None,
    last: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Trainer, DataModule]:
    """The trainer of such a run. `quiet` turns dropout off, for comparisons where pieces draw other masks."""
    trainer, data = run.build_trainer(tiny(recipe, *overrides), torch.device(device), folder, last)
    trainer.journal = Tape()
    if quiet:
        still(trainer.task)
    return trainer, data


def losses(trainer: Trainer) -> list[float]:
    """The training losses that such a trainer has logged, of its first phase."""
    assert isinstance(trainer.journal, Tape)
    phase = next(iter(trainer.optimizers))
    return trainer.journal.of("train", "loss" if len(trainer.optimizers) == 1 else f"{phase}/loss")


def still(module: nn.Module) -> None:
    """Turn off dropout of every kind."""
    for child in module.modules():
        if isinstance(child, nn.modules.dropout._DropoutNd):
            child.p = 0.0
        elif isinstance(child, nn.RNNBase):
            child.dropout = 0.0


def frozen_statistics(module: nn.Module) -> None:
    """Batch norms use their running statistics, also in training: halves of a batch have other statistics than the
    whole.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train(False)
            child.train = lambda mode=True, child=child: child  # type: ignore[method-assign, misc]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.task.state_dict().items()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[float, str]:
    """Largest absolute difference of two state dicts, and where it is."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return max((float((a[k].double() - b[k].double()).abs().max()) if a[k].numel() else 0.0, k) for k in a)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that tell a process that it is a rank of a job on this machine, as torchrun sets them."""
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    return {**own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def begin(arguments: Sequence[str], ranks: int) -> list[subprocess.Popen[str]]:
    """Start `python <arguments>` on `ranks` processes of one gloo job."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **rank_environment(rank, ranks, port)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]


def launch(arguments: Sequence[str], ranks: int) -> list[subprocess.CompletedProcess[str]]:
    """As `begin`, and wait for all; a test that hangs fails."""
    processes = begin(arguments, ranks)
    done = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            for p in processes:
                p.kill()
            raise
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def sweep(folder: Path, recipes: Sequence[str]) -> None:
    """Four quiet steps and an evaluation of each recipe on this job's ranks; rank 0 writes weights, losses and
    metrics.
    """
    distributed.start("cpu")
    try:
        for recipe in recipes:
            trainer, data = tiny_trainer(recipe, quiet=True)
            trainer.fit()
            metrics = trainer.evaluate(data.rows(data.splits[-1]))
            if distributed.rank() == 0:
                name = recipe.replace("/", "_")
                save_file(
                    {k: v.contiguous().clone() for k, v in weights(trainer).items()}, folder / f"{name}.safetensors"
                )
                (folder / f"{name}.json").write_text(json.dumps({"losses": losses(trainer), "metrics": metrics}))
    finally:
        distributed.stop()


if __name__ == "__main__":
    sweep(Path(sys.argv[1]), sys.argv[2:])
