"""What every vision task does alike."""

from __future__ import annotations

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
