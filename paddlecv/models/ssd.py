"""SSD: one network looks once, and says at each place of several feature maps what is there and where exactly.

Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg, 2016, "SSD: Single Shot MultiBox Detector", ECCV, arXiv:1512.02325.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from paddlecore.errors import DataError
from paddlecv.layers.detection import (
    DetectionLosses,
    Detections,
    best_of_each_class,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    made_once,
    match_anchors,
    matched_targets,
    suppress,
)

CODING = (10.0, 10.0, 5.0, 5.0)  # weights of the box coding: one over the variances of the authors' code


class SSD(nn.Module):
    """The detector on any maps: heads, default boxes, multibox loss, suppression.

    Default boxes (section 2.2): at each place of map k, squares of side s_k and sqrt(s_k s_k+1), and for each ratio r
    boxes of s_k sqrt(r) by s_k / sqrt(r) and the other way round, all times the image's size, no side above it.

    Loss (eq. 1-3): smooth L1 of the coded boxes of positive default boxes, plus cross-entropy of the positives and of
    `negatives` times as many others of the same image, those of highest loss. Sums, counted by positives.

    Names and shapes of the tensors are those of torchvision's SSD.

    Args:
        backbone: [B, 3, H, W] -> maps, finest first.
        channels: of the maps.
        block: (channels, outputs) -> what predicts that many numbers at each place of a map.
        num_classes: classes without background, C.
        ratios: of each map, r > 1.
        scales: of each map s_k, and one more; in shares of the image's sides.
        steps: pixels between neighbouring places of each map; None = the places fill the image evenly.
        match_iou: overlap from which a default box is positive; the best of each true box always is.
        negatives: negatives for each positive that count in the loss.
        min_score: detections of this probability or less are left out.
        max_iou: of two detections of a class that overlap by more, the better one stays.
        candidates: detections of a class that go into this comparison.
        keep: detections of an image.

    Shapes: image [B, 3, H, W] float32, size [B, 2] int64 (height and width within the padding); target None, or boxes
    [B, G, 4] float32 and labels [B, G] int64, 0 = padding -> Detections, or DetectionLosses.

    Raises:
        ValueError: numbers of ratios, scales, steps and maps that do not fit.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        block: Callable[[int, int], nn.Module],
        *,
        num_classes: int,
        ratios: Sequence[Sequence[float]],
        scales: Sequence[float],
        steps: Sequence[float] | None = None,
        match_iou: float = 0.5,
        negatives: float = 3.0,
        min_score: float = 0.01,
        max_iou: float = 0.45,
        candidates: int = 400,
        keep: int = 200,
    ) -> None:
        super().__init__()
        if not len(channels) == len(ratios) == len(scales) - 1:
            raise ValueError(f"{len(channels)} maps need as many ratios, and one more of scales: {ratios}, {scales}")
        if steps is not None and len(steps) < len(channels):
            raise ValueError(f"{len(channels)} maps need as many steps, got {steps}")
        self.ratios, self.scales = tuple(tuple(r) for r in ratios), tuple(scales)
        self.steps = None if steps is None else tuple(steps[: len(channels)])
        self.match_iou, self.negatives = match_iou, negatives
        self.min_score, self.max_iou, self.candidates, self.keep = min_score, max_iou, candidates, keep
        self.backbone = backbone
        boxes = [2 + 2 * len(r) for r in ratios]  # at each place
        classes = [block(c, n * (num_classes + 1)) for c, n in zip(channels, boxes, strict=True)]
        offsets = [block(c, n * 4) for c, n in zip(channels, boxes, strict=True)]
        self.head = nn.ModuleDict(
            {"classification_head": Head(classes, num_classes + 1), "regression_head": Head(offsets, 4)}
        )

    def forward(
        self, image: Tensor, size: Tensor, target: Mapping[str, Tensor] | None = None
    ) -> DetectionLosses | Detections:
        maps = self.backbone(image)
        scores = self.head["classification_head"](maps).float()  # [B, N, C + 1] logits, background first
        codes = self.head["regression_head"](maps).float()  # [B, N, 4]
        anchors = self.default_boxes(maps, image)  # [N, 4]
        if target is not None:
            return self._losses(scores, codes, anchors, target["boxes"], target["labels"])
        boxes = clip_boxes(decode_boxes(codes, anchors, CODING), size)
        best = best_of_each_class(boxes, scores.softmax(-1)[..., 1:], self.candidates)
        return suppress(*best, min_score=self.min_score, max_iou=self.max_iou, keep=self.keep)

    def default_boxes(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """[N, 4] float32, in the order of the heads' outputs: map, row, column, box. Computed once for each size."""
        grids = tuple((m.shape[2], m.shape[3]) for m in maps)
        return _default_boxes(grids, (*image.shape[2:],), self.ratios, self.scales, self.steps, image.device)

    def _losses(self, scores: Tensor, codes: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor) -> DetectionLosses:
        match = match_anchors(boxes, labels, anchors, high=self.match_iou, low=self.match_iou, rescue="one")
        box, label = matched_targets(match, boxes, labels)  # [B, N, 4], [B, N]
        positive = label > 0
        away = F.smooth_l1_loss(codes, encode_boxes(box, anchors, CODING), reduction="none").sum(-1)
        loss = F.cross_entropy(scores.flatten(0, 1), label.flatten(), reduction="none").view_as(away)
        count = positive.sum(1, keepdim=True)  # [B, 1]
        order = loss.detach().masked_fill(positive, -1.0).argsort(dim=1, descending=True, stable=True)
        places = torch.arange(loss.shape[1], device=loss.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, places)  # of each box, 0 = the negative of highest loss
        counted = positive | (rank < self.negatives * count)
        return DetectionLosses(
            {"class": loss.where(counted, 0.0).sum(), "box": away.where(positive, 0.0).sum()}, count.sum()
        )


class Head(nn.Module):
    """The same kind of numbers at each place of each map: maps [B, channels_k, H_k, W_k] -> [B, N, columns]."""

    def __init__(self, blocks: list[nn.Module], columns: int) -> None:
        super().__init__()
        self.module_list, self.columns = nn.ModuleList(blocks), columns

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        rows = [block(x).permute(0, 2, 3, 1).flatten(1) for block, x in zip(self.module_list, maps, strict=True)]
        return torch.cat(rows, 1).view(len(rows[0]), -1, self.columns)


@made_once
def _default_boxes(
    grids: tuple[tuple[int, int], ...],
    size: tuple[int, ...],
    ratios: tuple[tuple[float, ...], ...],
    scales: tuple[float, ...],
    steps: tuple[float, ...] | None,
    device: torch.device,
) -> Tensor:
    (height, width), found = size, []
    for k, (rows, columns) in enumerate(grids):
        s, between = scales[k], math.sqrt(scales[k] * scales[k + 1])
        shapes = [(s, s), (between, between)]
        for ratio in ratios[k]:
            long, short = s * math.sqrt(ratio), s / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        half = torch.tensor(shapes).clamp(max=1) * torch.tensor([width, height]) / 2  # [boxes, 2]
        down, across = (height / rows, width / columns) if steps is None else (steps[k], steps[k])
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) * down, (torch.arange(columns) + 0.5) * across, indexing="ij")
        centre = torch.stack([x, y], -1)[:, :, None]  # [rows, columns, 1, 2]
        found.append(torch.cat([centre - half, centre + half], -1).flatten(0, 2))
    return torch.cat(found).to(device)


# ------------------------------------------------------------------------------------------------------ SSD300


class SSD300(SSD):
    """SSD on VGG-16: conv4_3 with its length brought to 20, fc6 and fc7 as dilated convolutions, and smaller and
    smaller maps behind (figure 2, section 3.1). At 300 pixels: maps of 38, 19, 10, 5, 3 and 1, 8 732 default boxes.

    With width 1 and no batch norm it is torchvision's `ssd300_vgg16`, by names, shapes and outputs (whose own images
    are RGB of 0..255 less the mean 123, 117, 104). A trunk without given weights learns better with batch norm, which
    the paper does not have.

    Args:
        num_classes: classes without background, C.
        width: multiplier of all channels.
        batch_norm: a batch norm behind each convolution but the predicting ones.
        ratios: of the default boxes of each map; as many maps are made. The last two shrink a map by two pixels, so
            six maps need images of 268 pixels or more, five of 140, fewer of 12.
        scales: sides of the default boxes of each map, and one more; in shares of the image.
        steps: pixels between neighbouring places of each map, as in the authors' code for 300 pixels; None = the places
            fill the image evenly, which is right for every size.
        match_iou: overlap from which a default box is positive; the best of each true box always is.
        negatives: negatives for each positive that count in the loss.
        min_score: detections of this probability or less are left out.
        max_iou: of two detections of a class that overlap by more, the better one stays.
        candidates: detections of a class that go into this comparison.
        keep: detections of an image.

    Raises:
        DataError: images that are too small for so many maps.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        width: float = 1.0,
        batch_norm: bool = False,
        ratios: Sequence[Sequence[float]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        scales: Sequence[float] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        steps: Sequence[float] | None = (8, 16, 32, 64, 100, 300),
        match_iou: float = 0.5,
        negatives: float = 3.0,
        min_score: float = 0.01,
        max_iou: float = 0.45,
        candidates: int = 400,
        keep: int = 200,
    ) -> None:
        if not 2 <= len(ratios) <= 6:
            raise ValueError(f"SSD300 has two to six maps, got ratios of {len(ratios)}")
        backbone = VGGTrunk(maps=len(ratios), width=width, batch_norm=batch_norm)
        super().__init__(
            backbone,
            backbone.channels,
            _predict,
            num_classes=num_classes,
            ratios=ratios,
            scales=scales,
            steps=steps,
            match_iou=match_iou,
            negatives=negatives,
            min_score=min_score,
            max_iou=max_iou,
            candidates=candidates,
            keep=keep,
        )


SMALLEST = {2: 12, 3: 12, 4: 12, 5: 140, 6: 268}
"""Pixels of a side that leave one for the last map, by the number of maps."""


class VGGTrunk(nn.Module):
    """VGG-16 up to conv5_3 and the layers that SSD puts on it: image [B, 3, H, W] -> `maps` maps.

    Attributes:
        channels: of each map.
    """

    def __init__(self, *, maps: int = 6, width: float = 1.0, batch_norm: bool = False) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(8, round(channels * width))

        def layer(
            inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
        ) -> list[nn.Module]:
            places = (kernel, stride, padding, dilation)
            conv = nn.Conv2d(scaled(inputs), scaled(outputs), *places, bias=not batch_norm)
            norm = [nn.BatchNorm2d(scaled(outputs))] if batch_norm else []
            return [conv, *norm, nn.ReLU(inplace=True)]

        vgg = make_layers([v if isinstance(v, str) else scaled(v) for v in cfgs["D"]], batch_norm)
        *_, third, fourth, fifth = (i for i, module in enumerate(vgg) if isinstance(module, nn.MaxPool2d))
        vgg[third].ceil_mode = True  # 75 pixels -> 38, as in the paper
        self.scale_weight = nn.Parameter(torch.full((scaled(512),), 20.0))  # section 3.1
        self.features = vgg[:fourth]
        rest = [
            [
                *vgg[fourth:fifth],
                nn.Sequential(
                    nn.MaxPool2d(3, stride=1, padding=1),
                    *layer(512, 1024, 3, padding=6, dilation=6),  # fc6
                    *layer(1024, 1024, 1),  # fc7
                ),
            ],
            [*layer(1024, 256, 1), *layer(256, 512, 3, stride=2, padding=1)],  # conv8_2
            [*layer(512, 128, 1), *layer(128, 256, 3, stride=2, padding=1)],  # conv9_2
            [*layer(256, 128, 1), *layer(128, 256, 3)],  # conv10_2
            [*layer(256, 128, 1), *layer(128, 256, 3)],  # conv11_2
        ]
        self.extra = nn.ModuleList(nn.Sequential(*layers) for layers in rest[: maps - 1])
        self.channels = tuple(scaled(c) for c in (512, 1024, 512, 256, 256, 256)[:maps])
        self.smallest = SMALLEST[maps]
        for module in vgg.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in [self.extra[0][-1], *self.extra[1:]]:  # type: ignore[index]
            module.apply(_xavier)

    def forward(self, image: Tensor) -> list[Tensor]:
        if min(image.shape[2:]) < self.smallest:
            raise DataError(
                f"the model gets images of {tuple(image.shape[2:])}: so many maps need sides of {self.smallest} pixels "
                "or more (data.size); or give fewer model.ratios and model.scales"
            )
        x = self.features(image)  # conv4_3 [B, 512 width, H / 8, W / 8]
        maps = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


def _predict(channels: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(channels, outputs, 3, padding=1)
    _xavier(conv)
    return conv


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
