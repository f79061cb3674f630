"""MNIST, sets in its file format, and own small grey images: 28 x 28 pixels, one class each."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from paddlecore.data import mix, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, data_root, locate
from paddlecore.task import Batch
from paddlecv.data.image_folder import agreed, class_images, named
from paddlecv.data.images import captioned, numbers_of, picture_of, unwrapped
from paddlecv.data.labelled import ClassifiedData

if TYPE_CHECKING:
    from PIL import Image

SIZE = 28  # pixels
MEAN, DEVIATION = 0.1307, 0.3081  # of the pixels of MNIST's training images, 0 = black and 1 = white

_MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/{}", "https://ossci-datasets.s3.amazonaws.com/mnist/{}")

SOURCE = Source(
    name="MNIST",
    folder="cv/mnist",
    files=(
        File.at(
            _MIRRORS,
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            9_912_422,
        ),
        File.at(
            _MIRRORS,
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            28_881,
        ),
        File.at(
            _MIRRORS,
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1_648_877,
        ),
        File.at(
            _MIRRORS,
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            4_542,
        ),
    ),
    licence="no terms are published with it; it is made from NIST's special databases 1 and 3, and used everywhere",
    homepage="http://yann.lecun.com/exdb/mnist/",
    manual="Get the four files from the homepage, or from any copy of it, as they are.",
)

# Files are known by what is in them: a copy that was packed anew is as good as the published one.
_CONTENT = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_DIGITS = [str(digit) for digit in range(10)]


class ImageRows:
    """Images [n, 28, 28] uint8 and labels [n] int64, made ready a batch at a time.

    Args:
        seed: of the augmentation.
        shift: largest displacement along each axis, in pixels.
        rotate: largest angle, in degrees.
        scale: largest relative change of size.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int = 0,
        shift: float = 0.0,
        rotate: float = 0.0,
        scale: float = 0.0,
    ) -> None:
        self.images, self.labels, self.seed = images, labels, seed
        self.shift, self.rotate, self.scale = shift, rotate, scale

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        image = torch.from_numpy(np.take(self.images, rows, axis=0)).float().div_(255)  # [b, 28, 28], 0..1
        if self.shift or self.rotate or self.scale:
            draws = 2.0 * uniform(self.seed, epoch, rows, 4) - 1.0  # [b, 4] in -1..1
            image = moved(image, draws, shift=self.shift, rotate=self.rotate, scale=self.scale)
        return {
            "image": image.sub_(MEAN).div_(DEVIATION)[:, None],
            "label": torch.from_numpy(np.take(self.labels, rows)),
        }


def moved(image: Tensor, draws: np.ndarray, *, shift: float, rotate: float, scale: float) -> Tensor:
    """Images [b, H, W] float32, each shifted, turned and scaled by its own row of `draws` [b, 4] in -1..1: along x,
    along y, angle, size. Bilinear; what comes from outside is 0.

    Only sums, products and quotients are taken: a sine may differ in the last bit between the body of a vector loop and
    its end, so an image would depend on its place in the batch.
    """
    height, width = image.shape[1:]
    half = np.float32(np.tan(np.deg2rad(rotate) / 2)) * draws[:, 2]  # tan(angle / 2): all but uniform in the angle
    size = 1 + np.float32(scale) * draws[:, 3]
    cosine, sine = (1 - half * half) / (1 + half * half) / size, 2 * half / (1 + half * half) / size
    cosine, sine, dx, dy = (v[:, None, None] for v in (cosine, sine, shift * draws[:, 0], shift * draws[:, 1]))
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2) - dx  # [b, 1, W] pixels from the centre
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2) - dy  # [b, H, 1]
    source_x, source_y = cosine * x + sine * y, cosine * y - sine * x  # [b, H, W] where each pixel comes from
    grid = np.stack([source_x * np.float32(2 / width), source_y * np.float32(2 / height)], 3)
    found = nn.functional.grid_sample(image[:, None], torch.from_numpy(grid), align_corners=False)  # [b, 1, H, W]
    return found[:, 0]


class MNISTData(ClassifiedData):
    """70 000 handwritten digits (LeCun, Cortes, Burges): the official 10 000 for testing; of the 60 000 for training,
    every twelfth (rows 11, 23, ...) is kept for validation, whatever the seed: 55 000 and 5 000.

    `source`: auto = the files under PADDLE_DATA (cv/mnist), or fetched; a folder with four files of MNIST's names and
    format (gzip or not); toy = generated digits; or a folder of own images in a folder for each class, with or without
    splits (see `class_images`). All splits must have the same classes (an empty folder counts); when weights with class
    names are given, the folder may have no other classes.

    Own images are read as `grey` says. An image that cannot be read is a bad row.

    Training images are shifted, turned and scaled at random, from (seed, epoch, row) alone; so an image is the same in
    any worker, on any rank, beside any others.

    Batch: image [B, 1, 28, 28] float32, (pixel / 255 - 0.1307) / 0.3081; label [B] int64.

    Memory: 784 bytes an image.

    Args:
        shift: largest random displacement along each axis (pixels).
        rotate: largest random angle (degrees).
        scale: largest random relative change of size.
        **common: see `DataModule`.
    """

    in_channels = 1

    def __init__(self, *, shift: float = 2.0, rotate: float = 10.0, scale: float = 0.1, **common: Any) -> None:
        super().__init__(**common)
        for name, value, high in (("shift", shift, SIZE / 2), ("rotate", rotate, 180.0), ("scale", scale, 1.0)):
            if not 0 <= value < high:
                raise ValueError(f"data.{name} must be at least 0 and below {high:g}, got {value}")
        self.shift, self.rotate, self.scale = shift, rotate, scale

    def targets(self, split: str) -> np.ndarray:
        return self._rows[split].labels

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file that cannot be used, by name and byte; own images or classes that do not fit.
        """
        read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if self.source == "toy":
            counts = {"train": 2000, "valid": 500, "test": 500}
            read = {split: _glyphs(n, number) for number, (split, n) in enumerate(counts.items())}
            names = _DIGITS
        elif self.source == "auto":
            folder = _published()
            read, names = self._idx(folder, known=True), _DIGITS
        else:
            folder = Path(self.source)
            if not folder.is_dir():
                raise DataError(f"data.source={self.source}: there is no such folder")
            if any(_idx_file(folder, name) for name in _CONTENT):
                read, names = self._idx(folder), _DIGITS
            else:
                self._paths, found = [folder], class_images(folder, bad_rows=self.bad_rows)
                for split, classes in found.items():
                    images, labels = self.read_each(classes, grey)
                    read[split] = np.array(images, np.uint8).reshape(-1, SIZE, SIZE), np.array(labels, np.int64)
                names = list(found["train"])
        self._labels = agreed(names, self._labels, self.source)
        own = np.array([self._labels.index(name) for name in names])  # class here -> class of the weights
        self.splits = tuple(read)
        move = {"shift": self.shift, "rotate": self.rotate, "scale": self.scale}
        self._rows = {
            split: ImageRows(images, own[labels], seed=mix(self.seed), **(move if split == "train" else {}))
            for split, (images, labels) in read.items()
        }
        self.refuse_empty(self._rows)

    def _idx(self, folder: Path, known: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The splits of four files in MNIST's format; `known`: they must have MNIST's content."""
        read = {}
        for part in ("train", "t10k"):
            arrays = []
            for name, shape in ((f"{part}-images-idx3-ubyte", (SIZE, SIZE)), (f"{part}-labels-idx1-ubyte", ())):
                path = _idx_file(folder, name)
                if path is None:
                    raise DataError(f"{folder} has no {name} or {name}.gz")
                arrays.append(read_idx(path, shape, _CONTENT[name] if known else None))
                self._paths.append(path)
            images, labels = arrays
            if len(images) != len(labels):
                raise DataError(f"{self._paths[-2]} has {len(images)} images, {path} {len(labels)} labels")
            if (labels >= 10).any():
                first = int((labels >= 10).argmax())
                raise DataError(f"{path}, byte {8 + first}: label {labels[first]} is not 0 to 9")
            read[part] = (images, labels.astype(np.int64))
        images, labels = read["train"]
        kept = np.arange(len(labels)) % 12 == 11
        return {"train": (images[~kept], labels[~kept]), "valid": (images[kept], labels[kept]), "test": read["t10k"]}

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """A picture as `picture_of` takes it, but for pixels (see `grey`); or 28 rows of 28 numbers 0..255 (possibly as
        JSON text), white on black. Any may stand in a dict as {"image": ...}."""
        image = torch.from_numpy(_pixels(raw)).div_(255).sub_(MEAN).div_(DEVIATION)
        return {"image": image[None, None]}

    def examples(self) -> Sequence[Any]:
        """Generated digits, as rows of numbers: there are no files to name where only weights are."""
        return _glyphs(3, 3)[0].tolist()

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        rows = self._rows[split]
        return rows.images[row].tolist(), {"label": self._labels[int(rows.labels[row])]}

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The digit as the model sees it, with its class and, of a prediction, the probability under it."""
        from PIL import Image

        return captioned(Image.fromarray(_pixels(raw).astype(np.uint8)), [named(answer)])


def _pixels(raw: Any) -> np.ndarray:
    """What `encode` takes as [28, 28] float32 in 0..255."""
    from PIL import Image

    raw = unwrapped(raw)
    if isinstance(raw, (str, Path, Image.Image)):
        return grey(raw).astype(np.float32)
    pixels = numbers_of(raw)
    if pixels.shape != (SIZE, SIZE):
        raise DataError(f"expected the path of an image, or {SIZE} rows of {SIZE} numbers 0..255")
    return pixels


def grey(raw: str | Path | Image.Image) -> np.ndarray:
    """A picture or image file as [28, 28] uint8, white on black.

    Read by `picture_of`; colour to grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B). Another size is scaled to fit with
    its proportions kept, and centred on black. A white background is not guessed at: invert dark writing on white
    before, or train on images like it.

    Raises:
        DataError: no such file, or not an image that can be read.
    """
    from PIL import Image, ImageOps

    image = picture_of(raw).convert("L")
    return np.asarray(ImageOps.pad(image, (SIZE, SIZE), Image.Resampling.BILINEAR, color=0))


# ---------------------------------------------------------------------------------------------------- MNIST's files


def _published() -> Path:
    """The folder with MNIST's files, fetched if need be; their content is checked when it is read."""
    root = data_root()
    folder = root / SOURCE.folder if root else None
    if folder and all(_idx_file(folder, name) for name in _CONTENT):
        return folder
    return locate(SOURCE)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, shape: tuple[int, ...], sha256: str | None = None) -> np.ndarray:
    """A file in MNIST's format, unsigned bytes of the dimensions [n, *shape]; a name in .gz is unpacked.

    Four bytes (0, 0, 8 = unsigned byte, number of dimensions), the size of each dimension (4 bytes, the highest first),
    then the values.

    Args:
        sha256: of the (unpacked) content, if it is known.

    Raises:
        DataError: the file is damaged or another one, by name and byte of the (unpacked) content.
    """
    content, start = bytearray(), 4 * (2 + len(shape))
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content += file.read(start)
            expected = start + _idx_entries(path, content, shape) * int(np.prod(shape))
            while piece := file.read(min(1 << 20, expected + 1 - len(content))):  # memory grows with what is there
                content += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, byte {len(content)}: the file is damaged or cut off ({error})") from None
    if len(content) < expected:
        raise DataError(f"{path}, byte {len(content)}: the file ends; its header declares {expected} bytes")
    if len(content) > expected:
        raise DataError(f"{path}, byte {expected}: the file goes on after the {expected} bytes its header declares")
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{path} is not the published file: its content has sha256 {found}, expected {sha256}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(-1, *shape)


def _idx_entries(path: Path, header: bytearray, shape: tuple[int, ...]) -> int:
    """The number of entries that a header declares, all else in it being as it should."""
    magic = bytes([0, 0, 8, 1 + len(shape)])
    if header[:4] != magic[: len(header)]:
        raise DataError(f"{path}, byte 0: expected the magic number {magic.hex()}, found {header[:4].hex()}")
    if len(header) < 4 * (2 + len(shape)):
        raise DataError(f"{path}, byte {len(header)}: the file ends within its header of {4 * (2 + len(shape))} bytes")
    count, *sizes = np.frombuffer(header, ">u4", offset=4).tolist()
    for place, (found, wanted) in enumerate(zip(sizes, shape, strict=True)):
        if found != wanted:
            raise DataError(f"{path}, byte {8 + 4 * place}: dimension {place + 2} must be {wanted}, found {found}")
    if count == 0:
        raise DataError(f"{path}, byte 4: the file has no entries")
    return count


# ---------------------------------------------------------------------------------------------------- toy

_FONT = (  # 5 x 7 pixels, a row a number, the leftmost pixel its highest bit
    (14, 17, 19, 21, 25, 17, 14), (4, 12, 4, 4, 4, 4, 14), (14, 17, 1, 2, 4, 8, 31), (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2), (31, 16, 30, 1, 1, 17, 14), (6, 8, 16, 30, 17, 17, 14), (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14), (14, 17, 17, 15, 1, 2, 12),
)  # fmt: skip


def _glyphs(count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Generated digits [n, 28, 28] uint8 and labels [n] int64: glyphs of a font, moved, of various brightness, with
    noise."""
    bits = (np.array(_FONT)[:, :, None] >> np.arange(4, -1, -1)) & 1  # [10, 7, 5]
    font = np.zeros((10, SIZE, SIZE), np.float32)
    font[:, 4:25, 6:21] = bits.repeat(3, 1).repeat(3, 2)
    labels = np.arange(count) % 10
    draws = uniform(mix(stream), 0, np.arange(count), 5)  # [n, 5]
    image = moved(torch.from_numpy(font[labels]), 2.0 * draws[:, :4] - 1.0, shift=3.0, rotate=12.0, scale=0.15)
    noise = uniform(mix(stream), 1, np.arange(count), SIZE * SIZE).reshape(count, SIZE, SIZE)
    pixels = (0.6 + 0.4 * draws[:, 4, None, None]) * image.numpy() + 0.3 * (noise - 0.5)
    return (255 * pixels.clip(0, 1)).astype(np.uint8), labels
