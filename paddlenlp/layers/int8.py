"""Linear layers in 8-bit integers, for inference on a CPU."""

from __future__ import annotations

import warnings

import torch
from torch import nn


def quantised(model: nn.Module) -> nn.Module:
    """A copy of `model` whose linear layers multiply integers: weights are rounded once, to 8 bits by output channel;
    activations at each call, to 7 bits by tensor, which no processor's sums of products overflow.

    It is torch's dynamic quantisation of eager modules. torchao, which is to follow it, is one more package, and is
    quick on a CPU only with a compiled model, while a beam's shapes change all the time.
    """
    from torch.ao import quantization

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to go with torch.ao, which this version still has
        spec = {nn.Linear: quantization.per_channel_dynamic_qconfig}
        return quantization.quantize_dynamic(model, spec, dtype=torch.qint8)  # type: ignore[no-any-return]
