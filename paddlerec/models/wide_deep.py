"""Wide & Deep: a linear model that remembers beside a deep network that generalises.

Cheng, Koc, Harmsen, Shaked, Chandra, ..., Shah, 2016, "Wide & Deep Learning for Recommender Systems", DLRS.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, mlp, with_dense


class WideDeep(nn.Module):
    """logit = w_wide . [x, crosses(x)] + w_deep . a(x) + b, trained together (eq. 3).

    Wide: a weight for each id, each dense feature, and each value of the cross products that `crosses` names (eq. 1).
    Deep: fully connected layers on the embeddings and the dense features (eq. 2). An id's row of the table is its
    embedding and, in the last column, its wide weight, so one gather serves both.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        hidden: widths of the deep network's layers.
        dropout: probability that a hidden unit is dropped.
        batch_norm: batch norm after each hidden linear layer.
        crosses: cross products of the wide part, each the positions of its fields: [[0, 1], [0, 2, 5]].
        cross_rows: most weights of a cross product. One with more combinations is hashed into that many.
        init_std: standard deviation of the initial embeddings and wide weights.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0) -> logit [B].
    """

    def __init__(
        self,
        *,
        vocab_sizes: Sequence[int],
        num_dense: int = 0,
        dim: int = 16,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        crosses: Sequence[Sequence[int]] = (),
        cross_rows: int = 100_000,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        self.dim, self.num_dense = dim, num_dense
        self.sizes = list(vocab_sizes)
        self.fields = FieldTable(vocab_sizes, dim + 1, init_std=init_std)
        for fields in crosses:
            if len(fields) < 2 or len(set(fields)) < len(fields) or not set(fields) <= set(range(len(self.sizes))):
                raise ValueError(
                    f"a cross needs two or more of the fields 0..{len(self.sizes) - 1}, got {list(fields)}"
                )
        self.crosses = [list(fields) for fields in crosses]
        self.cross_sizes = [min(prod(self.sizes[f] for f in fields), cross_rows) for fields in crosses]
        self.cross_table = FieldTable(self.cross_sizes, 1, init_std=init_std) if crosses else None
        self.dense = nn.Linear(num_dense, 1, bias=False) if num_dense else None
        widths = [len(vocab_sizes) * dim + num_dense, *hidden]
        # the last layer's bias is that of the whole
        self.deep = nn.Sequential(mlp(widths, dropout=dropout, batch_norm=batch_norm), nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        embedding, wide = self.fields(ids).split([self.dim, 1], -1)  # [B, F, dim], [B, F, 1]
        x = with_dense(embedding.flatten(1), dense, self.num_dense)  # [B, F * dim + D]
        logit = wide.sum((1, 2)) + self.deep(x).squeeze(1)
        if self.dense is not None and dense is not None:
            logit = logit + self.dense(dense).squeeze(1)
        if self.cross_table is not None:
            logit = logit + self.cross_table(self.cross_ids(ids)).sum((1, 2))
        return logit

    def cross_ids(self, ids: Tensor) -> Tensor:
        """Ids of the cross products: [B, F] -> [B, crosses] int64, each in 0..its number of weights - 1."""
        columns = []
        for fields, size in zip(self.crosses, self.cross_sizes, strict=True):
            number = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
            for field in fields:
                number = number * self.sizes[field] + ids[:, field]  # all combinations, counted
            if prod(self.sizes[f] for f in fields) > size:
                # the top half of a product with an odd number near 2^64 / golden ratio (Knuth, TAOCP 3, sec. 6.4)
                number = (number * -0x61C8864680B583EB >> 32 & 0xFFFFFFFF) % size
            columns.append(number)
        return torch.stack(columns, 1)
