"""DeepFM: a factorisation machine and a deep network that share their embeddings.

Guo, Tang, Ye, Li, He, 2017, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from paddlerec.layers import mlp, with_dense
from paddlerec.models.fm import FM


class DeepFM(FM):
    """logit = b + first order + pairs (eq. 2) + deep network (eq. 3, 4), all trained together (eq. 1).

    A row of the table is an id's embedding and, in its last column, the id's first-order weight: one gather serves all
    three parts. A dense feature x_d has a first-order weight, and in the pairs an embedding v_d times its value. The
    deep network takes x_d itself: its first layer is linear, so W (v_d x_d) spans nothing that one column does not.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        hidden: widths of the deep network's layers; empty = no deep network, a plain FM.
        dropout: probability that a hidden unit is dropped.
        batch_norm: batch norm after each linear layer of the deep network.
        init_std: standard deviation of the initial embeddings and first-order weights.

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
        super().__init__(vocab_sizes=vocab_sizes, num_dense=num_dense, dim=dim, init_std=init_std)
        self.deep = None
        if hidden:
            width = len(vocab_sizes) * dim + num_dense
            self.deep = nn.Sequential(
                mlp([width, *hidden], dropout=dropout, batch_norm=batch_norm), nn.Linear(hidden[-1], 1)
            )

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        logit, flat = self.interactions(ids, dense)
        if self.deep is not None:
            x = with_dense(flat, dense, self.num_dense)  # [B, F * dim + D]
            logit = logit + self.deep(x).squeeze(1)
        return logit
