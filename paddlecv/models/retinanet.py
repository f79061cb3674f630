"""RetinaNet: a dense detector on a feature pyramid, whose loss does not drown in what is easy.

Lin, Goyal, Girshick, He, Dollár, 2017, "Focal Loss for Dense Object Detection", ICCV, arXiv:1708.02002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from paddlecv.layers.detection import (
    BETWEEN,
    DetectionLosses,
    Detections,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    match_anchors,
    matched_targets,
    pyramid_anchors,
    suppress,
    take,
)
from paddlecv.models.faster_rcnn import OLDER_PYRAMID, PyramidBackbone


class RetinaNet(nn.Module):
    """RetinaNet (section 4) on maps of 8, 16, 32, 64 and 128 pixels.

    Loss (section 4.1): focal loss (eq. 5, alpha 0.25, gamma 2) of every class at every anchor but those that overlap a
    true box by `low` to `high`; L1 of the coded boxes of the positives, which are those from `high` on, and the best
    ones of each box. Sums, counted by positives.

    Names, shapes and outputs are those of torchvision's `retinanet_resnet50_fpn` (of the published file with
    frozen_norm=True, norm_eps=0): so there is one column of class
    scores more than classes, the first, which is trained to be 0 and never looked at.

    Args:
        num_classes: classes without background, C.
        architecture: name of the trunk (see `Backbone`).
        width: multiplier of its channels, where it has one.
        channels: of the pyramid and of the heads.
        anchor_sizes: smallest anchor of each of the five maps (pixels); two more are 2^(1/3) and 2^(2/3) of it.
        aspect_ratios: height / width of the anchors.
        high: overlap from which an anchor is positive.
        low: overlap below which it is background.
        min_score: detections of this probability or less are left out.
        max_iou: of two detections of a class that overlap by more, the better one stays.
        candidates: detections of a map that go into this comparison.
        keep: detections of an image.
        frozen_norm: batch norms of the trunk keep what they start with, which only makes sense on given weights.
        norm_eps: added to the variance in those: 1e-5 for ResNets, 1e-3 for MobileNets, 0 for torchvision's of COCO.

    Shapes: image [B, 3, H, W] float32, size [B, 2] int64 (height and width within the padding); target None, or boxes
    [B, G, 4] float32 and labels [B, G] int64, 0 = padding -> Detections, or DetectionLosses. H and W are multiples of
    32.
    """

    older_names: ClassVar[Sequence[tuple[str, str]]] = (  # see `FasterRCNN`
        *OLDER_PYRAMID,
        *((rf"(head\.\w+_head\.conv)\.{2 * i}\.(weight|bias)$", rf"\1.{i}.0.\2") for i in range(4)),
    )

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str = "resnet50",
        width: float = 1.0,
        channels: int = 256,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        high: float = 0.5,
        low: float = 0.4,
        min_score: float = 0.05,
        max_iou: float = 0.5,
        candidates: int = 1000,
        keep: int = 300,
        frozen_norm: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != 5:
            raise ValueError(f"there are five maps, so anchor_sizes must be five numbers, got {anchor_sizes}")
        self.anchor_sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in anchor_sizes)
        self.aspect_ratios, self.high, self.low = tuple(aspect_ratios), high, low
        self.min_score, self.max_iou, self.candidates, self.keep = min_score, max_iou, candidates, keep
        self.backbone = PyramidBackbone(
            architecture=architecture,
            strides=(8, 16, 32),
            channels=channels,
            width=width,
            frozen_norm=frozen_norm,
            norm_eps=norm_eps,
        )
        self.backbone.fpn.extra_blocks = LastLevelP6P7(channels, channels)
        self.head = RetinaNetHead(channels, 3 * len(aspect_ratios), num_classes + 1)

    def forward(
        self, image: Tensor, size: Tensor, target: Mapping[str, Tensor] | None = None
    ) -> DetectionLosses | Detections:
        maps = self.backbone(image)
        found = self.head(maps)
        scores, codes = found["cls_logits"].float(), found["bbox_regression"].float()  # [B, N, C + 1], [B, N, 4]
        grids = tuple((m.shape[2], m.shape[3]) for m in maps)
        anchors = pyramid_anchors(
            grids, (*image.shape[2:],), self.anchor_sizes, self.aspect_ratios, image.device
        )  # [N, 4]
        if target is not None:
            return self._losses(scores, codes, anchors, target["boxes"], target["labels"])
        return self._detections(scores, codes, anchors, grids, size)

    def _losses(self, scores: Tensor, codes: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor) -> DetectionLosses:
        match = match_anchors(boxes, labels, anchors, high=self.high, low=self.low, rescue="ties")
        box, label = matched_targets(match, boxes, labels)  # [B, N, 4], [B, N]
        classes = F.one_hot(label, scores.shape[2])
        classes[..., 0].zero_()  # background is no class
        focal = sigmoid_focal_loss(scores, classes.to(scores), alpha=0.25, gamma=2).sum(-1)  # [B, N]
        away = F.l1_loss(codes, encode_boxes(box, anchors), reduction="none").sum(-1)
        positive = label > 0
        sums = {"class": focal.where(match != BETWEEN, 0.0).sum(), "box": away.where(positive, 0.0).sum()}
        return DetectionLosses(sums, positive.sum())

    def _detections(
        self, scores: Tensor, codes: Tensor, anchors: Tensor, grids: tuple[tuple[int, int], ...], size: Tensor
    ) -> Detections:
        scores, classes = scores[..., 1:], scores.shape[2] - 1
        counts = [rows * columns * 3 * len(self.aspect_ratios) for rows, columns in grids]
        values, numbers, start = [], [], 0
        for part, count in zip(scores.split(counts, 1), counts, strict=True):  # the best of each map
            value, number = part.flatten(1).topk(min(self.candidates, count * classes))
            values.append(value)
            numbers.append(number + start * classes)
            start += count
        score, number = torch.cat(values, 1).sigmoid(), torch.cat(numbers, 1)  # [B, K]
        anchor, label = number // classes, number % classes + 1
        boxes = decode_boxes(take(codes, anchor), anchors[anchor])
        boxes = clip_boxes(boxes, size)
        return suppress(boxes, score, label, min_score=self.min_score, max_iou=self.max_iou, keep=self.keep)
