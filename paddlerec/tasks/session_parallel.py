"""Next item from session-parallel batches: the state of each session is carried from step to step."""

from __future__ import annotations

import torch
from torch import nn

from paddlecore import distributed
from paddlecore.task import Batch, StepOutput
from paddlerec.layers.sampled_losses import bpr_max, sampled_softmax, top1_max
from paddlerec.tasks.next_item import NextItem

_LOSSES = ("cross-entropy", "bpr-max", "top1-max")


class SessionParallel(NextItem):
    """Trains a recurrent model one click a step and slot, against the candidates of the step; ranks like `NextItem`.

    The states of all slots, `state` [slots, S], are a buffer: they are saved with the weights, so a run goes on in the
    middle of its sessions. Each piece of a step (micro-batch, rank) changes the rows of its slots; with several ranks
    those are added up over ranks after each piece, so that every rank has them all.

    Batch: history [b, 1] int64 the click, slot [b] int64, first [b] bool (the session begins: its state starts at 0),
    candidates [C] int64, of which column `slot` is the row's own target; log_q [C] float32; hits [n] int64, where else
    in the scores [b, C] the row's target stands: there it is no negative. To be evaluated: see `NextItem`.

    Args:
        model: has, beside what `NextItem` needs, `state_size` and
            `forward(click [b], state [b, S], candidates [C]) -> query [b, d], state, rows [C, d + 1]`: vector and bias.
        slots: rows of a whole step.
        loss: cross-entropy, bpr-max or top1-max; see `layers/sampled_losses.py`.
        regularisation: of bpr-max.
        elu: alpha of bpr-max's ELU; 0 = none.
        logq: times log_q that is taken off the scores in training, so that items which are often among the candidates
            are not pushed down for that. 1 makes the loss estimate the full softmax (Bengio and Senecal, 2008,
            "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model").
        labels, measures, top, index: see `ItemRanking`.
    """

    run_state = ("state",)
    state: torch.Tensor  # [slots, state_size]

    def __init__(
        self,
        model: nn.Module,
        slots: int,
        labels: list[str] | None = None,
        loss: str = "cross-entropy",
        regularisation: float = 1.0,
        elu: float = 0.0,
        logq: float = 0.0,
        measures: list[str] | tuple[str, ...] = ("recall@20", "mrr@20"),
        top: int = 10,
        index: str = "exact",
    ) -> None:
        super().__init__(model, labels, measures, top, index=index)
        if loss not in _LOSSES:
            raise ValueError(f"task.loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if min(regularisation, elu) < 0:
            raise ValueError(f"task.regularisation and task.elu must not be negative, got {regularisation}, {elu}")
        self.loss, self.regularisation, self.elu, self.logq = loss, regularisation, elu, logq
        self.register_buffer("state", torch.zeros(slots, model.state_size))  # type: ignore[call-overload]

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        slot = batch["slot"]
        before = self.state[slot].masked_fill_(batch["first"].unsqueeze(1), 0.0)
        query, after, items = self.model(batch["history"][:, -1], before, batch["candidates"])
        self._carry(slot, after.detach())
        offset = batch["log_q"] * -self.logq if self.logq else None
        columns = (items, offset, slot, batch["hits"])
        if self.loss == "cross-entropy":
            loss = sampled_softmax(query, *columns)
        elif self.loss == "bpr-max":
            loss = bpr_max(query, *columns, regularisation=self.regularisation, elu=self.elu)
        else:
            loss = top1_max(query, *columns)
        return StepOutput(loss, torch.tensor(len(slot)), {})

    def _carry(self, slot: torch.Tensor, after: torch.Tensor) -> None:
        """Keep the states for the next step."""
        if distributed.world_size() > 1:
            slot, after = distributed.gather_rows(slot), distributed.gather_rows(after)
        self.state[slot] = after
