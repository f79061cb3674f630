"""A deep network over the embeddings of the fields, and nothing else: what each interaction model has to beat.

Zhang, Du, Wang, 2016, "Deep Learning over Multi-field Categorical Data: A Case Study on User Response Prediction",
ECIR.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from paddlerec.layers import FieldTable, mlp, with_dense


class DeepCTR(nn.Module):
    """logit = the last of fully connected layers over all embeddings side by side (sec. 3.1).

    The paper fills the first layer from a factorisation machine trained before; here embeddings start at random and all
    layers are trained together, as the nets of Covington, Adams, Sargin, 2016, "Deep Neural Networks for YouTube
    Recommendations", RecSys, are.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        hidden: widths of the hidden layers; empty = a linear model on the embeddings.
        dropout: probability that a hidden unit is dropped.
        batch_norm: batch norm after each hidden linear layer.
        init_std: standard deviation of the initial embeddings.

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
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        self.num_dense = num_dense
        self.fields = FieldTable(vocab_sizes, dim, init_std=init_std)
        widths = [len(vocab_sizes) * dim + num_dense, *hidden]
        self.deep = nn.Sequential(mlp(widths, dropout=dropout, batch_norm=batch_norm), nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        x = with_dense(self.fields(ids).flatten(1), dense, self.num_dense)  # [B, F * dim + D]
        return self.deep(x).squeeze(1)
