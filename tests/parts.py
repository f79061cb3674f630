"""Small tasks and a short way to a Trainer, shared by the tests of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paddlecore import optim
from paddlecore.data import ArrayRows, Loader, Plan
from paddlecore.errors import Stopped as Stopped
from paddlecore.journal import Tape
from paddlecore.metric import Mean, Metric
from paddlecore.optim import LRSchedule
from paddlecore.schema import Train
from paddlecore.sparse import RowTable
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlecore.trainer import Trainer

CPU = torch.device("cpu")


class Net(nn.Module):
    """A table, two blocks with dropout and batch norm, and a head: [B, 2] ids and [B, 3] numbers -> [B]."""

    def __init__(self, *, rows: int = 20, dim: int = 4, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        self.table = RowTable(rows, dim, init_std=0.5)
        width = 2 * dim + 3

        def block() -> nn.Sequential:
            norm = [nn.BatchNorm1d(width)] if batch_norm else []
            # batch norm takes the mean away, so a bias before it has a gradient of rounding errors only
            linear = nn.Linear(width, width, bias=not batch_norm)
            return nn.Sequential(linear, *norm, nn.Tanh(), nn.Dropout(dropout))

        self.blocks = nn.ModuleList([block(), block()])
        self.head = nn.Linear(width, 1)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        h = torch.cat([self.table(ids).flatten(1), x], 1)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h).squeeze(1)


class Regression(Task):
    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        out = self.model(batch["ids"], batch["x"])
        loss = nn.functional.mse_loss(out.float(), batch["y"], reduction="sum")
        return StepOutput(loss, torch.tensor(len(out)), {"size": torch.tensor(float(len(out)))})

    def predict(self, batch: Batch) -> Prediction:
        return {"y": self.model(batch["ids"], batch["x"])}

    def metrics(self) -> list[Metric]:
        return [Mean("mse")]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        error = (prediction["y"].float() - batch["y"]).square()
        metrics[0].update(error.sum(), len(error))


def rows(size: int = 103, seed: int = 0) -> ArrayRows:
    random = np.random.default_rng(seed)
    x = random.standard_normal((size, 3), dtype=np.float32)
    ids = random.integers(0, 20, (size, 2))
    y = (x @ np.array([1.0, -2.0, 0.5], dtype=np.float32) + (ids[:, 0] % 3)).astype(np.float32)
    return ArrayRows({"ids": ids, "x": x, "y": y})


def trainer(
    task: Task | None = None,
    data: ArrayRows | None = None,
    *,
    section: dict[str, Any] | None = None,
    batch_size: int = 16,
    accumulate: int = 1,
    workers: int = 0,
    folder: Path | None = None,
    resume_from: Path | None = None,
    valid: ArrayRows | None = None,
    seed: int = 5,
    **options: Any,
) -> Trainer:
    """A trainer on `Regression` unless told otherwise; `journal` is a Tape."""
    if task is None:
        torch.manual_seed(seed)
        task = Regression(Net())
    data = rows() if data is None else data
    section = {"_target_": "torch.optim.Adam", "lr": 0.01, **(section or {})}
    options = {"max_epochs": None, "max_steps": 8, "log_every": 1, **options}
    plan = Plan(len(data), batch_size, seed=seed)
    optimizers = {phase: optim.build(task, section, phase, globs) for phase, globs in task.phases.items()}
    schedules = {
        phase: LRSchedule(section.get("schedule", {}), options["max_steps"], plan.steps(0)) for phase in task.phases
    }
    return Trainer(
        task,
        optimizers,
        schedules,
        Loader(data, plan, accumulate=accumulate, workers=workers),
        Train(**options),
        device=CPU,
        seed=seed,
        folder=folder,
        resume_from=resume_from,
        valid=valid,
        eval_batch_size=32,
        journal=Tape(),
    )


def weights(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


class Largest(TorchDispatchMode):
    """The largest tensor with storage of its own that any operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {a.untyped_storage().data_ptr() for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)}
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in given:
                self.numel = max(self.numel, value.numel())
        return out
