"""Generated pictures of coloured shapes with their boxes and masks: what detection is tested with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlecore.data import mix

if TYPE_CHECKING:
    from PIL import Image


class Shape(NamedTuple):
    """How the objects of one class look; sizes are shares of a picture's height."""

    kind: str  # disc, square or triangle
    colour: tuple[int, int, int]
    smallest: float
    largest: float


def draw(
    shapes: dict[str, Shape], height: int, width: int, key: int, most: int = 5
) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str], NDArray[np.uint8]]:
    """One picture with one to `most` objects of the classes `shapes` on a pale, noisy ground, a function of `key`.

    An object that would cover more than a fifth of another, or of itself by another, is not drawn; a crowded picture
    has fewer of them.

    Returns:
        pixels [H, W, 3] uint8, boxes [G, 4] float32 xyxy in pixels, the class of each, masks [G, H, W] uint8.
    """
    from PIL import Image

    random = np.random.Generator(np.random.Philox(key=mix(key)))
    ground = random.integers(205, 240, 3)
    pixels = np.clip(ground + random.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    names: list[str] = []
    masks: list[NDArray[np.uint8]] = []
    for _ in range(int(random.integers(1, most + 1))):
        name = list(shapes)[int(random.integers(len(shapes)))]
        shape = shapes[name]
        side = max(4.0, height * random.uniform(shape.smallest, shape.largest))
        w, h = side * random.uniform(0.85, 1.15, 2)
        left, top = random.uniform(0, max(1.0, width - w - 1)), random.uniform(0, max(1.0, height - h - 1))
        outline, colour = (left, top, left + w, top + h), np.clip(shape.colour + random.normal(0, 12, 3), 0, 255)
        canvas = Image.new("L", (width, height))
        _fill(canvas, shape.kind, outline, 1)
        mask = np.array(canvas)
        if any((mask & other).sum() > 0.2 * min(mask.sum(), other.sum()) for other in masks):
            continue
        _fill(image, shape.kind, outline, tuple(int(c) for c in colour))
        masks = [other & (1 - mask) for other in masks]  # what lies below is no longer seen
        masks.append(mask)
        names.append(name)
    boxes = [box_of(m) for m in masks]
    return (
        np.array(image),
        np.array(boxes, np.float32).reshape(-1, 4),
        names,
        np.array(masks, np.uint8).reshape(-1, height, width),
    )


def _fill(image: Image.Image, kind: str, outline: tuple[float, float, float, float], fill: Any) -> None:
    from PIL import ImageDraw

    left, top, right, bottom = outline
    if kind == "disc":
        ImageDraw.Draw(image).ellipse(outline, fill=fill)
    elif kind == "square":
        ImageDraw.Draw(image).rectangle(outline, fill=fill)
    else:
        ImageDraw.Draw(image).polygon((((left + right) / 2, top), (left, bottom), (right, bottom)), fill=fill)


def box_of(mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The smallest xyxy box around the pixels of a mask [H, W] that are not 0; it ends behind the last of them."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
