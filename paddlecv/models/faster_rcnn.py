"""Faster R-CNN on a feature pyramid: boxes are proposed by one network and judged by a second one.

Ren, He, Girshick, Sun, 2015, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS;
Lin et al., 2017, "Feature Pyramid Networks for Object Detection", CVPR, sections 4.1 and 4.2, for the pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, batched_nms
from torchvision.ops.boxes import remove_small_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from paddlecore.errors import DataError
from paddlecv.layers.detection import (
    BACKGROUND,
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
from paddlecv.layers.roi_align import RoIAlign
from paddlecv.layers.sampling import balanced_sample, random_keys
from paddlecv.models.backbones import Backbone

SMOOTH = 1 / 9
"""Where the smooth L1 loss turns from a square into a line, as in the authors' code for the RPN."""

OLDER_PYRAMID = ((r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),)
"""See `older_names`."""


class Proposals(NamedTuple):
    """Boxes of an image that may hold something, padded to R."""

    boxes: Tensor  # [B, R, 4] x1, y1, x2, y2 pixels of the input
    used: Tensor  # [B, R] bool: false where padded
    anchor: Tensor  # [B, R] int64: number of the anchor that each came from


class Samples(NamedTuple):
    """Proposals that are trained, and what they shall become; objects come first, padding last."""

    boxes: Tensor  # [B, S, 4] x1, y1, x2, y2 pixels of the input
    used: Tensor  # [B, S] bool: false where padded
    labels: Tensor  # [B, S] int64: class in 1..C, 0 = background or padding
    true_boxes: Tensor  # [B, S, 4] of the objects; anything where labels is 0
    number: Tensor  # [B, S] int64 in 0..G-1: which true box that is; 0 where there is none


class PyramidBackbone(nn.Module):
    """A trunk and a pyramid on it, with one more map of twice the last stride (Lin et al., sections 3 and 4.1).

    Args:
        architecture: name of the trunk (see `Backbone`).
        strides: of the trunk's maps that the pyramid is built on (input pixels).
        channels: of each map of the pyramid.
        width: multiplier of the trunk's channels, for architectures that have one.
        frozen_norm: batch norms of the trunk are constants: they keep the statistics and the scale that they start
            with, which only makes sense on given weights.
        norm_eps: added to the variance in those: 1e-5 for ResNets, 1e-3 for MobileNets, 0 for torchvision's of COCO.

    Shapes: image [B, 3, H, W] float32 -> len(strides) + 1 maps [B, channels, H_l, W_l].

    Raises:
        DataError: H or W is not a multiple of the last stride. Maps would be rounded up, and anchors, which torchvision
            lays as densely as the maps are, lie up to a quarter of the image away from what they shall find.
    """

    def __init__(
        self,
        *,
        architecture: str,
        strides: Sequence[int],
        channels: int,
        width: float,
        frozen_norm: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.multiple = strides[-1]
        self.body = Backbone(architecture=architecture, features_only=True, strides=strides, width=width)
        if frozen_norm:
            _freeze_norms(self.body, norm_eps)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), channels, extra_blocks=LastLevelMaxPool())

    def forward(self, image: Tensor) -> list[Tensor]:
        if image.shape[2] % self.multiple or image.shape[3] % self.multiple:
            shown = tuple(image.shape[2:])
            raise DataError(f"the model gets images of {shown}: sides must be multiples of {self.multiple} (data.size)")
        return list(self.fpn({str(i): m for i, m in enumerate(self.body(image))}).values())


def _freeze_norms(module: nn.Module, eps: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze_norms(child, eps)


class RegionProposals(nn.Module):
    """The region proposal network (section 3.1): scores and corrects a few anchors at each pixel of each map.

    Args:
        channels: of the maps.
        anchor_sizes: sides of the square anchors, for each map (pixels of the input).
        aspect_ratios: height / width of the anchors, at each size.
        candidates: best anchors of each map that go into the non-maximum suppression, in training and in evaluation.
        proposals: boxes that come out of it, in training and in evaluation.
        nms: overlap (IoU) above which the lower score is dropped.
        high: an anchor that overlaps a true box by this much (IoU) is an object, and so is the best one of each box.
        low: an anchor that overlaps every true box by less is background; the ones between are not trained.
        samples: anchors of an image that are trained, at most half of them objects.
    """

    def __init__(
        self,
        *,
        channels: int,
        anchor_sizes: Sequence[Sequence[int]],
        aspect_ratios: Sequence[float],
        candidates: Sequence[int],
        proposals: Sequence[int],
        nms: float = 0.7,
        high: float = 0.7,
        low: float = 0.3,
        samples: int = 256,
    ) -> None:
        super().__init__()
        self.candidates, self.proposals, self.nms = tuple(candidates), tuple(proposals), nms
        self.high, self.low, self.samples = high, low, samples
        self.anchor_sizes, self.aspect_ratios = tuple(tuple(s) for s in anchor_sizes), tuple(aspect_ratios)
        self.head = RPNHead(channels, len(self.anchor_sizes[0]) * len(self.aspect_ratios))

    def forward(
        self, maps: list[Tensor], image: Tensor, size: Tensor, target: Mapping[str, Tensor] | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals, and the losses (none without a target)."""
        score_maps, delta_maps = self.head(maps)
        scores, deltas = concat_box_prediction_layers(score_maps, delta_maps)
        scores = scores.view(len(image), -1).float()  # [B, N]
        deltas = deltas.view(len(image), -1, 4).float()  # [B, N, 4]
        grids = tuple((m.shape[2], m.shape[3]) for m in maps)
        anchors = pyramid_anchors(
            grids, (*image.shape[2:],), self.anchor_sizes, self.aspect_ratios, image.device
        )  # [N, 4]
        with torch.no_grad():
            proposals = self._propose(scores, decode_boxes(deltas, anchors), size, [m[0].numel() for m in score_maps])
        losses = {} if target is None else self._losses(scores, deltas, anchors, target)
        return proposals, losses

    def _propose(self, scores: Tensor, boxes: Tensor, size: Tensor, per_map: list[int]) -> Proposals:
        """The best boxes of each map, overlapping ones of one map suppressed.

        R is that of the image with the most.
        """
        candidates, wanted = self.candidates[not self.training], self.proposals[not self.training]
        best, level, first = [], [], 0
        for i, (found, count) in enumerate(zip(scores.split(per_map, 1), per_map, strict=True)):
            best.append(found.topk(min(candidates, count), 1).indices + first)
            level.append(torch.full_like(best[-1], i))
            first += count
        anchor, levels = torch.cat(best, 1), torch.cat(level, 1)  # [B, K]
        boxes, scores = clip_boxes(take(boxes, anchor), size), scores.gather(1, anchor)

        found = []
        for b in range(len(boxes)):
            keep = remove_small_boxes(boxes[b], 1e-3)
            found.append(keep[batched_nms(boxes[b, keep], scores[b, keep], levels[b, keep], self.nms)][:wanted])
        number = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)  # [B, R]
        used, number = number >= 0, number.clamp(min=0)
        return Proposals(take(boxes, number) * used[..., None], used, anchor.gather(1, number))

    def _losses(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, target: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Eq. 1 for each image, summed over images; N_cls and N_reg are the number of its anchors that are trained."""
        match = match_anchors(
            target["boxes"], target["labels"], anchors, high=self.high, low=self.low, rescue="ties"
        )  # [B, N]
        label = torch.where(match == BETWEEN, -1, (match >= 0).long())
        key = random_keys(target["draw"], torch.arange(len(anchors), device=anchors.device).expand_as(match))
        place, used = balanced_sample(label, key, samples=self.samples, fraction=0.5)  # [B, S]
        count = used.sum(1, keepdim=True).clamp(min=1)
        positive = (label.gather(1, place) > 0) & used
        score = F.binary_cross_entropy_with_logits(scores.gather(1, place), positive.float(), reduction="none")
        box, _ = matched_targets(match.gather(1, place), target["boxes"], target["labels"])
        code = encode_boxes(box, anchors[place])
        shift = F.smooth_l1_loss(take(deltas, place), code, reduction="none", beta=SMOOTH).sum(-1)
        return {"objectness": (score * used / count).sum(), "rpn_box": (shift * positive / count).sum()}


class BoxHeads(nn.Module):
    """The second network (Fast R-CNN, Girshick, 2015, ICCV, section 2): the class of a proposal, and a better box.

    Args:
        num_classes: classes without background, C.
        channels: of the maps.
        strides: of the maps that proposals are read from (input pixels).
        width: of the two hidden layers.
        canonical: side of the box that is read at stride 16 (pixels; see `pyramid_level`).
        samples: proposals of an image that are trained.
        fraction: share of them that may be objects.
        overlap: a proposal that overlaps a true box by this much (IoU) is an object, any other background.
        threshold: least probability of a detection.
        nms: overlap (IoU) above which the lower score of one class is dropped.
        detections: most detections of an image.
    """

    weights = (10.0, 10.0, 5.0, 5.0)  # of the box's corrections: one over their usual deviation (authors' code)

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        strides: Sequence[int],
        width: int,
        canonical: float,
        samples: int,
        fraction: float = 0.25,
        overlap: float = 0.5,
        threshold: float = 0.05,
        nms: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.samples, self.fraction, self.overlap = samples, fraction, overlap
        self.threshold, self.nms, self.detections = threshold, nms, detections
        self.align = RoIAlign(output_size=7, strides=strides, canonical=canonical)
        self.box_head = TwoMLPHead(channels * 7 * 7, width)
        self.box_predictor = FastRCNNPredictor(width, num_classes + 1)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """boxes [B, R, 4] -> logits [B, R, C + 1], class 0 the background, and box codes [B, R, C + 1, 4]."""
        logits, codes = self.box_predictor(self.box_head(self.align(maps, boxes)))
        shape = boxes.shape[:2]
        return logits.unflatten(0, shape).float(), codes.unflatten(0, shape).unflatten(2, (-1, 4)).float()

    @torch.no_grad()
    def choose(self, proposals: Proposals, target: Mapping[str, Tensor]) -> Samples:
        """The proposals that are trained. True boxes are proposals as well, as in the authors' code.

        A proposal has the random key of the anchor it came from: that of its place among the others would change with
        the order of two that score nearly the same.
        """
        true = target["boxes"].float()
        boxes = torch.cat([proposals.boxes, true], 1)  # [B, R + G, 4]
        used = torch.cat([proposals.used, target["labels"] > 0], 1)
        own = -1 - torch.arange(true.shape[1], device=true.device).expand(len(true), -1)  # where anchors have 0, 1, ...
        key = random_keys(~target["draw"], torch.cat([proposals.anchor, own], 1))  # ~: another order than of anchors
        match = match_anchors(true, target["labels"], boxes, high=self.overlap, low=self.overlap, rescue="none")
        place, used = balanced_sample(
            torch.where(used, (match >= 0).long(), -1), key, samples=self.samples, fraction=self.fraction
        )  # [B, S]
        match = torch.where(used, match.gather(1, place), BACKGROUND)
        true_boxes, labels = matched_targets(match, true, target["labels"])
        return Samples(take(boxes, place), used, labels, true_boxes, match.clamp(min=0))

    def losses(self, maps: list[Tensor], samples: Samples) -> dict[str, Tensor]:
        """Log loss of the class, and smooth L1 of an object's box (Fast R-CNN, eq. 1), summed over images."""
        logits, codes = self(maps, samples.boxes)
        count = samples.used.sum(1, keepdim=True).clamp(min=1)
        object_ = samples.labels > 0
        of_class = F.cross_entropy(logits.transpose(1, 2), samples.labels, reduction="none")  # [B, S]
        code = codes.gather(2, samples.labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        boxes = torch.where(object_[..., None], samples.boxes, samples.true_boxes)  # padding has no side to divide by
        wanted = encode_boxes(samples.true_boxes, boxes, self.weights)
        of_box = F.smooth_l1_loss(code, wanted, reduction="none", beta=SMOOTH).sum(-1)
        return {"class": (of_class * samples.used / count).sum(), "box": (of_box * object_ / count).sum()}

    def detect(self, maps: list[Tensor], proposals: Proposals, size: Tensor) -> Detections:
        """The best detections of each image, overlapping ones of a class suppressed."""
        logits, codes = self(maps, proposals.boxes)
        boxes = decode_boxes(codes, proposals.boxes[:, :, None], self.weights)[:, :, 1:]  # [B, R, C, 4]
        boxes = clip_boxes(boxes.flatten(1, 2), size)
        large = (boxes[..., 2:] - boxes[..., :2] >= 0.01).all(-1)  # [B, R * C]
        scores = (logits.softmax(-1)[..., 1:] * proposals.used[..., None]).flatten(1) * large
        labels = torch.arange(1, logits.shape[2], device=logits.device).repeat(logits.shape[1]).expand_as(scores)
        return suppress(boxes, scores, labels, min_score=self.threshold, max_iou=self.nms, keep=self.detections)


class FasterRCNN(nn.Module):
    """A trunk with a pyramid, region proposals from every map, and a head that judges each proposal.

    The defaults are those of torchvision's `fasterrcnn_resnet50_fpn`, whose files of weights load unchanged and give
    its detections (those of COCO with norm_eps=0); for them images are RGB normalised with ImageNet's mean and
    deviation.

    Args:
        num_classes: classes without background, C.
        architecture: name of the trunk (see `Backbone`).
        strides: of the trunk's maps that the pyramid is built on (input pixels), each twice the one before.
        channels: of each map of the pyramid.
        width: multiplier of the trunk's channels, for architectures that have one.
        frozen_norm: batch norms of the trunk keep what they start with, which only makes sense on given weights.
        norm_eps: added to the variance in those: 1e-5 for ResNets, 1e-3 for MobileNets, 0 for torchvision's of COCO.
        anchor_sizes: sides of the square anchors (pixels), for each map, one more than there are strides.
        aspect_ratios: height / width of the anchors, at each size.
        candidates: anchors of each map that compete to be proposals, in training and in evaluation.
        proposals: proposals of an image, in training and in evaluation.
        proposal_overlap: overlap (IoU) above which the lower score of two proposals from one map is dropped.
        box_width: of the two hidden layers of the box head.
        canonical: side of the box that is read at stride 16 (pixels).
        anchor_samples: anchors of an image that are trained.
        samples: proposals of an image that are trained, a quarter of them objects if there are so many.
        threshold: least probability of a detection.
        detections: most detections of an image.

    Shapes: image [B, 3, H, W] float32, size [B, 2] int64 the height and width that are not padding; target with boxes
    [B, G, 4], labels [B, G] int64 (0 = no box), optionally draw [B] int64, by which anchors and proposals are chosen
    (see `paddlecv.layers.sampling`; absent: by torch's generator) -> `DetectionLosses`; without target `Detections`. H
    and W are multiples of the last stride.
    """

    older_names: ClassVar[Sequence[tuple[str, str]]] = (
        *OLDER_PYRAMID,
        (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    )
    """Names in torchvision's published files that its modules change as they load them: (pattern, ours)."""

    def __init__(
        self,
        *,
        num_classes: int,
        architecture: str = "resnet50",
        strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        width: float = 1.0,
        frozen_norm: bool = True,
        norm_eps: float = 1e-5,
        anchor_sizes: Sequence[Sequence[int]] = ((32,), (64,), (128,), (256,), (512,)),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        candidates: Sequence[int] = (2000, 1000),
        proposals: Sequence[int] = (2000, 1000),
        proposal_overlap: float = 0.7,
        box_width: int = 1024,
        canonical: float = 224.0,
        anchor_samples: int = 256,
        samples: int = 512,
        threshold: float = 0.05,
        detections: int = 100,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != len(strides) + 1:
            raise ValueError(
                f"{len(strides)} strides give {len(strides) + 1} maps, got {len(anchor_sizes)} anchor_sizes"
            )
        if len({len(sizes) for sizes in anchor_sizes}) > 1:
            raise ValueError(f"anchor_sizes must have as many sizes for each map, got {anchor_sizes}")
        self.backbone = PyramidBackbone(
            architecture=architecture,
            strides=strides,
            channels=channels,
            width=width,
            frozen_norm=frozen_norm,
            norm_eps=norm_eps,
        )
        self.rpn = RegionProposals(
            channels=channels,
            anchor_sizes=anchor_sizes,
            aspect_ratios=aspect_ratios,
            candidates=candidates,
            proposals=proposals,
            nms=proposal_overlap,
            samples=anchor_samples,
        )
        self.roi_heads = BoxHeads(
            num_classes=num_classes,
            channels=channels,
            strides=strides,
            width=box_width,
            canonical=canonical,
            samples=samples,
            threshold=threshold,
            detections=detections,
        )

    def forward(
        self, image: Tensor, size: Tensor, target: Mapping[str, Tensor] | None = None
    ) -> DetectionLosses | Detections:
        if target is not None and "draw" not in target:
            target = {**target, "draw": torch.randint(1 << 62, (len(image),), device=image.device)}
        maps = self.backbone(image)
        proposals, losses = self.rpn(maps, image, size, target)
        maps = maps[:-1]  # the coarsest one is for the proposals only
        if target is None:
            return self.detect(maps, proposals, size)
        losses |= self.losses(maps, self.roi_heads.choose(proposals, target), target)
        return DetectionLosses(losses, torch.tensor(len(image)))

    def losses(self, maps: list[Tensor], samples: Samples, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the second stage."""
        return self.roi_heads.losses(maps, samples)

    def detect(self, maps: list[Tensor], proposals: Proposals, size: Tensor) -> Detections:
        """What the second stage makes of the proposals."""
        return self.roi_heads.detect(maps, proposals, size)
