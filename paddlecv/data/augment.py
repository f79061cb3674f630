"""Changes of a picture with its boxes and masks that torchvision.transforms.v2 does not have.

A scene is a dict that v2's transforms take: `image` tv_tensors.Image [3, H, W] uint8, `boxes` tv_tensors.BoundingBoxes
[G, 4] float32 xyxy, `labels` [G] int64, and optionally `masks` tv_tensors.Mask [G, H, W] uint8. All draw from torch's
global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

Scene = dict[str, Any]
GROUND = (124, 116, 104)  # what comes from outside a picture: the mean of ImageNet's training images


class Colours(v2.RandomPhotometricDistort):
    """SSD's changes of colour (Liu et al., 2016, section 2.2). Channels keep their order, as in its authors' settings
    (random_order_prob: 0): where colours tell classes apart, another order is another class.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "channel_permutation": None}


def scene(image: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor | None = None) -> Scene:
    """Plain tensors as a scene."""
    size = (image.shape[-2], image.shape[-1])
    wrapped = tv_tensors.BoundingBoxes(boxes.reshape(-1, 4), format="XYXY", canvas_size=size)
    found = {"image": tv_tensors.Image(image), "boxes": wrapped, "labels": labels}
    return found if masks is None else {**found, "masks": tv_tensors.Mask(masks)}


def kept(found: Scene, keep: Tensor) -> Scene:
    """The scene with the boxes `keep` [G] bool alone."""
    boxes = tv_tensors.wrap(found["boxes"][keep], like=found["boxes"])
    rest = {"masks": tv_tensors.Mask(found["masks"][keep])} if "masks" in found else {}
    return {"image": found["image"], "boxes": boxes, "labels": found["labels"][keep], **rest}


def resized_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks [G, H, W] uint8 at another size, height and width: each pixel is the one that lies under its middle.

    That is where an image has its pixels when it is resized. v2's own way takes the first of those that become one,
    which moves the mask by half a pixel.
    """
    return v2.functional.resize_image(masks, list(size), v2.InterpolationMode.NEAREST_EXACT)


def quarter_turns(found: Scene, turns: int) -> Scene:
    """Turned by `turns` times 90 degrees against the clock; no pixel is interpolated."""
    turns %= 4
    if not turns:
        return found
    height, width = found["image"].shape[-2:]
    x1, y1, x2, y2 = found["boxes"].as_subclass(Tensor).unbind(1)
    if turns == 1:
        boxes = (y1, width - x2, y2, width - x1)
    elif turns == 2:
        boxes = (width - x2, height - y2, width - x1, height - y1)
    else:
        boxes = (height - y2, x1, height - y1, x2)
    masks = found["masks"].as_subclass(Tensor).rot90(turns, (1, 2)) if "masks" in found else None
    image = found["image"].as_subclass(Tensor).rot90(turns, (1, 2))
    return scene(image.contiguous(), torch.stack(boxes, 1), found["labels"], masks)


def crop(found: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """A part of the scene. Boxes whose centre lies in it stay, cut at its borders (SSD's rule, section 2.2)."""
    x1, y1, x2, y2 = found["boxes"].as_subclass(Tensor).unbind(1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    inside = (left < x) & (x < left + width) & (top < y) & (y < top + height)
    parts = kept(found, inside)
    for name in parts.keys() - {"labels"}:
        parts[name] = v2.functional.crop(parts[name], top, left, height, width)
    parts["boxes"] = v2.functional.clamp_bounding_boxes(parts["boxes"])
    return parts


def mosaic(scenes: Sequence[Scene], size: int) -> Scene:
    """Four scenes side by side, seen through a window of size x size that lies anywhere over where they meet
    (Bochkovskiy et al., 2020, "YOLOv4", section 3.3). Each scene must fit size x size.
    """
    image = torch.tensor(GROUND, dtype=torch.uint8)[:, None, None].repeat(1, 2 * size, 2 * size)
    boxes, labels, masks = [], [], []
    for place, part in enumerate(scenes):
        height, width = part["image"].shape[-2:]
        top = size if place >= 2 else size - height  # all touch the centre
        left = size if place % 2 else size - width
        image[:, top : top + height, left : left + width] = part["image"]
        boxes.append(part["boxes"].as_subclass(Tensor) + torch.tensor([left, top, left, top]))
        labels.append(part["labels"])
        if "masks" in part:
            whole = torch.zeros(len(part["masks"]), 2 * size, 2 * size, dtype=torch.uint8)
            whole[:, top : top + height, left : left + width] = part["masks"]
            masks.append(whole)
    whole_scene = scene(image, torch.cat(boxes), torch.cat(labels), torch.cat(masks) if masks else None)
    top, left = torch.randint(size + 1, (2,)).tolist()
    return crop(whole_scene, top, left, size, size)
