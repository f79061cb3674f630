"""Linear layers in 8-bit integers, for inference on a CPU."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn


def quantised(model: nn.Module) -> nn.Module:
    """A copy of `model` whose linear layers multiply integers; see `Int8Linear`. The model may be one itself."""
    small = {id(module): Int8Linear(module) for module in model.modules() if isinstance(module, nn.Linear)}
    return copy.deepcopy(model, small)  # takes these for copies that it has made


class Int8Linear(nn.Module):
    """A linear layer that multiplies integers: weights are rounded once, to 8 bits by output channel; activations at
    each call, to 7 bits by tensor, which no processor's sums of products overflow.

    These are the operators of torch's dynamic quantisation, without `torch.ao`, which is to go. torchao, which follows
    it, is one more package, and is quick on a CPU only with a compiled model, while a beam's shapes change all the
    time.

    Shapes: [..., in] -> [..., out] float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(1e-12) / 127  # [out]
        zeros = torch.zeros_like(scales, dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors of this kind are to go as well; there is no date yet
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rounded, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, True)
