"""Reading image files, whatever they hold: always three channels of 8 bits, upright."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from paddlecore.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, RGB in 0..1

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")


def open_image(path: str | Path | BinaryIO) -> Image.Image:
    """An image file as an RGB picture of 8 bits a channel.

    Turned as its EXIF says; grey and palette images and CMYK become RGB; 16 bits become 8 (65535 -> 255); transparent
    parts are black.

    Raises:
        DataError: no such file, or not an image that can be read to its end; names the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which convert would cut off rather than scale
                pixels = np.asarray(image, dtype=np.float64).clip(0, 65535) / 257
                image = Image.fromarray(pixels.round().astype(np.uint8))
            elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read ({error}); expected {', '.join(_FORMATS)}") from None


def read_image(path: str | Path) -> Tensor:
    """`open_image` as a tensor [3, H, W] uint8."""
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1).contiguous()


def image_files(folder: Path) -> list[Path]:
    """The images in a folder by name, those of its subfolders not among them; hidden files are passed over."""
    there = folder.iterdir()
    return sorted(p for p in there if p.suffix.lower() in ENDINGS and p.is_file() and not p.name.startswith("."))


def normalise(image: Tensor, mean: Iterable[float] = MEAN, deviation: Iterable[float] = DEVIATION) -> Tensor:
    """uint8 [..., 3, H, W] -> float32, each channel (pixel / 255 - mean) / deviation."""
    shift, scale = (torch.tensor(tuple(v), dtype=torch.float32)[:, None, None] for v in (mean, deviation))
    return image.float().div_(255).sub_(shift).div_(scale)
