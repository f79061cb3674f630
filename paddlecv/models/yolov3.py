"""YOLOv3: each cell of three feature maps says for three box shapes whether an object's centre lies in it, and which.

Redmon, Farhadi, 2018, "YOLOv3: An Incremental Improvement", arXiv:1804.02767.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from paddlecv.layers.detection import (
    LARGEST_GROWTH,
    DetectionLosses,
    Detections,
    best_of_each_class,
    clip_boxes,
    made_once,
    matched_targets,
    suppress,
)
from paddlecv.models.backbones import Backbone

STRIDES = (8, 16, 32)


class Slots(NamedTuple):
    """The places where a box can be predicted: map (finest first), row, column, prior."""

    cell: Tensor  # [N, 2] column and row
    stride: Tensor  # [N, 1] pixels
    prior: Tensor  # [N, 2] width and height (pixels)


class YOLOv3(nn.Module):
    """YOLOv3 on Darknet-53, or on any trunk with maps of 8, 16 and 32 pixels.

    Boxes (section 2.1): centre (sigmoid(t_x) + column, sigmoid(t_y) + row) times the stride, sides p_w exp(t_w) and
    p_h exp(t_h) of the prior's (p_w, p_h).

    A true box belongs to the prior whose shape overlaps it most, at the cell its centre lies in; if two share a place,
    the later one gets it. Sums over images, counted by images, of three losses: `object`, binary cross-entropy at all
    places but those that belong to no box while their prediction overlaps one by more than `ignore_iou`; `class`,
    binary cross-entropy for each class, and `box`, both at the places that belong to a box.

    `box_loss` is `squared`, the paper's squared differences of sigmoid(t_x), sigmoid(t_y), t_w and t_h, times 2 less
    the box's share of the image as in the authors' code; or of the boxes themselves, 1 less `giou` (Rezatofighi et al.,
    2019, CVPR) or less `ciou` (Zheng et al., 2020, AAAI), which are better with few epochs.

    Args:
        num_classes: classes, C.
        architecture: darknet53, or any name of `Backbone` with maps of strides 8, 16, 32, whose weights then stand
            under `backbone`.
        width: multiplier of the trunk's channels, where it has one.
        neck_width: multiplier of the channels of what is put on the trunk.
        anchors: widths and heights of the priors (pixels of the input), three for each map, finest map first. Default:
            the paper's for COCO at 416 pixels.
        ignore_iou: see above.
        box_loss: see above.
        box_weight: factor of the loss of boxes.
        min_score: detections of this probability (object times class) or less are left out.
        max_iou: of two detections of a class that overlap by more, the better one stays.
        candidates: detections of a class that go into this comparison.
        keep: detections of an image.

    Shapes: image [B, 3, H, W] float32, size [B, 2] int64 (height and width within the padding); target None, or boxes
    [B, G, 4] float32 and labels [B, G] int64, 0 = padding -> Detections, or DetectionLosses. H and W should be
    multiples of 32.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str = "darknet53",
        width: float = 1.0,
        neck_width: float = 1.0,
        anchors: Sequence[Sequence[float]] = (
            (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
        ),
        ignore_iou: float = 0.5,
        box_loss: Literal["squared", "giou", "ciou"] = "squared",
        box_weight: float = 1.0,
        min_score: float = 0.005,
        max_iou: float = 0.45,
        candidates: int = 400,
        keep: int = 100,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(anchors) != 9 or any(len(a) != 2 or min(a) <= 0 for a in anchors):
            raise ValueError(f"anchors must be nine pairs of width and height, got {anchors}")
        if box_loss not in ("squared", "giou", "ciou"):
            raise ValueError(f"box_loss must be squared, giou or ciou, got {box_loss}")
        self.priors = tuple((float(w), float(h)) for w, h in anchors)
        self.ignore_iou, self.box_loss, self.box_weight = ignore_iou, box_loss, box_weight
        self.min_score, self.max_iou, self.candidates, self.keep = min_score, max_iou, candidates, keep
        self.columns = 5 + num_classes
        self.backbone: nn.Module = (
            Darknet53(width=width)
            if architecture == "darknet53"
            else Backbone(architecture=architecture, width=width, features_only=True, strides=STRIDES)
        )
        middle = [max(8, round(c * neck_width)) for c in (128, 256, 512)]
        inputs = list(self.backbone.channels)
        for level in (0, 1):
            inputs[level] += middle[level + 1] // 2  # what comes up from the coarser map
        self.blocks = nn.ModuleList(_five(i, m) for i, m in zip(inputs, middle, strict=True))
        self.ups = nn.ModuleList(_conv(m, m // 2, 1) for m in middle[1:])  # to the next finer map
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(m, 2 * m, 3), nn.Conv2d(2 * m, 3 * self.columns, 1)) for m in middle
        )
        for head in self.heads:
            last = head[1]  # type: ignore[index]
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            with torch.no_grad():  # a place is empty until shown otherwise, or the first steps learn nothing else
                last.bias.view(3, self.columns)[:, 4] = -math.log(99)

    def forward(
        self, image: Tensor, size: Tensor, target: Mapping[str, Tensor] | None = None
    ) -> DetectionLosses | Detections:
        maps = self._maps(image)
        rows = [m.permute(0, 2, 3, 1).flatten(1) for m in maps]
        t = torch.cat(rows, 1).float().view(len(image), -1, self.columns)  # [B, N, 4 + 1 + C]
        grids = tuple((m.shape[2], m.shape[3]) for m in maps)
        slots = _slots(grids, self.priors, image.device)
        boxes = decode(t, slots)
        if target is not None:
            owner = assign(target["boxes"], target["labels"], grids, self.priors)
            return self._losses(t, boxes, slots, owner, target["boxes"], target["labels"], image)
        scores = t[..., 4:5].sigmoid() * t[..., 5:].sigmoid()
        best = best_of_each_class(clip_boxes(boxes, size), scores, self.candidates)
        return suppress(*best, min_score=self.min_score, max_iou=self.max_iou, keep=self.keep)

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Predictions [B, 3 (5 + C), H / stride, W / stride] of each map, finest first."""
        features, found, coarser = self.backbone(image), [], None
        for level in (2, 1, 0):
            x = features[level]
            if coarser is not None:
                up = F.interpolate(self.ups[level](coarser), size=x.shape[2:], mode="nearest")
                x = torch.cat([up, x], 1)
            coarser = self.blocks[level](x)
            found.append(self.heads[level](coarser))
        return found[::-1]

    def _losses(
        self, t: Tensor, found: Tensor, slots: Slots, owner: Tensor, boxes: Tensor, labels: Tensor, image: Tensor
    ) -> DetectionLosses:
        box, label = matched_targets(owner, boxes, labels)  # [B, N, 4], [B, N]
        positive = label > 0
        with torch.no_grad():
            near = (box_iou(found, boxes) > self.ignore_iou) & (labels[:, None] > 0)  # [B, N, G]
            counted = positive | ~near.any(2)
        there = F.binary_cross_entropy_with_logits(t[..., 4], positive.float(), reduction="none")
        classes = F.one_hot((label - 1).clamp(min=0), self.columns - 5).to(t)
        kind = F.binary_cross_entropy_with_logits(t[..., 5:], classes, reduction="none").sum(-1)
        if self.box_loss == "squared":
            away = self._squared(t, box, slots, image)
        else:
            loss = complete_box_iou_loss if self.box_loss == "ciou" else generalized_box_iou_loss
            # elsewhere a box may have no height, whose gradient is not a number, and `where` below would let it through
            away = loss(found.where(positive[..., None], box), box)
        return DetectionLosses(
            {
                "object": there.where(counted, 0.0).sum(),
                "class": kind.where(positive, 0.0).sum(),
                "box": self.box_weight * away.where(positive, 0.0).sum(),
            },
            torch.tensor(len(t)),
        )

    @staticmethod
    def _squared(t: Tensor, box: Tensor, slots: Slots, image: Tensor) -> Tensor:
        sides = box[..., 2:] - box[..., :2]
        place = (box[..., :2] + box[..., 2:]) / 2 / slots.stride - slots.cell
        away = (t[..., :2].sigmoid() - place).square() + (t[..., 2:4] - (sides / slots.prior).log()).square()
        return (2 - sides.prod(-1) / (image.shape[2] * image.shape[3])) * away.sum(-1)


def decode(t: Tensor, slots: Slots) -> Tensor:
    """Boxes [B, N, 4] xyxy in pixels of predictions t [B, N, 4 or more]."""
    centre = (t[..., :2].sigmoid() + slots.cell) * slots.stride
    half = slots.prior / 2 * t[..., 2:4].clamp(max=LARGEST_GROWTH).exp()
    return torch.cat([centre - half, centre + half], -1)


def assign(
    boxes: Tensor, labels: Tensor, grids: tuple[tuple[int, int], ...], priors: tuple[tuple[float, float], ...]
) -> Tensor:
    """For each place the number of the box that belongs there, or -1.

    Shapes: boxes [B, G, 4], labels [B, G] (0 = padding), grids of three maps (rows, columns), nine priors -> [B, N].
    """
    device = boxes.device
    shape, size, strides = _numbers(grids, priors, device)
    sides, centre = boxes[..., 2:] - boxes[..., :2], (boxes[..., :2] + boxes[..., 2:]) / 2
    shared = torch.minimum(sides[:, :, None], shape).prod(-1)  # [B, G, 9] overlap, both at the same centre
    best = (shared / (sides.prod(-1, keepdim=True) + shape.prod(-1) - shared)).argmax(2)  # [B, G]
    level = best // 3
    start = (size.prod(1) * 3).cumsum(0) - size.prod(1) * 3  # [3] first place of each map
    stride = strides[level]
    rows, columns = size[level].unbind(-1)
    column = torch.minimum((centre[..., 0] / stride).long(), columns - 1)
    row = torch.minimum((centre[..., 1] / stride).long(), rows - 1)
    slot = start[level] + (row * columns + column) * 3 + best % 3  # [B, G]
    number = torch.arange(boxes.shape[1], device=device).where(labels > 0, -1)
    places = 3 * sum(r * c for r, c in grids)
    owner = torch.full((len(boxes), places), -1, device=device)
    return owner.scatter_reduce(1, slot, number, "amax")  # the later box wins


@made_once
def _numbers(
    grids: tuple[tuple[int, int], ...], priors: tuple[tuple[float, float], ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The priors [9, 2] float32, rows and columns of the maps [3, 2] int64 and their strides [3] int64."""
    return tuple(torch.tensor(numbers, device=device) for numbers in (priors, grids, STRIDES))  # type: ignore[return-value]


@made_once
def _slots(grids: tuple[tuple[int, int], ...], priors: tuple[tuple[float, float], ...], device: torch.device) -> Slots:
    cells, strides, shapes = [], [], []
    for level, (rows, columns) in enumerate(grids):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells.append(torch.stack([x, y], -1).view(-1, 2).repeat_interleave(3, 0))
        strides.append(torch.full((rows * columns * 3, 1), STRIDES[level]))
        shapes.append(torch.tensor(priors[3 * level : 3 * level + 3]).repeat(rows * columns, 1))
    return Slots(*(torch.cat(parts).float().to(device) for parts in (cells, strides, shapes)))


# -------------------------------------------------------------------------------------------------- Darknet-53


class Darknet53(nn.Module):
    """The trunk (table 1): image [B, 3, H, W] -> maps of strides 8, 16, 32.

    Attributes:
        channels: of each map.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        sizes = [max(8, round(c * width)) for c in (32, 64, 128, 256, 512, 1024)]
        self.stem = _conv(3, sizes[0], 3)
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(sizes[i], sizes[i + 1], 3, 2), *(Residual(sizes[i + 1]) for _ in range(repeats)))
            for i, repeats in enumerate((1, 2, 8, 8, 4))
        )
        self.channels = tuple(sizes[3:])

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[2:]


class Residual(nn.Module):
    """x plus a 1x1 convolution to half the channels and a 3x3 one back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(channels, channels // 2, 1), _conv(channels // 2, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True))


def _five(inputs: int, middle: int) -> nn.Sequential:
    """Five convolutions, 1x1 and 3x3 in turn."""
    sizes = [inputs, middle, 2 * middle, middle, 2 * middle, middle]
    return nn.Sequential(*(_conv(sizes[i], sizes[i + 1], 1 if i % 2 == 0 else 3) for i in range(5)))
