"""A user as the mean of what they had."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable


def mean_of_history(table: RowTable, history: Tensor) -> Tensor:
    """Mean of the rows of a history: [B, T] int64, padded with 0 anywhere -> [B, dim]; zeros where it is empty."""
    if torch.is_grad_enabled() and table.training:
        known = (history > 0).unsqueeze(2)  # [B, T, 1]
        return (table(history) * known).sum(1) / known.sum(1).clamp(min=1)
    # without a gradient the rows need not be laid out, [B, T, dim]
    return nn.functional.embedding_bag(history, table.weight, mode="mean", padding_idx=0)
