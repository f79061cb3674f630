"""Task: what a kind of problem optimises, measures and predicts. The only seam between a model and the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from paddlecore.metric import Accuracy, Mean, Metric

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
    run_state: ClassVar[tuple[str, ...]] = ()
    """Buffers of the task that carry something from one training step to the next, as a recurrent network its states.

    They are saved in checkpoints, so that a run goes on exactly; they are no weights, so they do not travel in
    artefacts and need not fit.
    """

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

    def row_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """[B] how wrong the prediction of each row is; the largest are shown by `eval report=<folder>`."""
        raise NotImplementedError

    def for_inference(self, precision: str, channels_last: bool) -> None:
        """Make `predict` quicker by what can no longer be trained: called once, when the weights are loaded and will
        not change, with the recipe's `train.precision` and `train.channels_last`. Scores stay the same up to rounding.
        """

    def export(self) -> dict[str, Any]:
        """What others may want of the trained weights in files of its own, by name: tensors, and JSON-able values.

        `predict vectors=<folder>` writes it; empty where there is nothing of that kind.
        """
        return {}

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """A prediction as plain Python, one JSON-able dict per input; subclasses put in the names of labels."""
        rows = {k: v.tolist() if isinstance(v, Tensor) else list(v) for k, v in prediction.items()}
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


class Classification(Task):
    """One class of several for each row: cross-entropy, summed over the rows.

    Batch: `input` [B, ...], label [B] int64.
    Prediction: score [B, C] the logits, probability [B, C], label [B] int64 the most probable class.

    Args:
        model: maps `input` to logits [B, C].
        labels: names of the classes in order, for `render`; None = their numbers.
        label_smoothing: share of the target that is spread evenly over all classes, in training only (Szegedy et al.,
            2016, "Rethinking the Inception Architecture for Computer Vision", section 7).
        top_k: a row counts as right in `acc@k` if its class is among the k best, fewer than there are; the first one
            selects the checkpoint.
    """

    input: ClassVar[str]  # what the model is given: its name in the batch

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        label_smoothing: float = 0.0,
        top_k: list[int] | tuple[int, ...] = (1,),
    ) -> None:
        super().__init__(model)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        if not top_k or min(top_k) < 1 or len(set(top_k)) != len(top_k):
            raise ValueError(f"task.top_k must be different positive numbers, got {list(top_k)}")
        if labels is not None and max(top_k) > max(len(labels) - 1, 1):
            raise ValueError(
                f"task.top_k={list(top_k)}: there are {len(labels)} classes, so that every row would count as right in "
                f"acc@{max(top_k)}; give numbers below {len(labels)}"
            )
        self.labels, self.label_smoothing, self.top_k = labels, label_smoothing, tuple(top_k)

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        score = self.model(batch[self.input]).float()
        label = batch["label"]
        loss = nn.functional.cross_entropy(score, label, reduction="sum", label_smoothing=self.label_smoothing)
        right = (score.detach().argmax(1) == label).sum()
        return StepOutput(loss, torch.tensor(len(label)), {"acc": right})

    def predict(self, batch: Batch) -> Prediction:
        score = self.model(batch[self.input]).float()
        return {"score": score, "probability": score.softmax(1), "label": score.argmax(1)}

    def metrics(self) -> list[Metric]:
        return [Accuracy(self.top_k), Mean("loss")]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        accuracy, loss = metrics
        score, label = prediction["score"], batch["label"]
        accuracy.update(score, label)
        loss.update(nn.functional.cross_entropy(score, label, reduction="sum"), len(label))

    def row_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """[B] cross-entropy of each row."""
        return nn.functional.cross_entropy(prediction["score"], batch["label"], reduction="none")

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """label: the class's name; probability: the five most probable classes' names, best first."""
        best = prediction["probability"].topk(min(5, prediction["probability"].shape[1]))
        rows = []
        for label, values, classes in zip(prediction["label"].tolist(), *(t.tolist() for t in best), strict=True):
            named = {self._name(c): round(p, 6) for c, p in zip(classes, values, strict=True)}
            rows.append({"label": self._name(label), "probability": named})
        return rows

    def _name(self, label: int) -> str:
        return str(label) if self.labels is None else self.labels[label]
