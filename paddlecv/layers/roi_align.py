"""RoIAlign over the maps of a feature pyramid, padded boxes in, one product of weights and rows out.

He et al., 2017, "Mask R-CNN", ICCV, section 3 (RoIAlign); Lin et al., 2017, "Feature Pyramid Networks for Object
Detection", CVPR, eq. 1 (which level a box is read from).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F


def pyramid_level(boxes: Tensor, strides: Sequence[int], canonical: float = 224.0) -> Tensor:
    """The map each box is read from: k = floor(4 + log2(sqrt(area) / canonical)) (Lin et al., eq. 1), 2^k its stride.

    Args:
        boxes: [..., 4] x1, y1, x2, y2 in pixels of the input.
        strides: input pixels per pixel of each map, powers of two, each twice the one before.
        canonical: side of the box that is read at stride 16 (pixels).

    Shapes: -> [...] int64 in 0..len(strides)-1.
    """
    side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
    # the small number, which torchvision adds as well, keeps a box of exactly the canonical side on its level
    k = torch.floor(4 + torch.log2(side / canonical) + 1e-6)
    lowest = strides[0].bit_length() - 1
    return k.clamp(lowest, lowest + len(strides) - 1).long() - lowest


class RoIAlign(nn.Module):
    """Average of bilinear samples in each bin of a box, at fractional coordinates, without rounding (section 3).

    A value of the output is a weighted sum of 4 * sampling^2 pixels of a map. On the CPU, all outputs of all boxes and
    levels together are one `embedding_bag` over the maps as a table of pixels [pixels, C]: each pixel is read as one
    contiguous row, where torchvision's operator goes through the C planes one by one, on one thread. On any other
    device it is torchvision's operator, level by level. Values and gradients are the same up to rounding.

    Args:
        output_size: bins along each side, P.
        sampling: samples along each side of a bin.
        strides: input pixels per pixel of each map, powers of two, each twice the one before.
        canonical: side of the box that is read at stride 16 (pixels).

    Shapes: maps of [B, C, H_l, W_l], boxes [B, R, 4] float32 in pixels of the input, not required to lie inside it;
    boxes of no area read one pixel -> [B * R, C, P, P] in the maps' dtype.
    """

    def __init__(
        self, *, output_size: int, sampling: int = 2, strides: Sequence[int] = (4, 8, 16, 32), canonical: float = 224.0
    ) -> None:
        super().__init__()
        if output_size < 1 or sampling < 1:
            raise ValueError(f"output_size and sampling must be positive, got {output_size} and {sampling}")
        if not strides or strides[0].bit_count() != 1 or any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"strides must be powers of two, each twice the one before, got {list(strides)}")
        self.output_size, self.sampling, self.strides, self.canonical = output_size, sampling, tuple(strides), canonical

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        if len(maps) != len(self.strides):
            raise ValueError(f"{len(maps)} maps for strides {self.strides}")
        level = pyramid_level(boxes, self.strides, self.canonical).flatten()  # [B * R]
        image = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        aligned = self._by_rows if boxes.device.type == "cpu" else self._by_operator
        return aligned(maps, boxes.flatten(0, 1), level, image)

    def _by_operator(self, maps: Sequence[Tensor], boxes: Tensor, level: Tensor, image: Tensor) -> Tensor:
        rois = torch.cat([image[:, None].to(boxes), boxes], 1)  # [K, 5]
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], self.output_size, self.output_size)
        for i, (values, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = torch.where(level == i)[0]
            # of maps in half precision autocast would make float32 as well, but for some devices it does not know how
            found = torchvision.ops.roi_align(values.float(), rois[here], self.output_size, 1 / stride, self.sampling)
            out = out.index_copy(0, here, found.to(out.dtype))
        return out

    def _by_rows(self, maps: Sequence[Tensor], boxes: Tensor, level: Tensor, image: Tensor) -> Tensor:
        high, wide = (torch.tensor([m.shape[d] for m in maps])[level] for d in (2, 3))  # [K] of the box's map
        ends = torch.tensor([m.shape[0] * m.shape[2] * m.shape[3] for m in maps]).cumsum(0)
        first = F.pad(ends[:-1], (1, 0))[level] + image * high * wide  # [K] the row of the map's pixel (0, 0)

        scaled = boxes / torch.tensor(self.strides)[level, None]
        row, row_weight = self._taps(scaled[:, 1], scaled[:, 3], high)  # [K, P, 2 * sampling]
        column, column_weight = self._taps(scaled[:, 0], scaled[:, 2], wide)
        row = row * wide[:, None, None] + first[:, None, None]
        pixel = row[:, :, None, :, None] + column[:, None, :, None, :]  # [K, P, P, 2 * sampling, 2 * sampling]
        weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]

        # a map in channels_last memory is such a table already; a sum in less than float32 would lose bits
        table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]).float()
        bags = F.embedding_bag(
            pixel.view(-1, (2 * self.sampling) ** 2),
            table,
            mode="sum",
            per_sample_weights=weight.view(-1, (2 * self.sampling) ** 2),
        )
        out = bags.view(len(boxes), self.output_size, self.output_size, table.shape[1]).permute(0, 3, 1, 2)
        return out.to(maps[0].dtype)

    def _taps(self, start: Tensor, end: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels that a bin reads along one axis, [K, P, 2 * sampling] int64, and the weight of each.

        `start`, `end` [K] in pixels of the map, `limit` [K] its length.
        """
        p, s = self.output_size, self.sampling
        samples = (torch.arange(p * s) + 0.5) / (p * s)  # [P * s] as shares of the box
        at = start[:, None] + (end - start).clamp(min=1.0)[:, None] * samples  # [K, P * s]; a box is 1 pixel at least
        limit = limit[:, None]
        inside = (at >= -1) & (at <= limit)  # samples further out count as zeros
        at = torch.minimum(at.clamp(min=0.0), limit - 1)
        low = at.long()
        share = at - low
        taps = torch.stack([low, torch.minimum(low + 1, limit - 1)], -1)
        weights = torch.stack([1 - share, share], -1) * inside[..., None] / s
        return taps.view(-1, p, 2 * s), weights.view(-1, p, 2 * s)
