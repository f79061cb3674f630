"""Detection: what is in the picture, and where?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from paddlecore.errors import DataError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput
from paddlecv.layers.detection import Detections, clip_boxes, take
from paddlecv.metrics import DetectionAP
from paddlecv.tasks.vision import VisionTask, scales_of


class Detection(VisionTask):
    """The losses of a detector, added up; average precision is measured.

    The model is called as `model(image, size, target)` in training, target being a dict of `boxes`, `labels`, `draw`
    and optionally `masks`, and gives `DetectionLosses`; without a target it gives `Detections`, both of
    `paddlecv.layers.detection`. Batch: see `DetectionData`.

    Prediction, in pixels of the original picture: boxes [B, K, 4] float32 xyxy, scores [B, K] falling, labels [B, K]
    int64 (0 = none), size [B, 2] int64 of the picture, and with masks, B lists of COCO's run lengths, one for each
    label that is not 0.

    Args:
        model: the detector.
        labels: names of the classes 1..C in order; None = their numbers.
        num_classes: C, where there are no names.
        score_threshold: answers and pictures show what has at least this score; measuring takes all there is.
        max_detections: of one picture, the best ones; COCO's is 100.
        flip: look at the mirror image too, and join what is found (see `joined`): better, twice the time. No masks.
        flip_vertical: the same with top and bottom exchanged, where a picture has no up; with both, four looks.
        scales: look at the image at these factors of its size (sides then are multiples of 32), and join what is found.
        overlap: of looks: boxes of a class that overlap by this (IoU) are one.
        masks: measure masks as well; the model and the data have to have them.
        metric: the one that selects the checkpoint: map50, ap or mask_ap.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: list[str] | None = None,
        num_classes: int | None = None,
        score_threshold: float = 0.5,
        max_detections: int = 100,
        flip: bool = False,
        flip_vertical: bool = False,
        scales: Sequence[float] = (1.0,),
        overlap: float = 0.5,
        masks: bool = False,
        metric: Literal["map50", "ap", "mask_ap"] = "map50",
    ) -> None:
        super().__init__(model)
        if not 0 <= score_threshold <= 1 or not 0 < overlap <= 1:
            raise ValueError(f"task.score_threshold and overlap: 0 to 1, got {score_threshold}, {overlap}")
        if max_detections < 1:
            raise ValueError(f"task.max_detections must be at least 1, got {max_detections}")
        if (flip or flip_vertical or len(scales) > 1) and masks:
            raise ValueError("task.flip, flip_vertical and several scales join boxes, they cannot join masks")
        if metric not in ("map50", "ap", *(["mask_ap"] if masks else [])):
            raise ValueError(f"task.metric must be map50 or ap, or with task.masks=true mask_ap, got {metric}")
        self.labels = labels if labels is not None else [str(i) for i in range(1, (num_classes or 0) + 1)]
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self.flip, self.flip_vertical, self.scales, self.overlap = flip, flip_vertical, scales_of(scales), overlap
        self.masks, self.metric = masks, metric

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        target = {name: batch[name] for name in ("boxes", "labels", "draw", "masks") if name in batch}
        losses = self.model(batch["image"], batch["size"], target)
        logs = {name: value.detach() for name, value in losses.sums.items()}
        return StepOutput(torch.stack([value.float() for value in losses.sums.values()]).sum(), losses.weight, logs)

    def predict(self, batch: Batch) -> Prediction:
        image, size = batch["image"], batch["size"]
        axes = [axis for axis, on in ((1, self.flip), (0, self.flip_vertical)) if on]
        found, *others = (self._scaled(image, size, factor, axes) for factor in self.scales)
        for looks, other in enumerate(others, start=1):
            found = joined(found, other, self.overlap, looks)
        boxes, scores, labels = (value[:, : self.max_detections] for value in found[:3])
        boxes = boxes.float() / batch["scale"].flip(1).repeat(1, 2)[:, None]
        boxes = clip_boxes(boxes, batch["original"])
        prediction = {"boxes": boxes, "scores": scores, "labels": labels, "size": batch["original"]}
        if found.masks is not None:
            masks = found.masks[:, : self.max_detections]
            prediction["masks"] = [
                whole_masks(m[there], b[there], tuple(s))
                for m, b, there, s in zip(
                    masks.cpu(), boxes.cpu(), labels.cpu() > 0, batch["original"].tolist(), strict=True
                )
            ]
        return prediction

    def _scaled(self, image: Tensor, size: Tensor, factor: float, axes: list[int]) -> Detections:
        """What is found in the image at `factor` times its size, in pixels of the image as it is."""
        if factor == 1:
            return self._look(image, size, axes)
        sides = [max(1, round(factor * side / 32)) * 32 for side in image.shape[2:]]
        larger = nn.functional.interpolate(image, sides, mode="bilinear", antialias=True, align_corners=False)
        factors = torch.tensor(sides, device=size.device) / torch.tensor(image.shape[2:], device=size.device)
        found = self._look(larger, (size * factors).round().long(), axes)
        return found._replace(boxes=found.boxes / factors.flip(0).repeat(2))

    def _look(self, image: Tensor, size: Tensor, axes: list[int]) -> Detections:
        """What the model finds in the image and in its mirror images along `axes` (1 = left and right, 0 = top and
        bottom), joined."""
        if not axes:
            return self.model(image, size)
        axis, *rest = axes
        found = self._look(image, size, rest)
        return joined(
            found, mirrored(self._look(mirrored_image(image, size, axis), size, rest), size, axis), self.overlap
        )

    def metrics(self) -> list[Metric]:
        return [DetectionAP(self.labels, max_detections=self.max_detections, masks=self.masks, main=self.metric)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        if self.masks and ("masks" not in prediction or "true_masks" not in batch):
            lack = "the model" if "true_masks" in batch else "the data (data.masks=true)"
            raise DataError(f"task.masks=true: {lack} must give masks; task.masks=false measures boxes alone")
        true = {"boxes": batch["true_boxes"], "labels": batch["true_labels"], "crowd": batch["crowd"]}
        metrics[0].update(prediction, {**true, "masks": batch.get("true_masks")}, batch["image_id"])

    def row_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """[B] boxes that were missed, and answers of at least `score_threshold` that are nothing, at IoU 0.5."""
        errors = []
        for i in range(len(batch["true_labels"])):
            shown = (prediction["labels"][i] > 0) & (prediction["scores"][i] >= self.score_threshold)
            real = batch["true_labels"][i] > 0
            boxes, labels = prediction["boxes"][i][shown], prediction["labels"][i][shown]
            true, classes, crowd = (batch[k][i][real] for k in ("true_boxes", "true_labels", "crowd"))
            overlaps = box_iou(boxes, true) * (labels[:, None] == classes)  # [n, m]
            free, wrong = ~crowd, 0
            for row in overlaps:  # best first, each true box once
                best = (row * free).max(0) if len(row) else None
                if best is not None and best.values >= 0.5:
                    free[best.indices] = False
                elif not (row[crowd] >= 0.5).any():
                    wrong += 1
            errors.append(wrong + int(free.sum()))
        return torch.tensor(errors, dtype=torch.float32)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """objects: what has a score of `score_threshold` or more, best first, each with label, score, box [x1, y1, x2,
        y2] in pixels of the picture, and optionally mask, COCO's run lengths as text."""
        rows = []
        for i in range(len(prediction["labels"])):
            objects = []
            names = ("labels", "scores", "boxes")
            for k, (label, score, box) in enumerate(zip(*(prediction[n][i].tolist() for n in names), strict=True)):
                if label == 0 or score < self.score_threshold:
                    continue
                name = self.labels[label - 1] if label <= len(self.labels) else str(label)
                found = {"label": name, "score": round(score, 6), "box": [round(v, 2) for v in box]}
                if "masks" in prediction:
                    run = prediction["masks"][i][k]
                    found["mask"] = {"size": run["size"], "counts": run["counts"].decode("ascii")}
                objects.append(found)
            rows.append({"objects": objects})
        return rows


def mirrored_image(image: Tensor, size: Tensor, axis: int) -> Tensor:
    """Each image [B, 3, H, W] with left and right (axis 1) or top and bottom (axis 0) exchanged; its filling stays
    where it is.
    """
    place = torch.arange(image.shape[2 + axis], device=image.device)
    end = size[:, axis, None]  # [B, 1]
    source = torch.where(place < end, end - 1 - place, place)  # [B, W] or [B, H]
    return image.gather(2 + axis, (source[:, None, None] if axis else source[:, None, :, None]).expand_as(image))


def mirrored(found: Detections, size: Tensor, axis: int) -> Detections:
    """Detections of such images, as seen in the images before."""
    end = size[:, axis, None].to(found.boxes)  # [B, 1]
    boxes = found.boxes.clone()
    near, far = (0, 2) if axis else (1, 3)
    boxes[..., near], boxes[..., far] = end - found.boxes[..., far], end - found.boxes[..., near]
    return found._replace(boxes=boxes)


def joined(one: Detections, other: Detections, overlap: float, looks: int = 1) -> Detections:
    """What two looks at the same images found (Solovyev, Wang, Gabruska, 2021, "Weighted boxes fusion"); `one` may
    itself be what several `looks` found, and then weighs as much.

    Two boxes of a class that overlap each other most, by at least `overlap` (IoU), become one: its score is the mean
    of theirs, its box their mean, weighted by the scores. What only one of the looks found has a score of 0 in the
    other: of two looks, half its score is left.
    """
    iou = box_iou(one.boxes.float(), other.boxes.float())  # [B, K, L]
    same = (one.labels[:, :, None] == other.labels[:, None]) & (one.labels > 0)[:, :, None]
    iou = torch.where(same, iou, -1.0)
    best, match = iou.max(2)  # [B, K]
    number = torch.arange(iou.shape[1], device=iou.device)
    mutual = (iou.argmax(1).gather(1, match) == number) & (best >= overlap)
    share = looks / (looks + 1)
    a, b = share * one.scores, (1 - share) * other.scores.gather(1, match) * mutual  # [B, K]
    boxes = take(other.boxes, match)
    weight = (a / (a + b).clamp(min=1e-9))[..., None]
    merged = torch.where(mutual[..., None], weight * one.boxes + (1 - weight) * boxes, one.boxes)
    taken = torch.zeros_like(other.labels).scatter_reduce(1, match, mutual.to(other.labels.dtype), "amax") > 0
    scores = torch.cat([a + b, (1 - share) * other.scores * ~taken], 1)
    labels, boxes = torch.cat([one.labels, other.labels * ~taken], 1), torch.cat([merged, other.boxes], 1)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Detections(take(boxes, order), scores, labels.gather(1, order))


def whole_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks [n, h, w] of probabilities, each within its box [n, 4] -> COCO's run lengths of the picture, of what has
    half or more (He et al., 2017, "Mask R-CNN", section 3.1). Bilinear between the centres of pixels, 0 outside.
    """
    from pycocotools import mask as coco

    runs = []
    for mask, box in zip(masks.float(), boxes.tolist(), strict=True):
        whole = torch.zeros(size, dtype=torch.uint8)
        (left, right), (top, bottom) = ((math.floor(box[k]), math.ceil(box[k + 2])) for k in (0, 1))
        if box[2] > box[0] and box[3] > box[1]:
            x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1  # -1..1 over the box
            y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]  # [1, rows, columns, 2]
            part = nn.functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
            whole[top:bottom, left:right] = part >= 0.5
        runs.append(coco.encode(np.asfortranarray(whole.numpy())))
    return runs
