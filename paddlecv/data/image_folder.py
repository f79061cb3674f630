"""Own photographs with one class each, in folders or listed in tables; what folders of classes hold is read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from paddlecore.data import BadRows, SampleRows, mix, uniform
from paddlecore.errors import DataError, nearest
from paddlecore.sources import SPLITS, only, split_files
from paddlecore.task import Batch
from paddlecv.data.images import (
    DEVIATION,
    ENDINGS,
    MEAN,
    as_text,
    captioned,
    image_files,
    image_size,
    normalise,
    picture_of,
    pixels_of,
    statistics_of,
)
from paddlecv.data.labelled import ClassifiedData, read_table, text_table

if TYPE_CHECKING:
    from PIL import Image

Classes = dict[str, list[Path]]  # the images of each class, in order

_SHAPES = ("disc", "ring", "square", "stripes")  # the classes of toy images


# ------------------------------------------------------------------------------------------------ classes and names


def class_images(folder: Path, holdout: int = 10, bad_rows: BadRows | None = None) -> dict[str, Classes]:
    """The images of each split and class in `folder`.

    <split>/<class>/<image> with the splits train, valid (or val) and test: of a folder without valid, every
    `holdout`-th image of each class of train is for validation, in the order of the names (0: none is). Or
    <class>/<image> alone: the 9th of every ten of a class is for validation and the 10th for testing. Test may be
    absent or empty. Hidden files and folders are passed over, and so are files that are no images by their endings and
    folders beside train that are no splits, of which `bad_rows` is told.

    Raises:
        DataError: no such folder, fewer than two classes, splits whose classes differ, a split without images or there
            twice (valid and val), or a folder among the images.
    """
    if not folder.is_dir():
        raise DataError(f"data.source={folder}: there is no such folder")
    below = {path.name: path for path in _folders(folder)}
    if "train" in below:
        given = {s: only(s, [below[name] for name in names if name in below]) for s, names in SPLITS.items()}
        splits = {
            split: {path.name: _images(path, bad_rows) for path in _folders(place)}
            for split, place in given.items()
            if place
        }
        for path in below.values():
            if path not in given.values() and bad_rows is not None:
                bad_rows.pass_over(path)
    else:
        splits = _tenths({name: _images(path, bad_rows) for name, path in below.items()})
    names = list(splits["train"])
    if len(names) < 2:
        raise DataError(f"{folder}: expected a folder for each of at least two classes, found {names or 'none'}")
    for split, classes in splits.items():
        if classes.keys() != splits["train"].keys():
            counted = {s: {name: len(paths) for name, paths in splits[s].items()} for s in ("train", split)}
            raise DataError(
                f"{folder}: the classes of train and {split} differ; make an empty folder for a class without images\n"
                + _class_table(counted)
            )
    return _checked(held_out(splits, holdout), folder, splits if "train" in below else {})


def listed_images(files: Mapping[str, Path], bad_rows: BadRows, holdout: int = 10) -> dict[str, Classes]:
    """The same from tables: a .csv file a split, with the columns `path` (relative to its file) and `label`.

    Args:
        files: by split; where there is train alone it is split like folders of classes.
        bad_rows: told of lines that lack a path or a label, or whose path has been listed before or is no file.

    Raises:
        DataError: a column is missing, a split has no rows, or a class that train has not.
    """
    splits: dict[str, Classes] = {}
    seen: dict[str, str] = {}
    for split, file in files.items():
        found: Classes = {}
        for line, (path, label) in read_table(file, ("path", "label"), bad_rows, seen):
            if not (file.parent / path).is_file():
                bad_rows.add(file, line, f"there is no file {file.parent / path}")
            else:
                found.setdefault(label, []).append(file.parent / path)
        splits[split] = dict(sorted(found.items()))
    for split, classes in splits.items():
        if unknown := classes.keys() - splits["train"].keys():
            counted = {s: {name: len(paths) for name, paths in splits[s].items()} for s in ("train", split)}
            known = splits["train"]
            raise DataError(
                f"{files[split]} has classes that train has not{nearest(min(unknown), known)}\n{_class_table(counted)}"
            )
    splits = {split: {name: classes.get(name, []) for name in splits["train"]} for split, classes in splits.items()}
    if len(splits["train"]) < 2:
        raise DataError(f"{files['train']}: expected at least two classes, found {list(splits['train']) or 'none'}")
    alone = len(splits) == 1
    made = _tenths(splits["train"]) if alone else held_out(splits, holdout)
    return _checked(made, files["train"].parent, {} if alone else splits)


def agreed(names: Sequence[str], known: Sequence[str], where: str) -> list[str]:
    """The class names to use: `known`, those of given weights or options, in their order, else `names` of the data.

    Raises:
        DataError: the data has a class that is not known; with a table of both.
    """
    if not known:
        return list(names)
    if unknown := [name for name in names if name not in known]:
        shown = _class_table({"data": dict.fromkeys(names, "yes"), "expected": dict.fromkeys(known, "yes")})
        raise DataError(
            f"data.source={where} has classes that the weights (or data.classes) do not know"
            f"{nearest(unknown[0], known)}\n{shown}"
        )
    return list(known)


def _tenths(classes: Classes) -> dict[str, Classes]:
    return {
        "train": {name: [p for i, p in enumerate(paths) if i % 10 < 8] for name, paths in classes.items()},
        "valid": {name: paths[8::10] for name, paths in classes.items()},
        "test": {name: paths[9::10] for name, paths in classes.items()},
    }


def held_out(splits: dict[str, Classes], every: int) -> dict[str, Classes]:
    """Every so-manyth training image of a class for validation, where there is none yet; 0: as it is."""
    if "valid" in splits or not every:
        return splits
    train, rest = splits["train"], {split: classes for split, classes in splits.items() if split != "train"}
    kept = {name: [p for i, p in enumerate(paths) if (i + 1) % every] for name, paths in train.items()}
    return {"train": kept, "valid": {name: paths[every - 1 :: every] for name, paths in train.items()}, **rest}


def _checked(splits: dict[str, Classes], where: Path, given: dict[str, Classes]) -> dict[str, Classes]:
    """Without an empty test split; any other that is empty is refused. `given`: before some were held out."""
    count = {split: sum(map(len, classes.values())) for split, classes in splits.items()}
    if empty := [split for split, n in count.items() if not n and split != "test"]:
        few = "" if empty[0] in given else f"; the {count['train']} of train are too few of each class to hold some out"
        raise DataError(f"{where}: {empty[0]} has no images ({', '.join(ENDINGS)}){few}")
    return {split: classes for split, classes in splits.items() if count[split]}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path, bad_rows: BadRows | None) -> list[Path]:
    """Images in a class's folder. Folders in it are refused: what they hold may be of the class, or classes."""
    if inner := _folders(folder):
        raise DataError(f"{inner[0]}: a class's folder holds images, not folders")
    return image_files(folder, bad_rows)


def _class_table(columns: Mapping[str, Mapping[str, object]], most: int = 20) -> str:
    """Class names against columns, those that are not in every column first."""
    names = sorted(set().union(*columns.values()), key=lambda n: (all(n in c for c in columns.values()), n))
    shown = text_table([["class", *columns], *([n, *(c.get(n, "-") for c in columns.values())] for n in names[:most])])
    return shown + (f"\n  ... {len(names) - most} more" if len(names) > most else "")


# ------------------------------------------------------------------------------------------------------ the data


class ImageFolderData(ClassifiedData):
    """Own images of any size, one class each.

    `source`: a folder of <split>/<class>/<image> with the splits train, valid (or val) and optionally test; or of
    <class>/<image> alone, which is split; or of train.csv and optionally valid.csv (or val.csv) and test.csv with the
    columns `path` and `label`; or toy = generated shapes. See `class_images` and `listed_images`. All splits must have
    the same classes (an empty folder counts); where weights or `classes` name classes, the data may have no others.

    Every image is brought to a short side of `resize` pixels. For training, a part of random area and proportions is
    scaled to `size` x `size` (Szegedy et al., 2015, "Going Deeper with Convolutions", section 6) and mirrored in half
    of all cases, its colours optionally changed; what is drawn depends on (seed, epoch, row) alone. Else the square
    in the middle is taken.

    Files that are no images by their endings are passed over and counted. An image that cannot be read is a bad row.
    Where the resized images fit into `cache` megabytes they are read once and kept as uint8; otherwise they are read
    each time, and at the start only as far as their headers, with on_bad_row=skip to their ends.

    Batch: image [B, 3, size, size] float32, RGB, (pixel / 255 - mean) / deviation; label [B] int64.

    Args:
        size: height and width of what the model sees (pixels).
        resize: short side of the image it is cut out of (pixels); at least `size`.
        area: smallest and largest share of the image that a training crop covers.
        flip: whether training images are mirrored at random.
        jitter: largest relative change of brightness, contrast and saturation in training.
        mean: of the channels, subtracted, for pixels in 0..1; ImageNet's by default.
        deviation: the same, divided by.
        holdout: where there is no valid, every so-manyth training image of a class is for validation; 0 = none.
        classes: names of the classes in the order of the labels; None = as the data has them, sorted.
        cache: main memory for images that are kept (MB); 0 keeps none.
        **common: see `DataModule`.
    """

    input_options = ("mean", "deviation")

    def __init__(
        self,
        *,
        size: int = 224,
        resize: int = 256,
        area: Sequence[float] = (0.25, 1.0),
        flip: bool = True,
        jitter: float = 0.0,
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        holdout: int = 10,
        classes: Sequence[str] | None = None,
        cache: float = 1024,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 1 <= size <= resize:
            raise ValueError(f"data.size must be from 1 to data.resize={resize}, got {size}")
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"data.area must be two rising shares of at most 1, got {list(area)}")
        if not 0 <= jitter < 1:
            raise ValueError(f"data.jitter must be at least 0 and below 1, got {jitter}")
        if holdout < 0 or holdout == 1:
            raise ValueError(f"data.holdout must be 0 or at least 2, got {holdout}")
        if classes is not None and (len(classes) < 2 or len(set(classes)) != len(classes)):
            raise ValueError(f"data.classes must be at least two different names, got {list(classes)}")
        self.size, self.resize, self.area, self.flip, self.jitter = size, resize, tuple(area), flip, jitter
        self.mean, self.deviation = statistics_of(mean, deviation)
        self.holdout, self.cache = holdout, cache
        self._labels: list[str] = list(classes or ())
        self._inputs: dict[str, list[Any]] = {}  # of each split: paths, or generated pixels [H, W, 3] uint8
        self._targets: dict[str, Tensor] = {}  # [n] int64
        self._bytes = 0  # of all images once they are resized

    def restore(self, state: dict[str, Any]) -> None:
        if labels := [str(label) for label in state.get("labels", [])]:
            self._labels = agreed(self._labels, labels, self.source)

    def targets(self, split: str) -> np.ndarray:
        return self._targets[split].numpy()

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a folder, table, image or class that cannot be used.
        """
        self._bytes = 0
        if self.source == "toy":
            counts = {"train": 64, "valid": 16, "test": 16}
            read: dict[str, tuple[list[Any], list[int]]] = {
                split: toy_images(n, number) for number, (split, n) in enumerate(counts.items())
            }
            names: Sequence[str] = _SHAPES
        else:
            found = self.find()
            names = list(found["train"])
            read = {split: self.read_each(classes, self._look) for split, classes in found.items()}
        self._labels = agreed(names, self._labels, self.source)
        own = torch.tensor([self._labels.index(name) for name in names])  # class here -> class of the weights
        self.splits = tuple(read)
        for split, (inputs, labels) in read.items():
            kept: list[Tensor] | None = None
            if self._bytes <= self.cache * 2**20:
                inputs, labels, kept = self._usable(inputs, labels, self._resized)
            elif self.bad_rows.on_bad_row == "skip":
                inputs, labels, _ = self._usable(inputs, labels, _whole)
            target = own[torch.tensor(labels, dtype=torch.int64)]
            self._inputs[split], self._targets[split] = inputs, target
            sample = partial(self._sample, kept or inputs, target, self._transform(split))
            self._rows[split] = SampleRows(len(inputs), sample, self._collate, mix(self.seed))
        self.refuse_empty(self._rows)

    def find(self) -> dict[str, Classes]:
        """The files of each split and class; what a data set with a layout of its own overrides."""
        if self.source == "auto":
            raise DataError("data.source: name your folder of images, or toy for generated ones")
        folder = Path(self.source)
        if (folder / "train.csv").is_file():
            files = split_files(folder, lambda path: path.suffix == ".csv", "a table (.csv)")
            found = listed_images(files, self.bad_rows, self.holdout)
            self._paths = [*files.values(), *(p for classes in found.values() for ps in classes.values() for p in ps)]
            return found
        self._paths = [folder]
        return class_images(folder, self.holdout, self.bad_rows)

    def _look(self, path: Path) -> Path:
        self._bytes += self._weight(*image_size(path))
        return path

    def _weight(self, width: int, height: int) -> int:
        """Bytes of an image once it is resized."""
        return 3 * self.resize * self.resize * max(width, height) // min(width, height)

    def describe(self) -> dict[str, Any]:
        """Reads the images that are not kept to their ends, too."""
        if self._bytes > self.cache * 2**20 and self.bad_rows.on_bad_row == "error":
            for split in self.splits:
                self._usable(self._inputs[split], self._targets[split].tolist(), _whole)
        return super().describe()

    def _usable(
        self, inputs: list[Any], labels: list[int], read: Callable[[Any], Any]
    ) -> tuple[list[Any], list[int], list[Any]]:
        """The images that `read` does not refuse, their labels, and what it gives of each."""
        found = []
        for raw, label in zip(inputs, labels, strict=True):
            try:
                found.append((raw, label, read(raw)))
            except DataError as error:
                self.bad_rows.add(raw, 1, str(error).removeprefix(f"{raw}: "))
        return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]

    def _resized(self, raw: Any) -> Tensor:
        """[3, h, w] uint8, the shorter side `resize`."""
        from torchvision.transforms.v2 import functional

        return functional.resize(pixels_of(picture_of(raw)), [self.resize], antialias=True).contiguous()

    def _transform(self, split: str) -> Callable[[Tensor], Tensor]:
        """[3, h, w] uint8 -> [3, size, size] uint8."""
        from torchvision.transforms import v2

        if split != "train":
            return v2.CenterCrop(self.size)
        steps: list[Callable[[Tensor], Tensor]] = [v2.RandomResizedCrop(self.size, scale=self.area, antialias=True)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.jitter:
            steps.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        return v2.Compose(steps)

    def _sample(
        self, inputs: list[Any], target: Tensor, transform: Callable[[Tensor], Tensor], row: int
    ) -> tuple[Tensor, Tensor]:
        image = inputs[row]
        return transform(image if isinstance(image, Tensor) else self._resized(image)), target[row]

    def _collate(self, samples: list[tuple[Tensor, Tensor]]) -> Batch:
        images, labels = zip(*samples, strict=True)
        return {"image": normalise(torch.stack(images), self.mean, self.deviation), "label": torch.stack(labels)}

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """What `picture_of` takes: the path of an image, a picture of Pillow's, or rows of pixels."""
        image = self._transform("")(self._resized(raw))[None]
        return {"image": normalise(image, self.mean, self.deviation)}

    def examples(self) -> Sequence[Any]:
        """Generated images as text: there are no files to name where only weights are."""
        from PIL import Image

        return [as_text(Image.fromarray(image)) for image in toy_images(3, 3)[0]]

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        raw, label = self._inputs[split][row], int(self._targets[split][row])
        return str(raw) if isinstance(raw, Path) else as_text(picture_of(raw)), {"label": self._labels[label]}

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The image with its class and, of a prediction, the probability under it."""
        return captioned(picture_of(raw), [named(answer)])


def _whole(raw: Any) -> None:
    """Read an image to its end."""
    picture_of(raw)


def named(answer: dict[str, Any]) -> str:
    """A rendered prediction (or {"label": name}) as a line of text."""
    share = answer.get("probability", {}).get(answer["label"])
    return answer["label"] if share is None else f"{answer['label']} {share:.1%}"


# ----------------------------------------------------------------------------------------------------------- toy


def toy_images(count: int, stream: int) -> tuple[list[np.ndarray], list[int]]:
    """Generated images [H, W, 3] uint8 of 48 to 79 pixels a side and their classes: a bright shape of any colour on a
    dark ground, with noise."""
    draws = uniform(mix(stream), 0, np.arange(count), 10)  # [n, 10]
    images = []
    for row, draw in enumerate(draws):
        height, width = (48 + 32 * draw[:2]).astype(int)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        radius = (0.2 + 0.15 * draw[2]) * min(height, width)
        y, x = y - height * (0.4 + 0.2 * draw[3]), x - width * (0.4 + 0.2 * draw[4])
        far, square = np.hypot(x, y), np.maximum(abs(x), abs(y)) < radius
        shapes = (far < radius, (far < radius) & (far > 0.6 * radius), square, square & (x % 8 < 4))
        inside = shapes[row % len(_SHAPES)][..., None]
        noise = uniform(mix(stream), row + 1, np.arange(height * width), 3).reshape(height, width, 3)
        pixels = np.where(inside, 140 + 100 * draw[5:8], 60 * draw[7:10]) + 20 * noise
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return images, [row % len(_SHAPES) for row in range(count)]
