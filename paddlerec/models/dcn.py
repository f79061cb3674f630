"""Deep & Cross network: products of features of growing degree, a degree a layer, beside a deep network.

Wang, Fu, Fu, Wang, 2017, "Deep & Cross Network for Ad Click Predictions", ADKDD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, mlp, with_dense


class CrossNet(nn.Module):
    """x_{l+1} = x_0 <x_l, w_l> + b_l + x_l (eq. 3); weight and bias are [layers, width].

    By induction x_l = a_l x_0 + c_l, with a number a_l for each row and c_l = b_0 + ... + b_{l-1} for all rows:
    <x_l, w_l> is a_l <x_0, w_l> + <c_l, w_l>. So all layers together cost one product with x_0, and nothing of the
    size [B, width] is made between them.

    Shapes: x_0 [B, width] float -> x_L [B, width].
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter((2 / (width + 1)) ** 0.5 * torch.randn(layers, width))  # Glorot normal
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, x: Tensor) -> Tensor:
        products = (x @ self.weight.t()).unbind(1)  # <x_0, w_l>, [B] each
        constants = self.bias.cumsum(0)  # c_{l+1}, [layers, width]
        scale: Tensor | float = 1.0  # a_l
        for layer, product in enumerate(products):
            scale = scale + scale * product
            if layer:
                scale = scale + constants[layer - 1] @ self.weight[layer]
        return torch.addcmul(constants[-1], x, scale.unsqueeze(1))  # type: ignore[union-attr]


class DCN(nn.Module):
    """logit = w . [x_L, h] + b (sec. 2.4): the cross network's output x_L and the deep network's h, side by side.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        cross_layers: layers of the cross network; its terms have degrees up to this plus 1.
        hidden: widths of the deep network's layers; empty = the cross network alone.
        dropout: probability that a hidden unit of the deep network is dropped.
        batch_norm: batch norm after each linear layer of the deep network.
        init_std: standard deviation of the initial embeddings.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0) -> logit [B].
    """

    def __init__(
        self,
        *,
        vocab_sizes: Sequence[int],
        num_dense: int = 0,
        dim: int = 16,
        cross_layers: int = 3,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        if cross_layers < 1:
            raise ValueError(f"cross_layers must be at least 1, got {cross_layers}")
        self.num_dense = num_dense
        self.fields = FieldTable(vocab_sizes, dim, init_std=init_std)
        width = len(vocab_sizes) * dim + num_dense
        self.cross = CrossNet(width, cross_layers)
        self.deep = mlp([width, *hidden], dropout=dropout, batch_norm=batch_norm) if hidden else None
        self.out = nn.Linear(width + (hidden[-1] if hidden else 0), 1)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        x = with_dense(self.fields(ids).flatten(1), dense, self.num_dense)  # [B, width]
        parts = [self.cross(x)] if self.deep is None else [self.cross(x), self.deep(x)]
        return self.out(torch.cat(parts, 1)).squeeze(1)
