"""A deep network over the embeddings of the fields, and nothing else: what each interaction model has to beat.

Zhang, Du, Wang, 2016, "Deep Learning over Multi-field Categorical Data: A Case Study on User Response Prediction",
ECIR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, mean_of_history, mlp, with_dense


class DeepCTR(nn.Module):
    """logit = the last of fully connected layers over all embeddings side by side (sec. 3.1).

    The paper fills the first layer from a factorisation machine trained before; here embeddings start at random and all
    layers are trained together, as the nets of Covington, Adams, Sargin, 2016, "Deep Neural Networks for YouTube
    Recommendations", RecSys, are. As there (sec. 3.2), a history is the mean of the embeddings of what it holds.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        history_fields: for each history the place of the field that it shares its embeddings with.
        dim: width of an embedding.
        hidden: widths of the hidden layers; empty = a linear model on the embeddings.
        dropout: probability that a hidden unit is dropped.
        batch_norm: batch norm after each hidden linear layer.
        init_std: standard deviation of the initial embeddings.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0), histories {name: [B, T] int64, padded
        with 0}, all zeros where one is empty -> logit [B].
    """

    def __init__(
        self,
        *,
        vocab_sizes: Sequence[int],
        num_dense: int = 0,
        history_fields: Mapping[str, int] | None = None,
        dim: int = 16,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        self.num_dense, self.history_fields = num_dense, dict(history_fields or {})
        self.fields = FieldTable(vocab_sizes, dim, init_std=init_std)
        widths = [(len(vocab_sizes) + len(self.history_fields)) * dim + num_dense, *hidden]
        self.deep = nn.Sequential(mlp(widths, dropout=dropout, batch_norm=batch_norm), nn.Linear(widths[-1], 1))

    def forward(
        self, ids: Tensor, dense: Tensor | None = None, histories: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        given = histories or {}
        if self.history_fields.keys() - given.keys():
            raise ValueError(f"histories must have {', '.join(self.history_fields)}: the model was built with them")
        x = self.fields(ids).flatten(1)  # [B, F * dim]
        for name, field in self.history_fields.items():
            rows = torch.where(given[name] > 0, given[name] + self.fields.offsets[field], 0)
            x = torch.cat([x, mean_of_history(self.fields.table, rows)], 1)
        x = with_dense(x, dense, self.num_dense)  # [B, (F + histories) * dim + D]
        return self.deep(x).squeeze(1)
