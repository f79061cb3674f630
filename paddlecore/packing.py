"""Weights in few bits: matrices as small integers, each row with a scale of its own.

A row of numbers w becomes integers q from -(2^(bits-1) - 1) to 2^(bits-1) - 1 and one scale s, w being about q s:
uniform symmetric quantisation by channel (Jacob et al., 2018, sec. 2.1; Krishnamoorthi, 2018, sec. 2.2). It is for
files alone, a model computes with float32 again. A row is a word's or an item's vector, or what makes one output of a
linear layer or a convolution.

In a dict of tensors, `name` is then three: `name@5`, the integers of 5 bits one after another, uint8 [bytes];
`name@scale`, float16 [rows]; `name@shape`, int64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from paddlecore.errors import CheckpointError

BITS = range(3, 9)
_LEAST = 4096  # numbers of a tensor: what is smaller saves nothing worth an error
_ROW = 32  # numbers of a row, beside which its scale is small


def pack(tensors: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Large matrices in `bits` (one of `BITS`), other floats in float16, all else as it is."""
    packed = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            packed[name] = tensor
        elif tensor.dim() < 2 or tensor.numel() < _LEAST or tensor[0].numel() < _ROW:
            packed[name] = tensor.half()
        else:
            integers, scale = _rounded(tensor.float().flatten(1), bits)
            packed[f"{name}@{bits}"] = _to_bytes(integers, bits)
            packed[f"{name}@scale"] = scale
            packed[f"{name}@shape"] = torch.tensor(tensor.shape)
    return packed


def unpack(tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """What `pack` was given, to within half a scale, in float32; a dict that it did not make comes back as it is.

    Raises:
        CheckpointError: the parts of a tensor do not belong together; names it and the file `where`.
    """
    unpacked = {}
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition("@")
        if not stem or not (part.isdigit() or part in ("scale", "shape")):
            unpacked[name] = tensor
        elif part.isdigit():
            try:
                scale, shape = tensors[f"{stem}@scale"], [int(n) for n in tensors[f"{stem}@shape"]]
                integers = _from_bytes(tensor, int(part), math.prod(shape))
                unpacked[stem] = (integers.view(len(scale), -1) * scale.float()[:, None]).view(shape)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(f"{where}: the parts of {stem} do not belong together: {error}") from None
    return unpacked


def _rounded(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Integers [rows, n] as int16 and scales [rows] as float16, of the clipping that has the least squared error.

    To cut off the few largest numbers of a row makes the steps between all others finer; 4 bits gain most by it.
    """
    top = 2 ** (bits - 1) - 1
    largest = rows.abs().amax(1, keepdim=True)
    least = torch.full_like(largest, torch.inf)
    integers, scale = torch.zeros_like(rows), torch.zeros_like(largest)
    for share in torch.linspace(1, 0.4, 25).tolist():
        # float16 has no smaller number than 6e-8; what rounds to it is 0
        step = (largest * share / top).half().float().clamp(min=6e-8)
        tried = (rows / step).round().clamp(-top, top)
        error = (tried * step - rows).square().sum(1, keepdim=True)
        better = error < least
        least, scale = torch.where(better, error, least), torch.where(better, step, scale)
        integers = torch.where(better, tried, integers)
    return integers.short(), scale.half().flatten()


def _to_bytes(integers: Tensor, bits: int) -> Tensor:
    """Integers of either sign, any shape -> uint8 [ceil(numel * bits / 8)], the highest bit of each first."""
    above_zero = (integers.flatten() + 2 ** (bits - 1)).to(torch.uint8).numpy()
    return torch.from_numpy(np.packbits(np.unpackbits(above_zero[:, None], axis=1)[:, 8 - bits :]))


def _from_bytes(content: Tensor, bits: int, count: int) -> Tensor:
    """The reverse of `_to_bytes`, for `count` integers: float32 [count]."""
    if bits not in BITS or content.dtype != torch.uint8 or content.numel() != -(-count * bits // 8):
        raise ValueError(f"{content.numel()} bytes of {content.dtype} are not {count} integers of {bits} bits")
    digits = np.unpackbits(content.numpy(), count=count * bits).reshape(count, bits)
    weights = 2 ** np.arange(bits - 1, -1, -1, dtype=np.float32)
    return torch.from_numpy(digits @ weights - np.float32(2 ** (bits - 1)))
