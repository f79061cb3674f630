"""What every vision task does alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore.precision import autocast, emulated
from paddlecore.task import Task
from paddlecv.layers.fold import fold_batch_norm

PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class VisionTask(Task):
    """A task whose model is called with images [B, C, H, W] first."""

    def for_inference(self, precision: str, channels_last: bool) -> None:
        self.model = Inference(self.model, precision, channels_last)


def scales_of(scales: Sequence[float]) -> tuple[float, ...]:
    """The option `task.scales`.

    Raises:
        ValueError: none, or one that is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"task.scales must be positive factors, got {list(scales)}")
    return tuple(scales)


def views(image: Tensor, scales: Sequence[float], flip: bool) -> Iterator[tuple[Tensor, bool]]:
    """Images [B, C, H, W] at each of these factors of their size, each with `flip` followed by its mirror image; and
    whether a view is such a one."""
    for scale in scales:
        view = image
        if scale != 1:  # as data are made smaller: each pixel a mean of those that it stands for
            size = [max(1, round(scale * side)) for side in image.shape[2:]]
            view = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=scale < 1)
        yield view, False
        if flip:
            yield view.flip(3), True


class Inference(nn.Module):
    """A copy of a model in evaluation mode, which gives the same up to rounding in less time.

    Batch norms are folded into the convolutions before them, products run in `precision`, and images and convolutions
    lie in NHWC order where `channels_last` says so. A processor that only emulates the precision stays with fp32.
    """

    def __init__(self, model: nn.Module, precision: str, channels_last: bool) -> None:
        super().__init__()
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.precision = "fp32" if emulated(precision, device) else precision
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        self.model = fold_batch_norm(model).to(memory_format=self.order)
        with autocast(self.precision, device):
            if torch.is_autocast_enabled(device.type):
                # Autocast does the same at every call, which is a third of the time that a single image takes.
                for part in self.model.modules():
                    if type(part) in PRODUCTS:  # of a subclass nobody knows where else it needs its weights
                        part.to(torch.get_autocast_dtype(device.type))

    def forward(self, image: Tensor, *others: Any) -> Any:
        with autocast(self.precision, image.device):
            return self.model(image.contiguous(memory_format=self.order), *others)
