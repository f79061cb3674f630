"""Click-through rate: will this row be a 1?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlerec.metrics import AUC, GAUC, LogLoss


class CTR(Task):
    """Binary cross-entropy of one logit a row.

    Batch: ids [B, F] int32 or int64, dense [B, D] float32 (left out where there are none), label [B] float32, 0 or 1;
    and what the model's `history_fields` names, [B, T] int64 each, padded with 0; for `gauc` user [B] int64. A model
    does not look at anything else, which a warning says of it.
    Prediction: score [B] the logit, probability [B].

    Args:
        model: maps (ids, dense or None), and with `history_fields` {name: history}, to logits [B].
        gauc: measure the AUC within users, too; the data have to say whose each row is.
    """

    def __init__(self, model: nn.Module, gauc: bool = False) -> None:
        super().__init__(model)
        self.gauc = gauc

    def logit(self, batch: Batch) -> Tensor:
        """[B] float32; a task with other inputs overrides it."""
        if unread := batch.keys() - {"ids", "dense", "label", "user", *getattr(self.model, "history_fields", ())}:
            warnings.warn(
                f"{type(self.model).__name__} does not look at {', '.join(sorted(unread))}; of sequences, DeepCTR "
                "takes those that are `shared` with a categorical column",
                stacklevel=2,
            )
        histories = {name: batch[name] for name in getattr(self.model, "history_fields", ())}
        return self.model(batch["ids"], batch.get("dense"), *([histories] if histories else [])).float()

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        logit = self.logit(batch)
        self._check_users(batch)  # here, rather than at the end of an epoch
        loss = nn.functional.binary_cross_entropy_with_logits(logit, batch["label"], reduction="sum")
        return StepOutput(loss, torch.tensor(len(logit)), {})

    def _check_users(self, batch: Batch) -> None:
        if self.gauc and "user" not in batch:
            raise ConfigError("task.gauc needs the user of each row: set data.user, the column that says it")

    def predict(self, batch: Batch) -> Prediction:
        score = self.logit(batch)
        return {"score": score, "probability": score.sigmoid()}

    def metrics(self) -> list[Metric]:
        return [AUC(), *([GAUC()] if self.gauc else []), LogLoss()]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        self._check_users(batch)
        for metric in metrics:
            users = [batch["user"]] if isinstance(metric, GAUC) else []
            metric.update(prediction["score"], batch["label"], *users)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        return [{"probability": round(p, 6)} for p in prediction["probability"].tolist()]
