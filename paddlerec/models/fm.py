"""Factorisation machine: a weight for each feature, and for each pair of features the product of two embeddings.

Rendle, 2010, "Factorization Machines", ICDM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, check_dense, fm_pooling


class FM(nn.Module):
    """logit = b + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j (eq. 1), in time linear in the fields (lemma 3.1).

    The features are the id of each categorical field, with x = 1, and the dense features. An id's row of the table is
    its v and, in the last column, its w, so one gather serves both.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        init_std: standard deviation of the initial embeddings and weights of ids.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0) -> logit [B].
    """

    def __init__(
        self, *, vocab_sizes: Sequence[int], num_dense: int = 0, dim: int = 16, init_std: float = 1e-4
    ) -> None:
        super().__init__()
        self.dim, self.num_dense = dim, num_dense
        self.fields = FieldTable(vocab_sizes, dim + 1, init_std=init_std)
        self.bias = nn.Parameter(torch.zeros(()))
        self.dense = nn.Linear(num_dense, 1, bias=False) if num_dense else None  # w of the dense features
        self.dense_embedding = nn.Parameter(init_std * torch.randn(num_dense, dim)) if num_dense else None  # [D, dim]

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.interactions(ids, dense)[0]

    def interactions(self, ids: Tensor, dense: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logit [B], and the embeddings side by side [B, F * dim]."""
        check_dense(dense, self.num_dense)
        embedding, first = self.fields(ids).split([self.dim, 1], -1)  # [B, F, dim], [B, F, 1]
        flat = embedding.flatten(1)  # [B, F * dim]: the one copy, which all that follows reads in order
        total = flat.unflatten(1, (-1, self.dim)).sum(1)  # [B, dim]
        squares = flat.square().sum(1)  # [B]
        logit = self.bias + first.sum((1, 2))
        if dense is not None and self.dense is not None and self.dense_embedding is not None:
            logit = logit + self.dense(dense).squeeze(1)
            total = total + dense @ self.dense_embedding
            squares = squares + dense.square() @ self.dense_embedding.square().sum(1)
        return logit + fm_pooling(total, squares), flat
