"""LSTM language model: Zaremba, Sutskever and Vinyals, 2014, "Recurrent Neural Network Regularization"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class LMState:
    """N texts that are written on."""

    hidden: Tensor  # [N, S]
    attention: Tensor | None = None  # a language model looks at no source


class LSTMLM(nn.Module):
    """Stacked LSTM with dropout on what goes up, never on what goes on in time (eqs. 7-11 and figure 2).

    All weights start evenly between -`init` and `init` (section 4.1).

    Args:
        vocab_size: words.
        dim: width of a word vector and of a state.
        layers: LSTM layers.
        dropout: probability that a value is dropped, of word vectors, between layers, and before the output.
        init: see above.

    Shapes: tokens [B, T] int64, state [B, S] float32 -> what `output` makes logits of [B, T, dim], and the state after
    the last token. S is `state_size`: h and c of each layer, side by side; zeros begin a text.

    For decoding there are `start`, `step` and `reorder`; see `paddlenlp.layers.beam_search`.
    """

    def __init__(
        self, *, vocab_size: int, dim: int = 200, layers: int = 2, dropout: float = 0.0, init: float = 0.1
    ) -> None:
        super().__init__()
        self.dim, self.layers, self.state_size = dim, layers, 2 * layers * dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.lstm = nn.LSTM(dim, dim, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.output = nn.Linear(dim, vocab_size)
        self.dropout = nn.Dropout(dropout)
        for p in self.parameters():
            nn.init.uniform_(p, -init, init)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state.unflatten(1, (2, self.layers, self.dim)).permute(1, 2, 0, 3).contiguous()  # [layers, B, dim]
        words = self.dropout(self.embedding(tokens))
        features, (h, c) = self.lstm(words, (h, c))
        return self.dropout(features), torch.stack([h, c]).permute(2, 0, 1, 3).flatten(1)

    def start(self, source: Tensor, *, attention: bool = False) -> LMState:
        """Empty texts, as many as `source` [B, ...] has rows."""
        return LMState(self.output.weight.new_zeros(len(source), self.state_size))

    def step(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """The last word of each text [N] -> logits of the next one [N, V]."""
        features, state.hidden = self(tokens[:, None], state.hidden)
        return self.output(features[:, 0]), state

    def reorder(self, state: LMState, index: Tensor) -> LMState:
        """Go on with the texts `index` [B', K'] int64 of the N present ones."""
        state.hidden = state.hidden[index.reshape(-1)]
        return state
