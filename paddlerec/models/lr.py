"""Logistic regression over categorical fields and dense features: the baseline of click-through-rate prediction.

Richardson, Dominowska, Ragno, 2007, "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, check_dense


class LR(nn.Module):
    """logit = b + sum_f w[f, id_f] + <w_dense, x>.

    Args:
        vocab_sizes: ids of each categorical field.
        num_dense: dense features, D; may be 0.
        init_std: standard deviation of the initial weights of the ids.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0) -> logit [B].
    """

    def __init__(self, *, vocab_sizes: Sequence[int], num_dense: int = 0, init_std: float = 1e-4) -> None:
        super().__init__()
        self.num_dense = num_dense
        self.fields = FieldTable(vocab_sizes, 1, init_std=init_std)
        self.dense = nn.Linear(num_dense, 1, bias=False) if num_dense else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        check_dense(dense, self.num_dense)
        logit = self.bias + self.fields(ids).sum((1, 2))  # [B]
        if self.dense is not None:
            logit = logit + self.dense(dense).squeeze(1)
        return logit
