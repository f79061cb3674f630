"""From the vectors of a sequence to one vector: bag of words, convolution, or a recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def last_state(gru: nn.GRU, vectors: Tensor, lengths: Tensor) -> Tensor:
    """The state after each sequence's last vector: [B, T, I], [B] int64, at least 1 each -> [B, H].

    On a CPU the sequences are packed, so that padding costs nothing; their lengths have to be known to the host, for
    which a GPU would be waited for, and there the states of all places are made.
    """
    if vectors.device.type == "cpu":
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        return gru(packed)[1][0]
    return _state_at(gru(vectors)[0], lengths)


def _state_at(states: Tensor, lengths: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), lengths - 1]


class SequenceEncoder(nn.Module):
    """One vector for a sequence, as the encoders of SimNet give it; padding takes no part, an empty sequence gives 0.

    - bow: softsign of the sum, x / (1 + |x|);
    - cnn: tanh of the maximum over time of `dim` filters of `width` places, zero vectors beyond both ends;
    - gru: the last state of a GRU with `dim` units (Cho et al., 2014, EMNLP).

    Args:
        kind: bow, cnn or gru.
        dim: width of the vectors, and of the result.
        width: places that a filter of cnn sees; odd.

    Shapes: vectors [M, T, dim], inside [M, T] bool (is a place no padding?) -> [M, dim]. For gru, padding stands right.
    """

    def __init__(self, kind: str, dim: int, width: int = 3) -> None:
        super().__init__()
        if kind not in ("bow", "cnn", "gru"):
            raise ValueError(f"an encoder is bow, cnn or gru, got {kind!r}")
        if width % 2 == 0:
            raise ValueError(f"width must be odd, so that a window has a middle; got {width}")
        self.kind = kind
        self.convolution = nn.Conv1d(dim, dim, width, padding=width // 2) if kind == "cnn" else None
        self.gru = nn.GRU(dim, dim, batch_first=True) if kind == "gru" else None

    def forward(self, vectors: Tensor, inside: Tensor) -> Tensor:
        if not vectors.shape[1]:
            return vectors.new_zeros(len(vectors), vectors.shape[2])
        vectors = vectors * inside.unsqueeze(2)
        if self.convolution is not None:
            places = self.convolution(vectors.transpose(1, 2))  # [M, dim, T]
            most = places.masked_fill(~inside.unsqueeze(1), -torch.inf).amax(2)
            return torch.where(inside.any(1, keepdim=True), most, 0.0).tanh()
        if self.gru is not None:
            lengths = inside.sum(1)
            return last_state(self.gru, vectors, lengths.clamp(min=1)) * (lengths > 0).unsqueeze(1)
        return nn.functional.softsign(vectors.sum(1))
