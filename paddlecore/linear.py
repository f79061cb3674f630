"""A linear layer that is quick in float32 on any x86 processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SMALL = 1 << 20  # multiply-adds below which oneDNN's longer way to a product is not worth it


class Linear(nn.Linear):
    """`nn.Linear`, whose products in float32 on a CPU are oneDNN's.

    torch hands them to MKL, which takes twice as long on AMD's processors: 95 against 205 GFLOP/s of one core with
    AVX-512. Elsewhere, in another width, in a compiled model and where oneDNN is missing it is torch's own.

    Shapes: [..., in] -> [..., out].
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            not torch.compiler.is_compiling()  # first: an exported graph must not depend on the number of rows
            and x.device.type == "cpu"
            and x.dim() > 1
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() * self.out_features >= _SMALL
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
        ):
            product = _Product.apply if torch.is_grad_enabled() else _product
            return product(x, self.weight, self.bias)
        return super().forward(x)


class _Product(torch.autograd.Function):
    """x W^T + b and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows, given = grad.flatten(0, -2), x.flatten(0, -2)  # [n, out], [n, in]
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = _product(grad, weight.t())
        if ctx.needs_input_grad[1]:
            # the smaller side as rows: up to twice as quick
            if weight.shape[0] < weight.shape[1]:
                by_weight = _product(rows.t(), given.t())
            else:
                by_weight = _product(given.t(), rows.t()).t()
        if ctx.needs_input_grad[2]:
            by_bias = rows.sum(0)
        return by_x, by_weight, by_bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] W^T [in, out] + b by oneDNN: the operator that torch's own compiler writes for a linear layer."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
