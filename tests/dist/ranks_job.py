"""What two ranks compute, written to a folder by rank 0 for the tests to compare with one process.

python ranks_job.py <folder> <part>
"""

from __future__ import annotations

import json
import os
import signal
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import parts

from paddlecore import checkpoint, distributed
from paddlecore.data import ArrayRows, eval_batches
from paddlecore.metric import Accuracy

RUNS: dict[str, dict[str, Any]] = {
    "dense": {"section": {"tables_weight_decay": 0.01}, "clip_norm": 0.5},
    "dense_all": {"section": {"tables_weight_decay": 0.01, "tables_decay_rows": "all"}},
    "adam_rows": {"section": {"tables": "rows", "tables_weight_decay": 0.01}, "clip_norm": 0.5},
    "dense_adam_rows": {"section": {"tables": "rows", "tables_rule": "dense_adam"}, "clip_norm": 0.5},
    "adagrad_rows": {"section": {"tables": "rows", "tables_rule": "adagrad"}},
    "batch_norm": {"net": {"batch_norm": True}},
    "batch_norm_recomputed": {"net": {"batch_norm": True}, "activation_checkpointing": True},
    "uneven": {"batch_size": 5},
    "fewer_rows_than_ranks": {"rows": 1, "batch_size": 2},
    "ema": {"ema": 0.9},
}


def make(name: str, **options: Any) -> Any:
    run = {**RUNS[name], **options}
    torch.manual_seed(5)
    task = parts.Regression(parts.Net(**run.pop("net", {})))
    return parts.trainer(task, parts.rows(run.pop("rows", 103)), max_steps=run.pop("max_steps", 10), **run)


def equal_runs(folder: Path) -> None:
    for name in RUNS:
        trainer = make(name)
        trainer.fit()
        write(folder, name, trainer)
    # pieces have masks of their own: two ranks draw those of two halves
    torch.manual_seed(5)
    trainer = parts.trainer(parts.Regression(parts.Net(dropout=0.3)), max_steps=10)
    trainer.fit()
    write(folder, "dropout", trainer)
    from test_trainer import Gan, gan

    trainer = parts.trainer(Gan(gan()), section={"phases": {"judge": {"lr": 0.05}}}, max_steps=10)
    trainer.fit()
    write(folder, "gan", trainer)


def write(folder: Path, name: str, trainer: Any) -> None:
    if distributed.rank() == 0:
        save_file(parts.weights(trainer.task), folder / f"{name}.safetensors")


def batch_norm(folder: Path) -> None:
    """Forward, gradients and statistics over uneven ranks."""
    norm = distributed.sync_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
    with torch.no_grad():
        norm[0].weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 4, 2), dtype=np.float32)) * 3 + 10
    mine = x[:4] if distributed.rank() == 0 else x[4:]
    mine.requires_grad_()
    for _ in range(2):
        out = norm(mine)
    out.pow(3).sum().backward()
    gathered = {
        "out": distributed.gather_rows(out), "grad": distributed.gather_rows(mine.grad),
        "weight_grad": distributed.all_reduce(norm[0].weight.grad),
        "mean": norm[0].running_mean, "var": norm[0].running_var, "steps": norm[0].num_batches_tracked,
    }  # fmt: skip
    if distributed.rank() == 0:
        save_file({k: v.detach().contiguous() for k, v in gathered.items()}, folder / "bn.safetensors")


def metrics(folder: Path) -> None:
    random = np.random.default_rng(1)
    data = ArrayRows({"s": random.standard_normal((23, 4), dtype=np.float32), "y": random.integers(0, 4, 23)})
    metric, seen = Accuracy(top_k=(1, 2)), []
    for batch in eval_batches(data, 5):
        metric.update(batch["s"], batch["y"])
        seen.append(len(batch["y"]))
    metric.sync()
    values = [metric.compute(), distributed.broadcast(seen, 1), int(metric.rows)]
    if distributed.rank() == 0:
        (folder / "metrics.json").write_text(json.dumps(values))


class Recording(ArrayRows):
    """Rows that say which they are."""

    def fetch(self, rows: np.ndarray, epoch: int) -> dict[str, Any]:
        return super().fetch(rows, epoch) | {"which": [(epoch, row) for row in rows.tolist()]}


def recorded(folder: Path, steps: int) -> None:
    """Go on to `steps` from where the folder stands, on however many ranks there are; write down what steps get."""
    last = checkpoint.latest(folder / "checkpoints")
    torch.manual_seed(5)
    trainer = parts.trainer(
        data=Recording(parts.rows(103).columns),
        batch_size=10, max_steps=steps, folder=folder, resume_from=last, save_every=100,
    )  # fmt: skip

    def write(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        with open(folder / f"rows_{distributed.rank()}.txt", "a") as file:
            file.writelines(f"{epoch} {row}\n" for epoch, row in given[0]["which"])

    trainer.task.register_forward_pre_hook(write)
    trainer.fit()


def stopped(folder: Path) -> None:
    """Rank 1 alone is asked to stop; both must, at the same step, with one checkpoint."""
    trainer = make("dense", folder=folder, max_steps=100_000)
    advance = trainer._advance

    def ask(sums: list[torch.Tensor]) -> None:
        advance(sums)
        if trainer.step == 5 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._advance = ask
    try:
        trainer.fit()
    except parts.Stopped as error:
        (folder / f"stopped_{distributed.rank()}").write_text(str(trainer.step))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with distributed.job("cpu"):
        group = weakref.ref(distributed.dist.group.WORLD) if distributed.world_size() > 1 else lambda: None
        if sys.argv[2] == "equal":
            sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))
            equal_runs(where)
            batch_norm(where)
            metrics(where)
        elif sys.argv[2] == "stopped":
            stopped(where)
        else:
            recorded(where, int(sys.argv[2]))
    assert group() is None  # a group that outlives the interpreter may abort the process
