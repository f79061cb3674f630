"""Task: what a kind of problem optimises, measures and predicts. The only seam between a model and the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from paddlecore.metric import Metric

Batch = dict[str, Any]  # tensors with the batch in dim 0, and lists of Python objects where a tensor will not do
Prediction = dict[str, Any]


class StepOutput(NamedTuple):
    """What one forward of a task gives the trainer.

    The trainer divides `loss_sum` by the `weight` of the WHOLE step (all micro-batches, all ranks), once. So a task
    never averages, and one process, two accumulated halves and two ranks give the same gradient.
    """

    loss_sum: Tensor  # [] float: sum of the losses of everything that was counted
    weight: Tensor  # [] number: how many were counted - rows, target tokens, images
    logs: Mapping[str, Tensor]  # [] each: sums over the same count, shown divided by weight; detached


class Task(nn.Module):
    """Owns one model and one loss.

    Subclasses write `forward`, `predict`, `metrics` and `measure`, and override `render` where a prediction needs more
    than numbers to be read.

    `phases` names the optimisation phases of a step and, for each, the globs of the parameters it updates. Nearly
    every task has the one phase `main`; a GAN has two, run in this order in each step, each with its own optimiser.
    """

    phases: ClassVar[Mapping[str, tuple[str, ...]]] = {"main": ("*",)}

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        """Losses of one micro-batch in training mode. `batch` may be a part of a step's batch, never empty."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Prediction:
        """What the model says of `batch` in evaluation mode, labels not looked at. Tensors have the batch in dim 0."""
        raise NotImplementedError

    def metrics(self) -> list[Metric]:
        """Fresh metrics of an evaluation; the first name of the first one selects the best checkpoint."""
        raise NotImplementedError

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        """Feed one batch's prediction and labels to `metrics` (those that `metrics()` made)."""
        raise NotImplementedError

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """A prediction as plain Python, one JSON-able dict per input; subclasses put in the names of labels."""
        rows = {k: v.tolist() if isinstance(v, Tensor) else list(v) for k, v in prediction.items()}
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
