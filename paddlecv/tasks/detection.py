"""Detection: what is in the picture, and where?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput, Task
from paddlecv.layers.detection import Detections
from paddlecv.metrics import DetectionAP


class Detection(Task):
    """The losses of a detector, added up; average precision is measured.

    The model is called as `model(image, size, target)` in training, target being a dict of `boxes`, `labels`, `draw`
    and perhaps `masks`, and gives `DetectionLosses`; without a target it gives `Detections`, both of
    `paddlecv.layers.detection`. Batch: see `DetectionData`.

    Prediction, in pixels of the original picture: boxes [B, K, 4] float32 xyxy, scores [B, K] falling, labels [B, K]
    int64 (0 = none), size [B, 2] int64 of the picture, and with masks, B lists of COCO's run lengths, one for each
    label that is not 0.

    Args:
        model: the detector.
        labels: names of the classes 1..C in order; None = their numbers.
        score_threshold: answers and pictures show what has at least this score; measuring takes all there is.
        max_detections: of one picture, the best ones; COCO's is 100.
        flip: predict of the mirror image too, and join both by suppression: a little better, twice the time. No masks.
        flip_overlap: of `flip`: boxes of a class that overlap more (IoU) are one.
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
        flip_overlap: float = 0.5,
        masks: bool = False,
        metric: Literal["map50", "ap", "mask_ap"] = "map50",
    ) -> None:
        super().__init__(model)
        if not 0 <= score_threshold <= 1 or not 0 < flip_overlap <= 1:
            raise ValueError(f"task.score_threshold, flip_overlap: 0 to 1, got {score_threshold}, {flip_overlap}")
        if max_detections < 1:
            raise ValueError(f"task.max_detections must be at least 1, got {max_detections}")
        if flip and masks:
            raise ValueError("task.flip joins boxes, it cannot join masks")
        self.labels = labels if labels is not None else [str(i) for i in range(1, (num_classes or 0) + 1)]
        self.score_threshold, self.max_detections = score_threshold, max_detections
        self.flip, self.flip_overlap, self.masks, self.metric = flip, flip_overlap, masks, metric

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        target = {name: batch[name] for name in ("boxes", "labels", "draw", "masks") if name in batch}
        losses = self.model(batch["image"], batch["size"], target)
        logs = {name: value.detach() for name, value in losses.sums.items()}
        return StepOutput(torch.stack([value.float() for value in losses.sums.values()]).sum(), losses.weight, logs)

    def predict(self, batch: Batch) -> Prediction:
        image, size = batch["image"], batch["size"]
        found: Detections = self.model(image, size)
        if self.flip:
            found = self._joined(found, mirrored(self.model(mirrored_image(image, size), size), size))
        boxes, scores, labels = (value[:, : self.max_detections] for value in found[:3])
        boxes = boxes.float() / batch["scale"].flip(1).repeat(1, 2)[:, None]
        limit = batch["original"].flip(1).repeat(1, 2)[:, None].to(boxes)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
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

    def _joined(self, one: Detections, other: Detections) -> Detections:
        """Both answers, without what overlaps a better one of its class."""
        boxes, scores, labels = (torch.cat(pair, 1) for pair in zip(one[:3], other[:3], strict=True))
        keep = torch.zeros_like(labels, dtype=torch.bool)
        for i in range(len(boxes)):
            there = (labels[i] > 0).nonzero()[:, 0]
            best = batched_nms(boxes[i, there].float(), scores[i, there].float(), labels[i, there], self.flip_overlap)
            keep[i, there[best]] = True
        scores, order = (scores * keep).sort(dim=1, descending=True, stable=True)
        labels = (labels * keep).gather(1, order)
        return Detections(boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, labels)

    def metrics(self) -> list[Metric]:
        return [DetectionAP(self.labels, max_detections=self.max_detections, masks=self.masks, main=self.metric)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
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
        y2] in pixels of the picture, and perhaps mask, COCO's run lengths as text."""
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


def mirrored_image(image: Tensor, size: Tensor) -> Tensor:
    """Each image [B, 3, H, W] with left and right exchanged; its filling stays at the right."""
    column = torch.arange(image.shape[3], device=image.device)
    width = size[:, 1:]  # [B, 1]
    source = torch.where(column < width, width - 1 - column, column)  # [B, W]
    return image.gather(3, source[:, None, None].expand_as(image))


def mirrored(found: Detections, size: Tensor) -> Detections:
    """Detections of such images, as seen in the images before."""
    width = size[:, 1:, None].to(found.boxes)  # [B, 1, 1]
    x1, y1, x2, y2 = found.boxes.split(1, 2)
    return found._replace(boxes=torch.cat([width - x2, y1, width - x1, y2], 2))


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
