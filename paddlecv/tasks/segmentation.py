"""Semantic segmentation: which class does each pixel show?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.errors import ConfigError
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, StepOutput
from paddlecv.metrics.segmentation import MeanIoU
from paddlecv.tasks.vision import VisionTask, scales_of, views

VOID = 255  # of a mask's pixels: no class


class Segmentation(VisionTask):
    """Cross-entropy of each pixel that is not void, summed over the pixels of the masks.

    The model may give several logits while training, the main ones first: each has a loss, weighted by
    `auxiliary_weights`. Logits that are smaller than the mask are enlarged to it (bilinear); with
    `full_size` off, and for auxiliary ones always, the mask is reduced to the logits instead (nearest pixel), and each
    pixel of the reduced one stands for as many of the whole.

    Batch: image [B, 3, H, W] float32; mask [B, H, W] int64 of classes, 255 = void; size [B, 2] int64, the height and
    width of each image, what goes beyond being padding (absent = none has any).
    Prediction: mask [B, H, W] int64, padding void; size [B, 2].

    Args:
        model: image -> logits [B, C, h, w]; in training optionally a sequence of them.
        num_classes: classes, C.
        labels: their names in order, for `render`; None = their numbers.
        class_frequency: [C] share of each class in the training pixels, for `class_weights`.
        class_weights: none; enet = 1 / ln(1.02 + share) (Paszke et al., 2016, "ENet", section 5.2); median = median
            share / share (after Eigen, Fergus, 2015, who count for a class only images that have it). Scaled so that a
            training pixel's mean weight is 1.
        auxiliary_weights: of the losses behind the first.
        full_size: take the main loss at the size of the mask.
        label_smoothing: share of the target that is spread evenly over all classes.
        hard_pixels: share of an image's pixels, those with the largest loss, that at least count; 1 = all count. The
            image keeps its weight (online hard example mining: Shrivastava et al., 2016, section 4; for pixels Wu et
            al., 2016, arXiv:1605.06885).
        hard_probability: a pixel counts as well if its loss, with the class's weight, is larger than -log of this.
        flip: in evaluation, average over the image and its mirror image.
        scales: in evaluation, average over these factors of size.
        per_class: report the IoU of each class.
    """

    class_weights: Tensor | None  # [C]

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        labels: list[str] | None = None,
        class_frequency: list[float] | None = None,
        class_weights: str = "none",
        auxiliary_weights: Sequence[float] = (),
        full_size: bool = True,
        label_smoothing: float = 0.0,
        hard_pixels: float = 1.0,
        hard_probability: float = 0.7,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        per_class: bool = False,
    ) -> None:
        super().__init__(model)
        if class_weights not in ("none", "enet", "median"):
            raise ValueError(f"task.class_weights must be none, enet or median, got {class_weights!r}")
        if class_weights != "none" and class_frequency is None:
            raise ValueError(f"task.class_weights={class_weights} needs the pixels of each class: set data.count=true")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        if not 0 < hard_pixels <= 1 or not 0 < hard_probability < 1:
            raise ValueError("task.hard_pixels must be above 0 and at most 1, task.hard_probability between 0 and 1")
        self.num_classes, self.labels, self.per_class = num_classes, labels, per_class
        self.auxiliary_weights, self.full_size = tuple(auxiliary_weights), full_size
        self.label_smoothing, self.hard_pixels, self.hard_probability = label_smoothing, hard_pixels, hard_probability
        self.flip, self.scales = flip, scales_of(scales)
        weights = None if class_weights == "none" else _class_weights(class_weights, class_frequency or [])
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch, phase: str = "main") -> StepOutput:
        mask = batch["mask"]
        logits = self.model(batch["image"])
        main, *others = [logits] if isinstance(logits, Tensor) else logits
        if len(others) > len(self.auxiliary_weights):
            raise ConfigError(f"the model has {len(others)} auxiliary outputs: give task.auxiliary_weights as many")
        if self.full_size:
            main = _resize(main, mask.shape[1:])
        loss, right = self._loss(main, mask)
        for weight, other in zip(self.auxiliary_weights, others, strict=False):
            loss = loss + weight * self._loss(other, mask)[0]
        return StepOutput(loss, (mask != VOID).sum(), {"pixel_acc": right})

    def _loss(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses of the pixels, and of those that are right, both in pixels of `mask`."""
        share = 1.0
        if logits.shape[2:] != mask.shape[1:]:
            whole = mask[0].numel()
            mask = nn.functional.interpolate(mask[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0].long()
            share = whole / mask[0].numel()
        known = mask != VOID
        loss = nn.functional.cross_entropy(
            logits.float(),
            mask,
            self.class_weights,
            ignore_index=VOID,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )  # [B, h, w], 0 where void
        if self.hard_pixels < 1:
            loss = self._hard(loss, known)
        right = ((logits.detach().argmax(1) == mask) & known).sum()
        return share * loss.sum(), share * right

    def _hard(self, loss: Tensor, known: Tensor) -> Tensor:
        """The losses of the hard pixels of each image, scaled up to the weight of the whole image; 0 for the others."""
        flat, known = loss.flatten(1), known.flatten(1)
        with torch.no_grad():
            pixels = known.sum(1, keepdim=True)  # [B, 1]
            ranked = flat.masked_fill(~known, -1.0).sort(1, descending=True).values
            least = ranked.gather(1, (self.hard_pixels * pixels).long().clamp(max=flat.shape[1] - 1))
            chosen = known & (flat >= least.clamp(max=-math.log(self.hard_probability)))
            scale = pixels / chosen.sum(1, keepdim=True).clamp(min=1)
        return flat * chosen * scale

    def predict(self, batch: Batch) -> Prediction:
        image = batch["image"]
        whole = torch.tensor(image.shape[2:], device=image.device)
        size = batch.get("size", whole.expand(len(image), 2))
        if bool((size == whole).all()):
            mask = self._predict(image)
        else:  # one by one: padding would change what a model that looks at the whole image says
            mask = torch.full((len(image), *image.shape[2:]), VOID, device=image.device)
            for row, (height, width) in enumerate(size.tolist()):
                mask[row, :height, :width] = self._predict(image[row : row + 1, :, :height, :width])[0]
        return {"mask": mask, "size": size}

    def _predict(self, image: Tensor) -> Tensor:
        """[B, H, W] int64, the most probable classes."""
        if self.scales == (1.0,) and not self.flip:
            return _resize(self.model(image).float(), image.shape[2:]).argmax(1)
        total = torch.zeros((), device=image.device)
        for view, mirrored in views(image, self.scales, self.flip):
            score = _resize(self.model(view).float(), image.shape[2:]).softmax(1)
            total = total + (score.flip(3) if mirrored else score)
        return total.argmax(1)

    def metrics(self) -> list[Metric]:
        return [MeanIoU(self.num_classes, self.labels, per_class=self.per_class)]

    def measure(self, metrics: Sequence[Metric], prediction: Prediction, batch: Batch) -> None:
        metrics[0].update(prediction["mask"], batch["mask"])

    def row_errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """[B] share of each image's pixels that are wrong."""
        known = batch["mask"] != VOID
        wrong = (prediction["mask"] != batch["mask"]) & known
        return wrong.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)

    def render(self, prediction: Prediction) -> list[dict[str, Any]]:
        """shares: of each class that there is, by name, the largest first; mask: run-length code, the classes `values`
        of runs of `lengths` pixels, row by row from the top left, of an image of `size` (height, width)."""
        rendered = []
        for mask, (height, width) in zip(prediction["mask"], prediction["size"].tolist(), strict=True):
            mask = mask[:height, :width]
            share = torch.bincount(mask.flatten(), minlength=self.num_classes) / mask.numel()
            order = [i for i in share.argsort(descending=True).tolist() if share[i] > 0]
            values, lengths = torch.unique_consecutive(mask.flatten(), return_counts=True)
            rendered.append({
                "shares": {str(i) if self.labels is None else self.labels[i]: round(float(share[i]), 6) for i in order},
                "mask": {"size": [height, width], "values": values.tolist(), "lengths": lengths.tolist()},
            })  # fmt: skip
        return rendered


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *size], bilinear."""
    if list(maps.shape[2:]) == list(size):
        return maps
    return nn.functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def _class_weights(kind: str, frequency: list[float]) -> Tensor:
    """[C] float32. A class without training pixels has the weight of the rarest one that has some."""
    share = torch.tensor(frequency, dtype=torch.float64)
    there = share[share > 0]
    share = share.clamp(min=float(there.min()))
    weight = 1 / (1.02 + share).log() if kind == "enet" else there.median() / share
    return (weight / (weight * torch.tensor(frequency)).sum()).float()
