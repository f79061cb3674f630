"""DCN-V2: cross layers with a whole matrix each, or with one of low rank, or with a mixture of such.

Wang, Shivanna, Cheng, Jain, Lin, Hong, Chi, 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for
Web-scale Learning to Rank Systems", WWW.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlecore.linear import Linear
from paddlerec.layers import FieldTable, mlp, with_dense


class CrossLayer(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l, element by element (eq. 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = Linear(width, width)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """x_0 and x_l [B, width] -> [B, width]."""
        return torch.addcmul(x, start, self.linear(x))


class LowRankCrossLayer(nn.Module):
    """The same with W of low rank, or several of them that a gate weighs for each row.

    One expert: x_0 * (U V' x_l + b) + x_l (eq. 2). More: sum_i G_i(x_l) E_i(x_l) + x_l with
    E_i(x) = x_0 * (U_i g(C_i g(V_i' x)) + b) (eq. 3, 4), where g is tanh and the gate G a softmax of linear functions.
    The gate sums to 1 and U is linear, so that the experts cost two wide products for all of them.
    """

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.down = nn.Parameter(_glorot(experts, width, rank))  # V
        self.up = nn.Parameter(_glorot(experts, rank, width))  # U'
        self.inner = nn.Parameter(_glorot(experts, rank, rank)) if experts > 1 else None  # C'
        self.gate = nn.Linear(width, experts, bias=False) if experts > 1 else None
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, start: Tensor, x: Tensor) -> Tensor:
        """x_0 and x_l [B, width] -> [B, width]."""
        h = x @ self.down.transpose(0, 1).flatten(1)  # [B, experts * rank]
        if self.gate is not None and self.inner is not None:
            h = h.tanh().unflatten(1, (self.experts, -1)).transpose(0, 1)  # [experts, B, rank]
            h = (h @ self.inner).tanh()
            h = h * self.gate(x).softmax(1).t().unsqueeze(2)
            h = h.transpose(0, 1).flatten(1)  # [B, experts * rank]
        return torch.addcmul(x, start, torch.addmm(self.bias, h, self.up.flatten(0, 1)))


def _glorot(experts: int, inputs: int, outputs: int) -> Tensor:
    return (2 / (inputs + outputs)) ** 0.5 * torch.randn(experts, inputs, outputs)


class DCNv2(nn.Module):
    """Cross layers and a deep network, one after the other or side by side (fig. 1, sec. 3.4).

    stacked: logit = w . h(x_L) + b; parallel: logit = w . [x_L, h(x_0)] + b, with x_L the output of the cross layers.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        structure: `parallel` or `stacked`.
        cross_layers: number of cross layers.
        rank: rank of their matrices; None = whole matrices.
        experts: low-rank matrices a layer, mixed by a gate; needs `rank` if above 1.
        hidden: widths of the deep network's layers.
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
        structure: str = "parallel",
        cross_layers: int = 3,
        rank: int | None = None,
        experts: int = 1,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        if structure not in ("parallel", "stacked"):
            raise ValueError(f"structure must be parallel or stacked, got {structure!r}")
        if experts < 1 or (experts > 1 and rank is None):
            raise ValueError(f"experts must be at least 1, and more than one needs a rank; got {experts}, {rank}")
        self.num_dense, self.parallel = num_dense, structure == "parallel"
        self.fields = FieldTable(vocab_sizes, dim, init_std=init_std)
        width = len(vocab_sizes) * dim + num_dense
        self.cross = nn.ModuleList(
            CrossLayer(width) if rank is None else LowRankCrossLayer(width, rank, experts) for _ in range(cross_layers)
        )
        self.deep = mlp([width, *hidden], dropout=dropout, batch_norm=batch_norm)
        self.out = nn.Linear((width if self.parallel else 0) + [width, *hidden][-1], 1)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        start = with_dense(self.fields(ids).flatten(1), dense, self.num_dense)  # [B, width]
        x = start
        for layer in self.cross:
            x = layer(start, x)
        h = torch.cat([x, self.deep(start)], 1) if self.parallel else self.deep(x)
        return self.out(h).squeeze(1)
