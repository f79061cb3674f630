"""Language model: which word comes next?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from paddlecore import distributed
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlenlp.layers.beam_search import check_sampling, sample
from paddlenlp.layers.smoothing import token_losses
from paddlenlp.metrics import Perplexity


class LanguageModel(Task):
    """Cross-entropy of the next word, with the state of each stream carried from step to step; perplexity; writing.

    The states of all streams, `state` [slots, S], are a buffer: they are saved in checkpoints, so a run goes on in the
    middle of its text. Each piece of a step (micro-batch, rank) changes the rows of its streams.

    Batch: tokens [b, T] and target [b, T] int64, where a target of `pad_id` does not count; in training also slot [b]
    int64 and first [b] bool, the state is empty. To write on: tokens [b, P] alone, padded on the right.
    Prediction: tokens [b, 1, L] int64, what is written after them; empty for a batch with targets.

    Args:
        model: see `paddlenlp.models.LSTMLM`.
        vocabulary: words by their ids.
        slots: streams, the rows of a whole step.
        pad_id: padding.
        end_id: ends a line, and stands before the text.
        unknown_id: stands for other words; never written.
        length: most words that are written.
        temperature: of sampling; see `sample`.
        top_k: words that are drawn from; 1 = always the most probable; None = all.
        top_p: see `sample`.
        sample_seed: of what is drawn.
        unit: what the vocabulary's tokens are, for the metric's signature: word or character.
        separator: between words that are written.
    """

    run_state = ("state",)
    state: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        vocabulary: list[str],
        slots: int,
        pad_id: int,
        end_id: int,
        unknown_id: int,
        length: int = 20,
        temperature: float = 1.0,
        top_k: int | None = 40,
        top_p: float | None = None,
        sample_seed: int = 1,
        unit: str = "word",
        separator: str = " ",
    ) -> None:
        super().__init__(model)
        if length < 1:
            raise ValueError(f"task.length must be at least 1, got {length}")
        check_sampling(temperature, top_k, top_p)
        self.vocabulary, self.pad_id, self.end_id, self.unknown_id = vocabulary, pad_id, end_id, unknown_id
        self.length, self.temperature, self.top_k, self.top_p = length, temperature, top_k, top_p
        self.sample_seed, self.unit, self.separator = sample_seed, unit, separator
        self.register_buffer("state", torch.zeros(slots, cast(int, model.state_size)))

    def _loss(self, batch: Batch, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The sum of -log P, how many targets count, and the state after them."""
        features, after = self.model(batch["tokens"], state)
        loss, _, tokens = token_losses(self.model.output, features, batch["target"], self.pad_id, 0.0)  # type: ignore[arg-type]
        return loss, tokens, after

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        slot = batch["slot"]
        before = self.state[slot].masked_fill_(batch["first"][:, None], 0.0)
        loss, tokens, after = self._loss(batch, before)
        after = after.detach().float()
        if distributed.world_size() > 1:
            slot, after = distributed.gather_rows(slot), distributed.gather_rows(after)
        self.state[slot] = after
        return StepOutput(loss, tokens, {})

    def predict(self, batch: Batch) -> Prediction:
        if "target" in batch:
            return {}
        given = batch["tokens"]
        found = sample(
            self.model,  # type: ignore[arg-type]
            given,
            bos_id=self.end_id,
            eos_id=self.end_id,
            pad_id=self.pad_id,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            max_ratio=1.0,
            max_extra=self.length + 1,  # the end token counts there
            prefix=given,
            banned=(self.unknown_id,),
            generators=[torch.Generator(given.device).manual_seed(self.sample_seed) for _ in given],
        )
        # each row from behind what it was given
        tokens = nn.functional.pad(found.tokens[:, 0], (0, 1), value=self.pad_id)  # [b, L + 1]
        lengths = (given != self.pad_id).sum(1, keepdim=True)
        places = lengths + torch.arange(self.length + 1, device=given.device)
        return {"tokens": tokens.gather(1, places.clamp(max=tokens.shape[1] - 1))[:, None]}

    def metrics(self) -> list[Metric]:
        return [Perplexity(self.unit)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        state = self.state.new_zeros(len(batch["tokens"]), self.state.shape[1])
        loss, tokens, _ = self._loss(batch, state)
        metrics[0].update(loss, tokens)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """text: the words that are written, up to the end of the line."""
        rows = []
        for (tokens,) in prediction["tokens"].tolist():
            words = [t for t in tokens if t != self.pad_id]
            end = words.index(self.end_id) if self.end_id in words else len(words)
            rows.append({"text": self.separator.join(self.vocabulary[t] for t in words[:end])})
        return rows
