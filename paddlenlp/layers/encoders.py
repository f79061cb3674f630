"""From the word vectors of a text to one vector: what sentiment and matching models share.

All take words [B, T, D], zero beyond the end of a text, and lengths [B] int64, and give [B, size]. What a text gives
does not depend on how far its batch is padded, and a text without tokens gives zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def text_lengths(tokens: Tensor, pad_id: int) -> Tensor:
    """tokens [B, T] int64, padded on the right -> [B] int64: the place of the last token, counted from 1; 0 = none."""
    steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens != pad_id, steps, 0).amax(1)


def word_vectors(vocab_size: int, dim: int, pad_id: int, bound: float = 0.1) -> nn.Embedding:
    """A table drawn uniformly from [-bound, bound]; the vector of `pad_id` is zero and stays zero."""
    table = nn.Embedding(vocab_size, dim, padding_idx=pad_id)
    with torch.no_grad():
        table.weight.uniform_(-bound, bound)[pad_id] = 0.0
    return table


def highest(states: Tensor, lengths: Tensor) -> Tensor:
    """The maximum of each feature over the steps of each text, 0 without any: [B, T, H], [B] -> [B, H]."""
    beyond = torch.arange(states.shape[1], device=states.device) >= lengths[:, None]  # [B, T]
    found = states.masked_fill(beyond[:, :, None], -torch.inf).amax(1)
    return torch.where(lengths[:, None] > 0, found, 0.0)


def _last(states: Tensor, lengths: Tensor) -> Tensor:
    """The state at the last step of each text: [B, T, H] -> [B, H]."""
    place = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, place).squeeze(1) * (lengths > 0)[:, None]


class BagOfWords(nn.Module):
    """The sum of the word vectors."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.size = dim

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        return words.sum(1)


class Convolution(nn.Module):
    """tanh of filters over `width` words around each word, and the maximum of each over the text.

    Beyond the ends of a text the words are zero vectors. Of an even width, the place more lies to the right.
    """

    def __init__(self, *, dim: int, maps: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.size = maps
        self.filters = nn.Conv1d(dim, maps, width, padding="same")

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        scores = self.filters(words.transpose(1, 2)).transpose(1, 2)  # [B, T, maps]
        # tanh never falls, so it may follow the maximum, at a fraction of the work; and tanh(0) = 0 for empty texts
        return highest(scores, lengths).tanh()


class Recurrent(nn.Module):
    """An LSTM or GRU over the words from left to right, and with `both_ways` a second one from the last word back.

    The steps of padding come last, and backwards they are left out by turning each text round by itself. So no state
    that counts has seen padding.

    Args:
        kind: lstm or gru; the gates are those of `torch.nn.LSTM` and `torch.nn.GRU`.
        dim: width of a word vector.
        hidden: width of a state.
        pool: last = the state after the last word (of the backward one: after the first); max = the maximum of each
            feature over the text.
        both_ways: add the backward one; `size` is then 2 x hidden.
    """

    def __init__(self, *, kind: str, dim: int, hidden: int, pool: str = "last", both_ways: bool = False) -> None:
        super().__init__()
        if kind not in ("lstm", "gru") or pool not in ("last", "max"):
            raise ValueError(f"kind must be lstm or gru and pool last or max, got {kind!r} and {pool!r}")
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.size = 2 * hidden if both_ways else hidden
        self.pool = highest if pool == "max" else _last
        self.forwards = cell(dim, hidden, batch_first=True)
        self.backwards = cell(dim, hidden, batch_first=True) if both_ways else None

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        found = self.pool(self.forwards(words)[0], lengths)  # [B, hidden]
        if self.backwards is None:
            return found
        steps = torch.arange(words.shape[1], device=words.device)
        mirrored = lengths[:, None] - 1 - steps
        place = torch.where(mirrored >= 0, mirrored, steps)  # [B, T]: padding stays where it is
        turned = words.gather(1, place[:, :, None].expand_as(words))
        return torch.cat([found, self.pool(self.backwards(turned)[0], lengths)], 1)
