"""The embeddings of all categorical fields in one table, read by one gather."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable


class FieldTable(nn.Module):
    """One `RowTable` for all fields: field f owns the rows from sum(vocab_sizes[:f]) on.

    One table means one gather, one gradient and one update for each step, whatever the number of fields.

    Args:
        vocab_sizes: rows of each field, ids that were never seen included.
        dim: width of a row.
        init_std: standard deviation of the normal initialisation.

    Shapes: ids [..., F] int32 or int64, each in 0..vocab_sizes[f]-1 -> [..., F, dim]. An id beyond its field is not
    refused: it reads a row of the next field.
    """

    offsets: Tensor  # [F] int64: where each field's rows begin

    def __init__(self, vocab_sizes: Sequence[int], dim: int, *, init_std: float = 1e-4) -> None:
        super().__init__()
        if not vocab_sizes or min(vocab_sizes) < 1:
            raise ValueError(f"vocab_sizes needs a field, and in each field an id; got {list(vocab_sizes)}")
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        ends = list(accumulate(vocab_sizes))
        self.table = RowTable(ends[-1], dim, init_std=init_std)
        # follows from vocab_sizes, so it is no part of the weights
        self.register_buffer("offsets", torch.tensor([0, *ends[:-1]]), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids + self.offsets)


def check_dense(dense: Tensor | None, num_dense: int) -> None:
    """Raises ValueError: `dense` is missing and the model was built with dense features, or the other way round."""
    if (dense is None) != (num_dense == 0):
        raise ValueError("dense must be given if num_dense > 0, and only then")


def with_dense(flat: Tensor, dense: Tensor | None, num_dense: int) -> Tensor:
    """The input of a network over fields: flat [B, F * dim], dense [B, D] float32 or None -> [B, F * dim + D].

    Raises:
        ValueError: see `check_dense`.
    """
    check_dense(dense, num_dense)
    return flat if dense is None else torch.cat([flat, dense], 1)
