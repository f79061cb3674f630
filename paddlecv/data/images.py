"""Reading image files, whatever they hold: always three channels of 8 bits, upright."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from paddlecore.data import BadRows
from paddlecore.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, RGB in 0..1

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
_TURNS = {  # EXIF's orientation: how Pillow calls the change that sets an image upright
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


@contextmanager
def opened(path: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """An image file: its header is read, and its pixels when they are asked for.

    Raises:
        DataError: no such file, or what shows that it is no image that can be read, here or in the block; names the
            file.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read ({error}); expected {', '.join(_FORMATS)}") from None


def open_image(path: str | Path | BinaryIO) -> Image.Image:
    """An image file as an RGB picture of 8 bits a channel.

    Turned as its EXIF says; grey and palette images and CMYK become RGB; 16 bits become 8 (65535 -> 255); transparent
    parts are black.

    Raises:
        DataError: no such file, or not an image that can be read to its end; names the file.
    """
    with opened(path) as file:
        return _upright_rgb(file)


def _upright_rgb(file: Image.Image) -> Image.Image:
    """See `open_image`. Raises OSError where the file is cut off, ValueError where the pixels are no colours."""
    from PIL import Image

    file.load()  # which turns a TIFF, and takes its orientation away
    # not by ImageOps, which writes all of EXIF anew and fails where something else in it is wrong
    turn = _TURNS.get(_orientation(file))
    image = file.transpose(Image.Transpose[turn]) if turn else file
    if image.mode == "F":  # convert would take fractions for black
        raise ValueError("its pixels are floating-point numbers, not of 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which convert would cut off rather than scale
        pixels = np.asarray(image, dtype=np.float64).clip(0, 65535) / 257
        image = Image.fromarray(pixels.round().astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the upright picture in an image file, from its header alone.

    Raises:
        DataError: no such file, or its header is not that of an image.
    """
    with opened(path) as file:
        # Pillow says the upright size of a TIFF
        return file.size[::-1] if _orientation(file) > 4 and file.format != "TIFF" else file.size


def _orientation(file: Image.Image) -> int:
    found = file.getexif().get(0x0112)
    return found if found in _TURNS else 1


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB picture as [3, H, W] uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def read_image(path: str | Path) -> Tensor:
    """`open_image` as a tensor [3, H, W] uint8."""
    return pixels_of(open_image(path))


def unwrapped(raw: Any) -> Any:
    """What is inside a raw input: JSON text is parsed, and of a dict {"image": ...} the image is taken.

    Raises:
        DataError: text that starts like JSON and is none, or a dict without `image`.
    """
    if isinstance(raw, str) and raw.lstrip()[:1] in ("[", "{"):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the input is neither a path nor JSON: {error}") from None
    if isinstance(raw, dict):
        if "image" not in raw:
            raise DataError(f'expected {{"image": path or pixels}}, got the keys {sorted(map(str, raw))}')
        raw = raw["image"]
    return raw


def picture_of(raw: Any) -> Image.Image:
    """A raw input as an RGB picture: the path of an image, an image file as text (data:image/png;base64,...), a picture
    of Pillow's, or rows of pixels [H][W][3] in 0..255; see `unwrapped`.

    Raises:
        DataError: none of them, or a file that is no image.
    """
    from PIL import Image

    raw = unwrapped(raw)
    if isinstance(raw, str) and raw.startswith("data:image/"):
        try:
            return open_image(io.BytesIO(base64.b64decode(raw.partition("base64,")[2], validate=True)))
        except (ValueError, DataError):
            raise DataError(f"the input is no image as base64 text: {raw[:60]}...") from None
    if isinstance(raw, (str, Path)):
        return open_image(raw)
    if isinstance(raw, Image.Image):
        try:
            return _upright_rgb(raw)
        except (OSError, ValueError) as error:
            raise DataError(f"the picture cannot be used: {error}") from None
    pixels = numbers_of(raw)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError("expected the path of an image, or rows of pixels, each pixel three numbers 0..255")
    return Image.fromarray(pixels.round().astype(np.uint8))


def numbers_of(raw: Any) -> np.ndarray:
    """Rows of pixels as float32 in 0..255; [0] where they are none.

    Raises:
        DataError: fractions of at most 1, as of an image that is scaled to 0..1, which here would be black.
    """
    try:
        pixels = np.array(raw, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0, np.float32)
    if not pixels.size or not ((pixels >= 0) & (pixels <= 255)).all():
        return np.empty(0, np.float32)
    if pixels.max() <= 1 and (pixels % 1).any():
        raise DataError("the pixels are numbers from 0 to 1, and expected from 0 to 255: multiply them by 255")
    return pixels


def as_text(image: Image.Image) -> str:
    """A picture in a form that `picture_of` takes, and JSON."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def font_file() -> str:
    """A font with the letters of the languages of Europe; Pillow's own has those of English alone."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def captioned(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """The picture, enlarged by a whole number where it is narrower than 160 pixels, with lines of text under it."""
    from PIL import Image, ImageDraw, ImageFont

    times = -(-160 // image.width)
    image = image.convert("RGB").resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = max(14, image.width // 25)
    sheet = Image.new("RGB", (image.width, image.height + (size + 4) * len(lines) + 4), "white")
    sheet.paste(image, (0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(font_file(), size)
    for number, line in enumerate(lines):
        draw.text((4, image.height + 2 + (size + 4) * number), line, "black", font)
    return sheet


def image_files(folder: Path, bad_rows: BadRows | None = None) -> list[Path]:
    """The images in a folder by name, those of its subfolders not among them.

    Hidden files are passed over, and so are those with another ending than `ENDINGS`, of which `bad_rows` is told.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix.lower() in ENDINGS:
            found.append(path)
        elif bad_rows is not None:
            bad_rows.pass_over(path)
    return found


def images_by_name(folder: Path, bad_rows: BadRows | None = None) -> dict[str, Path]:
    """`image_files` by their names without endings, which is how annotations name them.

    Raises:
        DataError: two images differ in their endings alone.
    """
    found: dict[str, Path] = {}
    for path in image_files(folder, bad_rows):
        if path.stem in found:
            raise DataError(f"{folder} has {found[path.stem].name} and {path.name}: only one can be {path.stem}")
        found[path.stem] = path
    return found


def statistics_of(mean: Sequence[float], deviation: Sequence[float]) -> tuple[list[float], list[float]]:
    """The options `data.mean` and `data.deviation`, for `normalise`.

    Raises:
        ValueError: not three numbers each, or a deviation that is not above 0.
    """
    if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
        raise ValueError("data.mean and data.deviation must be three numbers each, deviations above 0")
    return list(mean), list(deviation)


def normalise(
    image: Tensor, mean: Iterable[float] = MEAN, deviation: Iterable[float] = DEVIATION, out: Tensor | None = None
) -> Tensor:
    """uint8 [..., 3, H, W] -> float32, each channel (pixel / 255 - mean) / deviation; into `out` if it is given."""
    shift, scale = (torch.tensor(tuple(v), dtype=torch.float32)[:, None, None] for v in (mean, deviation))
    return torch.mul(image, 1 / (255 * scale), out=out).sub_(shift / scale)
