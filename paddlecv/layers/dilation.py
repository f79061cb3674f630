"""Stride turned into dilation.

Chen, Papandreou, Kokkinos, Murphy, Yuille, 2018, "DeepLab", IEEE TPAMI 40(4), section 3.1.
"""

from __future__ import annotations

from torch import nn


def dilate(chain: nn.Module, output_stride: int) -> None:
    """Give a chain of convolutions the largest stride `output_stride`: strides beyond are dropped, and what follows is
    dilated by as much, so that each convolution sees what it saw before, only more densely."""
    stride = rate = 1
    for module in chain.modules():
        if isinstance(module, nn.Conv2d):
            before = rate
            if module.stride != (1, 1) and stride == output_stride:
                module.stride, rate = (1, 1), 2 * rate
            stride *= module.stride[0]
            if module.kernel_size != (1, 1) and before > 1:
                module.dilation = (before, before)
                if module.padding != (0, 0):  # a `SameConv2d` has none: it pads by its dilation as it runs
                    module.padding = tuple(before * (kernel // 2) for kernel in module.kernel_size)
