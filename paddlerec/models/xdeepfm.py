"""xDeepFM: interactions between whole embeddings, a degree a layer, beside a linear model and a deep network.

Lian, Zhou, Zhang, Chen, Xie, Sun, 2018, "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender
Systems", KDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlerec.layers import FieldTable, mlp, with_dense


class _Interaction(torch.autograd.Function):
    """out[n, h] = sum_ij weight[h, i, j] left[n, i] right[n, j].

    The products of a row, I x J of them, are a matrix product's input. They are made for some rows at a time, and again
    in backward, so that they stay in the cache: kept for all rows they would be the largest tensor of the model by far,
    and writing and reading it takes longer than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, weight)
        flat, out = weight.flatten(1), left.new_empty(len(left), len(weight))
        rows = _rows(left, right)
        for a, b, o in zip(left.split(rows), right.split(rows), out.split(rows), strict=True):
            torch.mm(_outer(a, b), flat.t(), out=o)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, weight = ctx.saved_tensors
        flat, rows = weight.flatten(1), _rows(left, right)
        of_left, of_right, of_weight = torch.empty_like(left), torch.empty_like(right), torch.zeros_like(flat)
        pieces = (t.split(rows) for t in (left, right, grad, of_left, of_right))
        for a, b, g, of_a, of_b in zip(*pieces, strict=True):
            of_weight.addmm_(g.t(), _outer(a, b))
            of_outer = (g @ flat).view(len(g), a.shape[1], b.shape[1])
            torch.bmm(of_outer, b.unsqueeze(2), out=of_a.unsqueeze(2))
            torch.bmm(a.unsqueeze(1), of_outer, out=of_b.unsqueeze(1))
        return of_left, of_right, of_weight.view_as(weight)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """[n, I], [n, J] -> [n, I * J]."""
    return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)


def _rows(left: Tensor, right: Tensor) -> int:
    """Rows at a time: a megabyte of products on a CPU; on a GPU as many as keep it busy."""
    products = 2**18 if left.device.type == "cpu" else 2**26
    return max(1, products // (left.shape[1] * right.shape[1]))


class CIN(nn.Module):
    """Compressed interaction network (sec. 3.1): layer k has H_k feature maps of the embeddings' width D,

    X^k[h] = sum_ij W^k[h, i, j] X^{k-1}[i] * X^0[j], element by element (eq. 6), and gives the sum of each over D
    (eq. 7). The activation is the identity, which is the best of those that the paper tries.

    Args:
        fields: m, the rows of X^0.
        maps: H_k of each layer; at least one.

    Shapes: X^0 as [B, D, m] float -> [B, sum of maps].
    """

    def __init__(self, fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        if not maps:
            raise ValueError("a CIN needs at least one layer")
        self.weights = nn.ParameterList(
            (2 / (below * fields + h)) ** 0.5 * torch.randn(h, below, fields)  # Glorot normal
            for below, h in zip([fields, *maps[:-1]], maps, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        # in the precision of x: the products of autocast would not fit what backward gets
        with torch.autocast(x.device.type, enabled=False):
            start = x.flatten(0, 1)  # [B * D, m]
            maps, pooled = start, []
            for weight in self.weights:
                if torch.compiler.is_compiling():  # a graph of operators, for any number of rows
                    maps = _outer(maps, start) @ weight.flatten(1).t()  # [B * D, H_k]
                else:
                    maps = _Interaction.apply(maps, start, weight)
                pooled.append(maps.unflatten(0, x.shape[:2]).sum(1))
            return torch.cat(pooled, 1)


class XDeepFM(nn.Module):
    """logit = linear + w_deep . deep network + w_cin . CIN + b (eq. 9).

    An id's row of the table is its embedding and, in the last column, its weight in the linear part, so one gather
    serves all. A dense feature has a weight, goes into the deep network as it is, and into the CIN as its value times
    an embedding of its own.

    Args:
        vocab_sizes: ids of each categorical field; at least one field.
        num_dense: dense features, D; may be 0.
        dim: width of an embedding.
        cin: feature maps of each layer of the CIN.
        hidden: widths of the deep network's layers.
        dropout: probability that a hidden unit of the deep network is dropped.
        batch_norm: batch norm after each linear layer of the deep network.
        init_std: standard deviation of the initial embeddings and weights of ids.

    Shapes: ids [B, F] int32 or int64, dense [B, D] float32 (None where D = 0) -> logit [B].
    """

    def __init__(
        self,
        *,
        vocab_sizes: Sequence[int],
        num_dense: int = 0,
        dim: int = 16,
        cin: Sequence[int] = (200, 200, 200),
        hidden: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        init_std: float = 1e-4,
    ) -> None:
        super().__init__()
        self.dim, self.num_dense = dim, num_dense
        self.fields = FieldTable(vocab_sizes, dim + 1, init_std=init_std)
        self.dense = nn.Linear(num_dense, 1, bias=False) if num_dense else None
        self.dense_embedding = nn.Parameter(init_std * torch.randn(num_dense, dim)) if num_dense else None  # [D, dim]
        self.cin = CIN(len(vocab_sizes) + num_dense, cin)
        self.cin_out = nn.Linear(sum(cin), 1, bias=False)
        widths = [len(vocab_sizes) * dim + num_dense, *hidden]
        # the last layer's bias is that of the whole
        self.deep = nn.Sequential(mlp(widths, dropout=dropout, batch_norm=batch_norm), nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        embedding, first = self.fields(ids).split([self.dim, 1], -1)  # [B, F, dim], [B, F, 1]
        x = with_dense(embedding.flatten(1), dense, self.num_dense)  # [B, F * dim + D]
        logit = first.sum((1, 2)) + self.deep(x).squeeze(1)
        vectors = embedding.transpose(1, 2)  # [B, dim, F]
        if dense is not None and self.dense is not None and self.dense_embedding is not None:
            logit = logit + self.dense(dense).squeeze(1)
            vectors = torch.cat([vectors, dense.unsqueeze(1) * self.dense_embedding.t()], 2)  # [B, dim, F + D]
        return logit + self.cin_out(self.cin(vectors)).squeeze(1)
