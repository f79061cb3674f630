"""Mask R-CNN: Faster R-CNN with a third branch that gives each detection a mask.

He, Gkioxari, Dollár, Girshick, 2017, "Mask R-CNN", ICCV, section 3 and the right half of figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from paddlecore.errors import DataError
from paddlecv.layers.detection import Detections
from paddlecv.layers.roi_align import RoIAlign
from paddlecv.models.faster_rcnn import FasterRCNN, Proposals, Samples


class MaskRCNN(FasterRCNN):
    """`FasterRCNN`, and a mask for each detection.

    The defaults are those of torchvision's `maskrcnn_resnet50_fpn`, whose files of weights load unchanged and give its
    detections and masks (those of COCO with norm_eps=0).

    Args:
        num_classes: classes without background, C.
        strides: of the trunk's maps that the pyramid is built on (input pixels), each twice the one before.
        channels: of each map of the pyramid.
        canonical: side of the box that is read at stride 16 (pixels).
        mask_width: channels of the mask branch: four convolutions on 14 x 14 pixels, one that doubles them, and a mask
            for each class.
        **options: see `FasterRCNN`.

    Shapes: as `FasterRCNN`; the target has masks [B, G, H, W] uint8 (0 or 1) as well, and so have `Detections`, as
    probabilities on 28 x 28 points of the box.

    Raises:
        DataError: a target without masks, or with more or fewer of them than boxes.
    """

    older_names = (
        *FasterRCNN.older_names,
        *((rf"(mask_head)\.mask_fcn{i + 1}\.", rf"\1.{i}.0.") for i in range(4)),
    )

    def __init__(
        self,
        *,
        num_classes: int,
        strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        canonical: float = 224.0,
        mask_width: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes, strides=strides, channels=channels, canonical=canonical, **options
        )  # fmt: skip
        # here, so that the names of the weights are torchvision's
        self.roi_heads.mask_align = RoIAlign(output_size=14, strides=strides, canonical=canonical)
        self.roi_heads.mask_head = MaskRCNNHeads(channels, [mask_width] * 4, 1)
        self.roi_heads.mask_predictor = MaskRCNNPredictor(mask_width, mask_width, num_classes + 1)

    def losses(self, maps: list[Tensor], samples: Samples, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """L_cls + L_box + L_mask of each image, summed over images.

        L_mask is the log loss of the pixels of the true class's mask, averaged over them and over the image's objects.
        """
        if "masks" not in target:
            raise DataError(
                "Mask R-CNN learns from masks, and these data give none: set data.masks=true; boxes alone are enough "
                "for paddlecv.models.FasterRCNN"
            )
        heads: Any = self.roi_heads
        # objects come first, and no more than this many; places behind hold none
        first = slice(0, int(heads.samples * heads.fraction))
        boxes, labels, number = samples.boxes[:, first], samples.labels[:, first], samples.number[:, first]
        logits = self._masks(heads.mask_align(maps, boxes), labels)  # [B * M, 28, 28]

        # the true masks, cropped and resized as the features are
        masks = target["masks"]  # [B, G, H, W]
        objects = target["labels"].shape
        if masks.shape[:2] != objects:  # the operator would read what lies behind them
            raise DataError(f"masks {tuple(masks.shape)} are not one for each of labels {tuple(objects)}")
        if not masks.shape[1]:
            masks = F.pad(masks, (0, 0, 0, 0, 0, 1))  # places without an object read the first
        plane = torch.arange(len(masks), device=masks.device)[:, None] * masks.shape[1] + number  # [B, M]
        rois = torch.cat([plane[..., None].to(boxes), boxes], -1).flatten(0, 1)  # [B * M, 5]
        wanted = roi_align(masks.flatten(0, 1)[:, None].float(), rois, logits.shape[-1])[:, 0]

        of_mask = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2)).view(labels.shape)
        object_ = labels > 0
        count = object_.sum(1, keepdim=True).clamp(min=1)
        return super().losses(maps, samples, target) | {"mask": (of_mask * object_ / count).sum()}

    def detect(self, maps: list[Tensor], proposals: Proposals, size: Tensor) -> Detections:
        """Detections with the mask of their class, 28 x 28 probabilities that are to be stretched over the box."""
        found = super().detect(maps, proposals, size)
        there = found.labels.flatten().nonzero()[:, 0]  # padding has no mask to be worked out
        heads: Any = self.roi_heads
        masks = self._masks(heads.mask_align(maps, found.boxes)[there], found.labels.flatten()[there])
        out = masks.new_zeros(found.labels.numel(), *masks.shape[1:]).index_copy(0, there, masks.sigmoid())
        return found._replace(masks=out.unflatten(0, found.labels.shape))

    def _masks(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits [K, 28, 28] of the masks of `labels` (K of them), from features [K, channels, 14, 14]."""
        heads: Any = self.roi_heads
        logits = heads.mask_predictor(heads.mask_head(features)).float()  # [K, C + 1, 28, 28]
        return logits[torch.arange(len(logits), device=logits.device), labels.flatten()]
