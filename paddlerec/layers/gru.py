"""A GRU cell whose gradient is written out: a step of it on a CPU is mostly the calling of small operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> Tensor:
        gates, inner = torch.addmm(b_x, x, w_x.t()), torch.addmm(b_h, h, w_h.t())  # [B, 3 H]: r, z, n
        width = h.shape[1]
        rz = gates[:, : 2 * width].add_(inner[:, : 2 * width]).sigmoid_()
        r, z = rz[:, :width], rz[:, width:]
        inner_n = inner[:, 2 * width :]
        n = gates[:, 2 * width :].addcmul_(r, inner_n).tanh_()
        ctx.save_for_backward(x, h, w_x, w_h, r, z, n, inner_n)
        return torch.lerp(n, h, z)  # (1 - z) n + z h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, h, w_x, w_h, r, z, n, inner_n = ctx.saved_tensors
        width = h.shape[1]
        gates = torch.empty(len(h), 3 * width, dtype=h.dtype, device=h.device)  # dL / d(gates before sigmoid and tanh)
        of_r, of_z, of_n = gates.split(width, 1)
        keep = grad * z
        torch.sub(grad, keep, out=of_n).addcmul_(of_n, n * n, value=-1.0)  # g (1 - z) (1 - n^2)
        torch.sub(h, n, out=of_z).mul_(keep).addcmul_(of_z, z, value=-1.0)  # g (h - n) z (1 - z)
        torch.mul(of_n, inner_n, out=of_r).mul_(r).addcmul_(of_r, r, value=-1.0)  # dn inner_n r (1 - r)
        of_x = gates @ w_x if ctx.needs_input_grad[0] else None
        of_w_x, of_b_x = gates.t() @ x, gates.sum(0)
        of_n.mul_(r)  # the product with h reaches n through r
        of_h = torch.addmm(keep, gates, w_h) if ctx.needs_input_grad[1] else None
        return of_x, of_h, of_w_x, gates.t() @ h, of_b_x, gates.sum(0)


def gru_cell(cell: nn.GRUCell, x: Tensor, h: Tensor) -> Tensor:
    """What `cell(x, h)` gives, [B, I], [B, H] -> [B, H].

    r = sigmoid(W_xr x + W_hr h), z = sigmoid(W_xz x + W_hz h), n = tanh(W_xn x + r (W_hn h)), h' = (1 - z) n + z h,
    with a bias to each product: Cho et al., 2014, "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP,
    eq. 5-8, but the reset gate behind its product. On a GPU this is torch's fused cell. The result has the type of `h`,
    also under autocast.
    """
    if x.device.type != "cpu":
        return cell(x, h).to(h.dtype)
    with torch.autocast("cpu", enabled=False):  # it would cast some of the products, and nothing of what they meet
        out: Tensor = _Cell.apply(x.to(h.dtype), h, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    return out
