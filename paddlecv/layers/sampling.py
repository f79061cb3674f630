"""Random choices inside a model that are functions of the image alone: not of the batch, the rank or the micro-batch.

The batch carries `draw`, one number an image made from (seed, epoch, row), and a hash of it takes the place of a
generator; nothing is replayed, and the choice is the same on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_keys(draw: Tensor, index: Tensor) -> Tensor:
    """A well-spread number in 0..2^62-1 for each (draw, index) (SplitMix64: Steele, Lea, Flood, 2014, OOPSLA).

    Shapes: draw [B] int64, index [B, N] int64 -> [B, N] int64.
    """
    state = draw[:, None] + (index + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
    # >> of a signed number drags its sign along, which the masks cut off
    state = (state ^ (state >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    state = (state ^ (state >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return (state ^ (state >> 31 & (1 << 33) - 1)) >> 2 & (1 << 62) - 1


def balanced_sample(label: Tensor, key: Tensor, *, samples: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Of each row, a random sample of `samples` places: at most `fraction` of them positive, the rest negative.

    Ren et al., 2015, "Faster R-CNN", section 3.1.3; where positives or negatives are too few, fewer are chosen, as
    in the authors' code.

    Args:
        label: [B, N], 1 or more = positive, 0 = negative, below 0 = not to be chosen.
        key: [B, N] int64 in 0..2^62-1 (see `random_keys`): the largest ones are taken.
        samples: S.
        fraction: largest share of positives, rounded down.

    Returns:
        place: [B, min(S, N)] int64, the positives first.
        used: [B, min(S, N)] bool; false where too few were there, at the end of a row.
    """
    positives = min(int(samples * fraction), label.shape[1])
    best = torch.where(label > 0, key, -1).topk(positives, 1).indices
    chosen = torch.zeros_like(label, dtype=torch.bool).scatter(1, best, True) & (label > 0)
    # positives stand above all negatives, and both above what is not to be chosen
    order = torch.where(chosen, key + (1 << 62), torch.where(label == 0, key, -1))
    order, place = order.topk(min(samples, label.shape[1]), 1)
    return place, order >= 0
