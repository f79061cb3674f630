"""What a training step of a detector of one stage does not do, so that a GPU is never waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from paddlecv.models import SSD300, RetinaNet, YOLOv3

MODELS: dict[str, Callable[[], nn.Module]] = {
    "ssd": lambda: SSD300(num_classes=2, width=0.05, ratios=((2,),) * 3, scales=(0.1, 0.3, 0.5, 0.7), steps=None),
    "yolov3": lambda: YOLOv3(num_classes=2, width=0.05, neck_width=0.05, box_loss="ciou"),
    "retinanet": lambda: RetinaNet(num_classes=2, architecture="mobilenet_v2", channels=8),
}  # those of two stages wait for the number of their proposals


class Uploads(TorchDispatchMode):
    """Counts tensors that are made of Python's numbers: each is a copy to the device that the host waits for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_sends_no_numbers_but_the_count_of_images(name: str) -> None:
    torch.manual_seed(0)
    model, image, size = MODELS[name](), torch.randn(2, 3, 64, 64), torch.full((2, 2), 64)
    target = {
        "boxes": torch.tensor([[[4.0, 4.0, 30.0, 40.0]], [[20.0, 8.0, 60.0, 50.0]]]),
        "labels": torch.tensor([[1], [2]]),
    }
    model(image, size, target)  # what is made once
    with Uploads() as uploads:
        model(image, size, target)
    assert uploads.count == (name == "yolov3")  # whose loss counts images
