"""Images with a class for each pixel: own folders or tables of images and masks, and what all such data sets share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.utils import draw_segmentation_masks

from paddlecore.data import BadRows, SampleRows, mix, uniform
from paddlecore.errors import DataError
from paddlecore.sources import SPLITS, only
from paddlecore.task import Batch
from paddlecv.data.augment import GROUND, resized_masks
from paddlecv.data.images import (
    DEVIATION,
    MEAN,
    image_size,
    images_by_name,
    normalise,
    opened,
    picture_of,
    pixels_of,
    read_image,
    statistics_of,
)
from paddlecv.data.labelled import LabelledData, read_lines, read_table, text_table

if TYPE_CHECKING:
    from PIL import Image

VOID = 255  # of a mask's pixels: no class; they count neither in the loss nor in a metric
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # without loss: JPEG would change ids
_UNKNOWN = 254  # in a table of ids: no class has this id
_FILL = {tv_tensors.Image: GROUND, tv_tensors.Mask: VOID}  # outside of the image

Pair = tuple[Path, Path]  # an image and its mask


class SegmentationData(LabelledData):
    """Own images with masks. A mask is an image of the same size, one channel of up to 8 bits, whose values are class
    ids.

    `source`: toy = generated; or a folder with, for each split (train, valid or val, optionally test), either
    `<split>/images/<name>.jpg` and `<split>/masks/<name>.png`, or `<split>.csv` with the columns image and mask, paths
    from the folder on. The names of the classes, in the order of their ids from 0 on, stand in `classes.txt` one a
    line, or in `classes`. A split may have a `classes.txt` of its own; all that name classes must agree. When weights
    with class names are given, ids are translated by name, and there may be no other classes.

    All masks are read at the start: an id that no class has is refused, with a table of what was found, and the share
    of each class in the training pixels is counted, for class weights.

    Training images are scaled by `scale`, cut to `crop` at a random place, and mirrored, drawn from (seed, epoch, row)
    alone. Other images keep their size. A mask that cannot be used is a bad row, and so is an image of another size or
    kind of file; pixels of images are read when they are needed, with on_bad_row=skip once at the start, too.

    Batch: image [B, 3, H, W] float32, see `paddlecv.data.images.normalise`; mask [B, H, W] int64, 255 = void; size
    [B, 2] int64, height and width. What goes beyond an image's size in a batch of several sizes is 0, its mask void.

    Memory: 4 bytes a pixel with `cache`.

    Args:
        crop: height and width of a training image; None = the whole images, at their own size whatever `scale` says.
        scale: smallest and largest random factor of size.
        flip: mirror every second training image, left to right.
        jitter: largest relative random change of brightness, contrast and saturation.
        classes: names of the classes in the order of their ids; None = those of `classes.txt`, or the data set's own.
        void: ids that mean: no class.
        mean: of red, green and blue, 0 to 1; that of the weights that are started from, if any.
        deviation: the same.
        count: read all masks at the start.
        cache: keep decoded images in memory (in each worker).
        **common: see `DataModule`.
    """

    input_options = ("mean", "deviation")
    toy_classes: tuple[str, ...] = ("ground", "disc", "square", "stripe")
    toy_size = (64, 64)

    def __init__(
        self,
        *,
        crop: Sequence[int] | None = (256, 256),
        scale: Sequence[float] = (0.5, 2.0),
        flip: bool = True,
        jitter: float = 0.0,
        classes: Sequence[str] | None = None,
        void: Sequence[int] = (VOID,),
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        count: bool = True,
        cache: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if crop is not None and (len(crop) != 2 or min(crop) < 1):
            raise ValueError(f"data.crop must be height and width in pixels, got {list(crop)}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"data.scale must be the smallest and the largest factor, got {list(scale)}")
        if not 0 <= jitter < 1:
            raise ValueError(f"data.jitter must be at least 0 and below 1, got {jitter}")
        if not all(0 <= i <= 255 for i in void):
            raise ValueError(f"data.void must be ids of a mask, 0 to 255, got {list(void)}")
        self.crop, self.scale, self.flip, self.jitter = crop, tuple(scale), flip, jitter
        self.mean, self.deviation = statistics_of(mean, deviation)
        self.classes, self.void, self.count, self.cache = classes, tuple(void), count, cache
        self._pixels: dict[str, np.ndarray] = {}  # split -> pixels of each class [C]
        self._frequency: list[float] | None = None
        self._pairs: dict[str, list[Pair]] = {}
        self._toy: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._ids = np.empty(0, np.uint8)  # [256] id in a file -> class
        self._usable: dict[str, list[int]] = {}  # of each split: rows of `_pairs` or `_toy` that can be read
        self._cached: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    @property
    def spec(self) -> dict[str, Any]:
        """num_classes, labels, in_channels; class_frequency [C]: shares of the training pixels, None = not counted."""
        return {**super().spec, "in_channels": 3, "class_frequency": self._frequency}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "class_frequency": self._frequency}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._frequency = state.get("class_frequency") if self._labels else None

    def describe(self) -> dict[str, Any]:
        """Reads every image, and the masks if they are not counted yet."""
        if self._pairs and self.bad_rows.on_bad_row == "error":
            if not self.count:
                self._count(self._usable)
            for split, rows in self._usable.items():
                for row in rows:
                    read_image(self._pairs[split][row][0])
        shares = {
            split: {name: round(float(n) / max(1, n_all.sum()), 6) for name, n in zip(self._labels, n_all, strict=True)}
            for split, n_all in self._pixels.items()
        }
        return {**super().describe(), "pixels": shares}

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: files that cannot be used, by name; ids or class names that do not agree, with a table.
        """
        if self.source == "toy":
            names = list(self.toy_classes)
            counts = {split: n for split, n in {"train": 64, "valid": 16, "test": 16}.items() if split in self.splits}
            self._toy = {
                split: _shapes(n, len(names), self.toy_size, stream) for stream, (split, n) in enumerate(counts.items())
            }
            found = {split: list(range(n)) for split, n in counts.items()}
            ids = table_of_ids(dict(enumerate(range(len(names)))), ())
        else:
            self._pairs, names, ids = self.find()
            given = names if self.classes is None else [str(name) for name in self.classes]
            if given != names:
                raise DataError(
                    f"data.source={self.source} has classes of its own, which data.classes cannot change\n"
                    f"{_side_by_side({'data.classes': given, 'data': names})}"
                )
            found = {split: list(range(len(pairs))) for split, pairs in self._pairs.items()}
            self._paths = [path for pairs in self._pairs.values() for pair in pairs for path in pair]
        self._take_names(names, ids)
        if self.count or self.bad_rows.on_bad_row == "skip":
            found = self._count(found)
        self.refuse_empty(found)
        self.splits, self._usable = tuple(found), found
        for split, rows in found.items():
            sample = partial(self._sample, split, rows, split == "train")
            self._rows[split] = SampleRows(len(rows), sample, self._collate, mix(self.seed))

    def find(self) -> tuple[dict[str, list[Pair]], list[str], np.ndarray]:
        """The files of each split, the names of the classes, and [256] uint8, the class of each id in a mask (255 =
        void, 254 = no class has this id). Data sets with a layout of their own override this."""
        folder = Path(self.source)
        if self.source == "auto":
            raise DataError("data.source must name a folder of images and masks, or be toy")
        if not folder.is_dir():
            raise DataError(f"data.source={self.source}: there is no such folder")
        pairs: dict[str, list[Pair]] = {}
        seen: dict[str, str] = {}
        for split, aliases in SPLITS.items():
            tables = [path for name in aliases if (path := folder / f"{name}.csv").is_file()]
            if (table := only(split, tables)) is not None:
                pairs[split] = self._csv(table, seen)
            elif (place := only(split, [path for name in aliases if (path := folder / name).is_dir()])) is not None:
                pairs[split] = pair_up(place / "images", place / "masks", self.bad_rows)
        if not {"train", "valid"} <= pairs.keys():
            raise DataError(
                f"{folder} must have train and valid, each as <split>/images and <split>/masks or as <split>.csv with "
                f"the columns image,mask; found {', '.join(pairs) or 'neither'}"
            )
        names = self._agreed_names(folder)
        return pairs, names, table_of_ids({i: i for i in range(len(names))}, self.void)

    def _csv(self, path: Path, seen: dict[str, str]) -> list[Pair]:
        pairs = []
        for line, cells in read_table(path, ("image", "mask"), self.bad_rows, seen):
            image, mask = (path.parent / cell for cell in cells)
            if missing := [p for p in (image, mask) if not p.is_file()]:
                self.bad_rows.add(path, line, f"there is no file {missing[0]}")
            else:
                pairs.append((image, mask))
        return pairs

    def _agreed_names(self, folder: Path) -> list[str]:
        """Names of the classes from everywhere where they stand, which have to agree."""
        given = {} if self.classes is None else {"data.classes": [str(name) for name in self.classes]}
        for place in (".", *(name for names in SPLITS.values() for name in names)):
            where = Path(place, "classes.txt")
            if (lines := read_lines(folder / where)) is not None:
                given[str(where)] = lines
        if not given:
            raise DataError(f"{folder} has no classes.txt (a name a line, in the order of the ids); set data.classes")
        names = next(iter(given.values()))
        if any(other != names for other in given.values()):
            raise DataError(f"{folder}: the class names differ\n{_side_by_side(given)}")
        if not 2 <= len(names) < _UNKNOWN or len(set(names)) != len(names):
            raise DataError(f"{folder}: expected 2 to {_UNKNOWN - 1} different class names, found {', '.join(names)}")
        return names

    def _take_names(self, names: list[str], ids: np.ndarray) -> None:
        """The data's class names; those of given weights come first, and must include them."""
        if self._labels and set(names) - set(self._labels):
            raise DataError(
                f"data.source={self.source} has classes that the weights do not know\n"
                f"{_side_by_side({'weights': self._labels, 'data': names})}"
            )
        self._labels = self._labels or names
        own = np.arange(256, dtype=np.uint8)
        own[: len(names)] = [self._labels.index(name) for name in names]
        self._ids = own[ids]

    def _count(self, found: dict[str, list[int]]) -> dict[str, list[int]]:
        """Read all masks: the usable rows of each split. Ids that no class has are refused with a table."""
        usable: dict[str, list[int]] = {}
        counts = {split: np.zeros(256, np.int64) for split in found}  # of the ids in the files
        for split, rows in found.items():
            usable[split] = []
            for row in rows:
                try:
                    mask = self._read_mask(split, row, check=True)
                    if self._pairs and self.bad_rows.on_bad_row == "skip":
                        read_image(self._pairs[split][row][0])
                except DataError as error:
                    path = self._pairs[split][row][1]
                    self.bad_rows.add(path, 1, str(error).removeprefix(f"{path}: "))
                else:
                    counts[split] += np.bincount(mask.ravel(), minlength=256)
                    usable[split].append(row)
        unknown = [i for i in range(256) if self._ids[i] == _UNKNOWN and any(n[i] for n in counts.values())]
        if unknown:
            raise DataError(
                f"data.source={self.source}: masks have ids that are neither a class nor void: "
                f"{', '.join(map(str, unknown[:20]))}; name their classes, or list them in data.void\n"
                f"{self._id_table(counts)}"
            )
        for split, n in counts.items():
            self._pixels[split] = np.bincount(self._ids, n, 256)[: len(self._labels)]
        total = self._pixels["train"].sum()
        if usable["train"] and not total:
            raise DataError(f"data.source={self.source}: the training masks are all void, so there is nothing to learn")
        self._frequency = [float(n / max(1, total)) for n in self._pixels["train"]]
        return usable

    def _id_table(self, counts: dict[str, np.ndarray]) -> str:
        rows = {"class": [], **{f"pixels in {split}": [] for split in counts}}  # type: dict[str, list[str]]
        ids = [i for i in range(256) if self._ids[i] < _UNKNOWN or any(n[i] for n in counts.values())]
        for i in ids:
            name = {VOID: "void", _UNKNOWN: "?"}.get(int(self._ids[i]))
            rows["class"].append(name or self._labels[self._ids[i]])
            for split, n in counts.items():
                rows[f"pixels in {split}"].append(str(n[i]))
        return _side_by_side(rows, ids)

    def _read_mask(self, split: str, row: int, check: bool = False) -> np.ndarray:
        """[H, W] uint8, ids as in the file; `check`: against the size of the image."""
        if self._toy:
            return self._toy[split][row][1].numpy()
        image, mask = self._pairs[split][row]
        return read_mask(mask, image if check else None)

    def _load(self, split: str, row: int) -> tuple[Tensor, Tensor]:
        """Image [3, H, W] uint8 and mask [H, W] uint8 of classes."""
        if self._toy:
            image, mask = self._toy[split][row]
        else:
            image, mask = read_image(self._pairs[split][row][0]), torch.from_numpy(self._read_mask(split, row))
            if image.shape[1:] != mask.shape:
                raise DataError(_sizes_differ(*self._pairs[split][row], image.shape[1:], mask.shape))
        classes = torch.from_numpy(self._ids[mask.numpy()])
        if (classes == _UNKNOWN).any():
            wrong = int(mask[classes == _UNKNOWN][0])
            raise DataError(f"{self._pairs[split][row][1]}: id {wrong} is neither a class nor in data.void")
        return image, classes

    def _sample(self, split: str, rows: list[int], train: bool, row: int) -> dict[str, Tensor]:
        kept = self._cached.get((split, rows[row]))
        if kept is None:
            kept = self._load(split, rows[row])
            if self.cache:
                self._cached[split, rows[row]] = kept
        image, mask = kept
        if train:
            image, mask = self._augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return {"image": image.as_subclass(Tensor), "mask": mask.as_subclass(Tensor)}

    def _augment(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        steps: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.jitter:
            steps.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        if self.crop is not None:
            low, high = self.scale
            factor = low + (high - low) * float(torch.rand(()))
            window = [max(1, round(side / factor)) for side in self.crop]
            # cut first, and scaled where that leaves the rest the fewest pixels
            steps.insert(len(steps) if factor > 1 else 0, self._to_crop)
            steps.insert(0, v2.RandomCrop(window, pad_if_needed=True, fill=_FILL))
        for step in steps:
            image, mask = step(image, mask)
        return image, mask

    def _to_crop(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert self.crop is not None
        classes = resized_masks(mask.as_subclass(Tensor)[None], self.crop)[0]
        return v2.functional.resize(image, list(self.crop), antialias=True), tv_tensors.Mask(classes)

    def _collate(self, samples: list[dict[str, Tensor]]) -> Batch:
        """Samples of any sizes -> one batch: images filled up with 0, masks with void, right and below."""
        sizes = torch.tensor([sample["mask"].shape for sample in samples])
        whole = (len(samples), *sizes.amax(0).tolist())
        images, masks = torch.zeros(whole[0], 3, *whole[1:]), torch.full(whole, VOID)
        for image, mask, sample in zip(images, masks, samples, strict=True):
            height, width = sample["mask"].shape
            normalise(sample["image"], self.mean, self.deviation, out=image[:, :height, :width])
            mask[:height, :width] = sample["mask"]
        return {"image": images, "mask": masks, "size": sizes}

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """What `picture_of` takes: the path of an image, an image as text, a picture of Pillow's, or pixels; also as
        {"image": ...}."""
        pixels = pixels_of(picture_of(raw))
        return {"image": normalise(pixels, self.mean, self.deviation)[None], "size": torch.tensor([pixels.shape[1:]])}

    def examples(self) -> Sequence[Any]:
        """Generated images, as rows of pixels: there are no files to name where only weights are."""
        shapes = _shapes(2, len(self.toy_classes), (32, 48), 3)
        return [image.permute(1, 2, 0).tolist() for image, _ in shapes]

    # ------------------------------------------------------------------------------------------------ pictures

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        """The raw input of a row, and its true mask in the form of a rendered prediction."""
        number = self._usable[split][row]
        image, mask = self._load(split, number)
        values, lengths = torch.unique_consecutive(mask.flatten(), return_counts=True)
        code = {"size": list(mask.shape), "values": values.tolist(), "lengths": lengths.tolist()}
        raw = str(self._pairs[split][number][0]) if self._pairs else image.permute(1, 2, 0).tolist()
        return raw, {"mask": code}

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The image under the colours of its classes; what is void keeps its own."""
        from torchvision.transforms.functional import to_pil_image

        image, mask = pixels_of(picture_of(raw)), decode_runs(answer["mask"])
        one_hot = mask == torch.arange(len(self._labels))[:, None, None]  # [C, H, W]
        return to_pil_image(draw_segmentation_masks(image, one_hot, alpha=0.6, colors=palette(len(self._labels))))


def decode_runs(code: dict[str, Any]) -> Tensor:
    """A run-length coded mask, as `paddlecv.tasks.Segmentation` renders it -> [H, W] int64."""
    runs = torch.tensor(code["values"]).repeat_interleave(torch.tensor(code["lengths"]))
    return runs.reshape(code["size"])


def palette(classes: int) -> list[tuple[int, int, int]]:
    """Colours far apart, as Pascal VOC has them: the bits of class + 1, from the lowest on, are the highest bits of
    red, green, blue, then the next highest ones."""

    def value(number: int, channel: int) -> int:
        return sum(((number >> (3 * j + channel)) & 1) << (7 - j) for j in range(3))

    return [(value(n, 0), value(n, 1), value(n, 2)) for n in range(1, classes + 1)]


def pair_up(images: Path, masks: Path, bad_rows: BadRows | None = None) -> list[Pair]:
    """The images of one folder with the masks of the same names in another; `bad_rows` is told of other files.

    Raises:
        DataError: a folder is missing, or an image or a mask is alone or there twice; names the first.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder")
    pictures, ids = (images_by_name(folder, bad_rows) for folder in (images, masks))
    if alone := sorted(pictures.keys() ^ ids.keys()):
        has, lacks = (images, masks) if alone[0] in pictures else (masks, images)
        raise DataError(f"{has} has {alone[0]}, but {lacks} has nothing of that name ({len(alone)} such names)")
    return [(pictures[name], ids[name]) for name in sorted(pictures)]


def read_mask(path: Path, image: Path | None = None) -> np.ndarray:
    """A mask [H, W] uint8: its pixels as they are stored, or its indices where it has a palette.

    Args:
        image: that it belongs to; its size is compared.

    Raises:
        DataError: no image, one of several channels, of 16 bits, stored with loss, or of another size than `image`;
            names the file.
    """
    with opened(path) as file:
        if file.format not in MASK_FORMATS:
            raise DataError(lossy(path, file.format))
        if file.mode not in ("L", "P", "1"):
            kind = "16 bits or more a pixel" if file.mode[0] in "IF" else f"colours ({file.mode})"
            raise DataError(f"{path}: a mask has class ids of 8 bits in one channel, this has {kind}")
        stored = str(getattr(file, "tile", [])[:1])
        few = re.search("L;([24])", stored)  # grey of 2 or 4 bits, which Pillow spreads over 0..255
        step = {"2": 85, "4": 17}[few[1]] if few else 1
        mask = np.array(file).astype(np.uint8) // step
    if image is not None:
        size = image_size(image)[::-1]
        if size != mask.shape:
            raise DataError(_sizes_differ(image, path, size, mask.shape))
    return mask


def lossy(path: Path, kind: str | None) -> str:
    """What to say of a mask that is a file of another kind than `MASK_FORMATS`."""
    return f"{path}: a mask is stored without loss ({', '.join(MASK_FORMATS)}), this is {kind}"


def _sizes_differ(image: Path, mask: Path, of_image: Sequence[int], of_mask: Sequence[int]) -> str:
    turned = " (perhaps turned by its EXIF)" if tuple(of_image) == tuple(of_mask)[::-1] else ""
    return (
        f"{mask}: is {of_mask[1]} x {of_mask[0]} pixels, its image {image.name} {of_image[1]} x {of_image[0]}{turned}"
    )


def table_of_ids(classes: dict[int, int], void: Sequence[int]) -> np.ndarray:
    """[256] uint8: the class of each id in a file; 255 = void, 254 = unknown. An id in `void` is no class."""
    ids = np.full(256, _UNKNOWN, np.uint8)
    ids[VOID] = VOID
    ids[list(classes)] = list(classes.values())
    ids[list(void)] = VOID
    return ids


def _side_by_side(columns: dict[str, list[str]], ids: Sequence[int] | None = None) -> str:
    """A table for an error: a row an id, a column a place."""
    ids = range(max(map(len, columns.values()))) if ids is None else ids
    rows = ([i, *(c[at] if at < len(c) else "-" for c in columns.values())] for at, i in enumerate(ids))
    return text_table([["id", *columns], *rows])


# ---------------------------------------------------------------------------------------------------- toy


def _shapes(count: int, classes: int, size: tuple[int, int], stream: int) -> list[tuple[Tensor, Tensor]]:
    """Generated images [3, H, W] uint8 with masks [H, W] uint8: on ground (class 0), three discs, boxes or stripes of
    other classes, each class in its own colour, with void around them and noise over all."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y / height, x / width
    colours = np.array(palette(classes), np.float32)
    found = []
    for row in range(count):
        draws = uniform(mix(stream), 0, np.array([row]), 12)[0].reshape(3, 4)
        mask = np.zeros(size, np.uint8)
        for place, (u, v, radius, kind) in enumerate(draws):
            shape = 1 + int((row + place + kind) * (classes - 1)) % (classes - 1) if classes > 1 else 0
            dx, dy, reach = np.abs(x - u), np.abs(y - v), 0.12 + 0.1 * radius
            distance = (np.hypot(dx, dy), np.maximum(dx, dy), dy)[shape % 3]
            mask[distance < reach + 0.03] = VOID
            mask[distance < reach] = shape
        noise = uniform(mix(stream), 1, np.array([row]), 3 * height * width).reshape(height, width, 3)
        pixels = 0.7 * colours[np.where(mask == VOID, 0, mask)] + 70 * noise
        found.append((torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1), torch.from_numpy(mask)))
    return found
