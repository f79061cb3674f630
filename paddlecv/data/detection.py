"""Pictures with boxes: how annotations of any source become batches that detectors take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from paddlecore.data import SampleRows, mix
from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlecv.data.augment import GROUND, Colours, Scene, crop, kept, mosaic, quarter_turns, resized_masks, scene
from paddlecv.data.images import (
    DEVIATION,
    MEAN,
    as_text,
    font_file,
    normalise,
    picture_of,
    pixels_of,
    read_image,
    statistics_of,
)
from paddlecv.data.labelled import LabelledData, text_table
from paddlecv.data.shapes import Shape, draw

if TYPE_CHECKING:
    from PIL import Image

STRIDE = 32  # a canvas that follows its images has sides that are multiples of this: the coarsest map of most detectors


@dataclass
class Record:
    """One picture and what is annotated in it, in pixels of the upright picture.

    Boxes are continuous: (0, 0, W, H) is the whole picture, so a box of one pixel has an area of 1.
    """

    path: Path | None  # of the file; None: it is `pixels`
    height: int
    width: int
    boxes: NDArray[np.float32]  # [G, 4] xyxy, within the picture, none without area
    names: list[str]  # [G] classes
    crowd: NDArray[np.bool_]  # [G] crowd or difficult: not trained on, neither hit nor miss when it is measured
    masks: list[dict[str, Any]] | None = None  # [G] COCO's run lengths, {"size": [H, W], "counts": bytes}
    pixels: NDArray[np.uint8] | None = None  # [H, W, 3]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # [G] 1..C, set by `prepare`

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "a generated picture"


class DetectionData(LabelledData):
    """Base of the detection data sets: a subclass writes `read`.

    Three ways to the size a detector wants (`resize`): `stretch` makes each picture a square of `size`; `letterbox`
    keeps its shape, makes the longer side `size`, and fills up the square; `fit` keeps its shape, makes the shorter
    side `size` unless the longer would exceed `max_size`, and fills up to the largest picture of the batch, in
    multiples of 32. What is filled up is 0 after normalisation, at the right and at the bottom. With `fit`, pictures of
    different shapes thus have a little to do with their neighbours, through what a network makes of the filling.

    Training pictures are changed at random, in this order, by torchvision's transforms: mosaic, zoom out, crop, flips
    and turns, size, colours; from (seed, epoch, row) alone, so a picture is the same in any worker, on any rank. Boxes
    follow, and so do masks. A picture may lose all its boxes.

    Decoded pictures are kept in memory up to `cache`, in each process that loads; the rest is decoded each time.

    A box that reaches out of its picture is cut, and counted; one without area is a bad row. Pictures without boxes
    are trained on: all is background there. A file that cannot be read is named when its turn comes; with
    on_bad_row=skip all are decoded once at the start, and those that cannot be are left out and counted.

    Batch, B pictures, at most G boxes in one: image [B, 3, H, W] float32, normalised; size [B, 2] int64, height and
    width of what is not filling; boxes [B, G, 4] float32 xyxy in pixels of `image`; labels [B, G] int64 1..C, 0 = no
    box; draw [B] int64, a random number of (seed, epoch, row); with `masks`, masks [B, G, H, W] uint8. Crowd boxes are
    left out. For evaluation, without draw and masks: scale [B, 2] float32, pixels of `image` per pixel of the picture
    (y, x); original [B, 2] int64, its height and width; image_id [B] int64, its row; true_boxes [B, G, 4] in its
    pixels, true_labels [B, G], crowd [B, G] bool; with `masks`, true_masks, B lists of run lengths as COCO has them. A
    training picture, changed as it is, has these too (train.overfit_batches measures on it).

    Args:
        train_on: `train`, or `trainval`: the pictures of validation are trained on too, and the last weights are kept,
            as there is nothing left to choose by. Choose the settings with `train`.
        size: of the pictures a detector sees (pixels), see above.
        resize: stretch, letterbox or fit.
        max_size: of `fit`: longest side (pixels); default: 5/3 of `size`.
        classes: names of the classes in the order of their numbers, where the data do not say; default: by alphabet.
        masks: give the masks, too.
        flip: probability of a mirror image, left and right exchanged.
        flip_vertical: the same, top and bottom: where a picture has no up.
        turns: turn by a random multiple of 90 degrees: where a picture has no up.
        zoom_out: probability that a picture is put on a canvas up to four times as wide and high (SSD, section 3.6).
        iou_crop: probability of a random part that overlaps a box by a random amount (SSD, section 2.2).
        jitter: smallest and largest random factor of the size; what is then too large is cut at random.
        photometric: probability of each of the changes of brightness, contrast, saturation and hue (SSD's).
        mosaic: probability that a picture is put together from four (YOLOv4, section 3.3); not with `fit`.
        cache: most memory for decoded pictures (GB).
        mean: of the pixels 0..1, R, G, B, subtracted; default: of ImageNet.
        deviation: of the pixels 0..1, what is left is divided by it.
        **common: see `DataModule`.
    """

    input_options = ("mean", "deviation")
    toy: ClassVar[dict[str, Shape]] = {  # how the objects of source=toy look
        "disc": Shape("disc", (214, 60, 60), 0.2, 0.5),
        "square": Shape("square", (60, 140, 70), 0.2, 0.5),
        "triangle": Shape("triangle", (60, 80, 200), 0.25, 0.55),
    }

    def __init__(
        self,
        *,
        train_on: Literal["train", "trainval"] = "train",
        size: int = 320,
        resize: Literal["stretch", "letterbox", "fit"] = "stretch",
        max_size: int | None = None,
        classes: list[str] | None = None,
        masks: bool = False,
        flip: float = 0.5,
        flip_vertical: float = 0.0,
        turns: bool = False,
        zoom_out: float = 0.0,
        iou_crop: float = 0.0,
        jitter: list[float] | tuple[float, float] = (1.0, 1.0),
        photometric: float = 0.0,
        mosaic: float = 0.0,
        cache: float = 1.0,
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if train_on not in ("train", "trainval"):
            raise ValueError(f"data.train_on must be train or trainval, got {train_on}")
        if resize not in ("stretch", "letterbox", "fit"):
            raise ValueError(f"data.resize must be stretch, letterbox or fit, got {resize}")
        if size < STRIDE or (max_size or size) < size:
            raise ValueError(f"data.size must be at least {STRIDE} and max_size at least that, got {size}, {max_size}")
        odds = {
            "flip": flip, "flip_vertical": flip_vertical, "zoom_out": zoom_out, "iou_crop": iou_crop,
            "photometric": photometric, "mosaic": mosaic,
        }  # fmt: skip
        for name, value in odds.items():
            if not 0 <= value <= 1:
                raise ValueError(f"data.{name} is a probability, got {value}")
        if len(jitter) != 2 or not 0.1 <= jitter[0] <= jitter[1] <= 10:
            raise ValueError(f"data.jitter must be two factors from 0.1 to 10, the smaller first, got {list(jitter)}")
        if mosaic and resize == "fit":
            raise ValueError("data.mosaic needs pictures of one size: data.resize=stretch or letterbox")
        if classes is not None and (not classes or len(set(classes)) != len(classes)):
            raise ValueError(f"data.classes must be different names, got {classes}")
        self.train_on = train_on
        self.size, self.resize, self.max_size = size, resize, max_size or size * 5 // 3
        self.classes, self.masks, self.turns, self.jitter, self.mosaic = classes, masks, turns, tuple(jitter), mosaic
        self.mean, self.deviation = statistics_of(mean, deviation)
        self._zoom_out = v2.RandomZoomOut(fill={tv_tensors.Image: GROUND, tv_tensors.Mask: 0}, p=zoom_out)
        self._iou_crop, self._iou_crop_odds = v2.RandomIoUCrop(), iou_crop
        self._flips = v2.Compose([v2.RandomHorizontalFlip(flip), v2.RandomVerticalFlip(flip_vertical)])
        self._colours = Colours(p=photometric) if photometric else None
        self._room = int(cache * 1e9)  # bytes that the cache may still take
        self._cache: dict[Path, Tensor] = {}
        self._records: dict[str, list[Record]] = {}
        self.clipped = 0  # boxes that reached out of their picture

    # ------------------------------------------------------------------------------------------------ reading

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        """The records of each split, and the classes in order where the source says so. Puts the files that decide
        the data into `self._paths`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """
        Raises:
            DataError: annotations that cannot be used, files that are not there, classes that do not agree.
        """
        self.clipped, self._rows = 0, {}
        declared: list[str] | None
        if self.source == "toy":
            self._records, declared = self._toy(), list(self.toy)
        else:
            self._records, declared = self.read()
        if self.train_on == "trainval":
            self._records["train"] = self._records["train"] + self._records.pop("valid", [])
        self.splits = tuple(self._records)
        known = self._labels
        if declared and self.classes and declared != self.classes:
            raise DataError(disagreement("data.classes", self.classes, "the data", declared))
        declared = self.classes or declared
        if declared and len(set(declared)) != len(declared):
            raise DataError(f"data.source={self.source}: two classes have the same name among {', '.join(declared)}")
        if declared and known and declared != known:
            raise DataError(disagreement("the weights", known, "the data", declared))
        self.refuse_empty(self._records)
        seen = {split: sorted({n for r in records for n in r.names}) for split, records in self._records.items()}
        self._labels = known or declared or seen["train"]
        if not known and not seen["train"]:
            raise DataError(
                f"data.source={self.source}: no boxes in the training pictures, so there is nothing to learn"
            )
        for split, names in seen.items():
            if not set(names) <= set(self._labels):
                named = "data.classes" if self.classes else "the data's list" if declared else "train"
                have = "the weights" if known else named
                raise DataError(disagreement(have, self._labels, split, names))
        number = {name: i for i, name in enumerate(self._labels, 1)}
        for split, records in self._records.items():
            for record in records:
                record.labels = np.array([number[name] for name in record.names], np.int64)
            if self.masks and (without := [r for r in records if r.masks is None]):
                raise DataError(f"data.masks=true, but there are no masks for {without[0].name} (data: {self.source})")
            absent = [str(r.path) for r in records if r.path and not r.path.is_file()]
            if absent:
                shown = "\n  ".join(absent[:10])
                raise DataError(
                    f"{split}: {len(absent)} of {len(records)} annotated pictures are not there:\n  {shown}"
                )
        for split, records in self._records.items():
            if self.bad_rows.on_bad_row == "skip":
                records = self._records[split] = [r for r in records if self._readable(r)]
            sample = partial(self._training if split == "train" else self._evaluation, records)
            self._rows[split] = SampleRows(len(records), sample, self._collate, mix(self.seed))
        self.refuse_empty(self._rows)

    def checked(
        self, where: str | Path, line: int, box: Sequence[float], height: int, width: int
    ) -> tuple[float, float, float, float] | None:
        """A box [x1, y1, x2, y2] cut to its picture (and counted then), or None for a bad one, which `where` and
        `line` name."""
        x1, y1, x2, y2 = box
        if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
            self.bad_rows.add(where, line, f"the box {[round(v, 2) for v in box]} has no area")
            return None
        found = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if found[2] <= found[0] or found[3] <= found[1]:
            shown = [round(v, 2) for v in box]
            self.bad_rows.add(where, line, f"the box {shown} lies outside its picture, {width} x {height}")
            return None
        self.clipped += found != tuple(box)
        return found

    def describe(self) -> dict[str, Any]:
        """Reads every picture. Sizes are those of boxes as a detector sees them: the square root of the area."""
        facts: dict[str, Any] = {
            **super().describe(), "boxes cut at the border": self.clipped, "boxes": {},
            "pictures without boxes": {}, "crowd or difficult": {}, "box size, 5 25 50 75 95 %": {},
            "width / height, 5 25 50 75 95 %": {},
        }  # fmt: skip
        for split, records in self._records.items():
            for record in records if self.bad_rows.on_bad_row == "error" else []:
                self._image(record)
            names = [name for record in records for name in record.names]
            facts["boxes"][split] = {name: names.count(name) for name in self._labels}
            facts["pictures without boxes"][split] = sum(not record.names for record in records)
            facts["crowd or difficult"][split] = sum(int(record.crowd.sum()) for record in records)
            sizes, shapes = [np.zeros(0)], [np.zeros(0)]
            for record in records:
                height, width = self._target_size(record.height, record.width)
                w, h = (record.boxes[:, 2:] - record.boxes[:, :2]).T * [
                    [width / record.width],
                    [height / record.height],
                ]
                sizes.append(np.sqrt(w * h))
                shapes.append(w / h)
            for key, digits, values in (("box size", 1, sizes), ("width / height", 2, shapes)):
                found = np.concatenate(values)
                quantiles = (
                    np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95]).round(digits).tolist() if len(found) else []
                )
                facts[f"{key}, 5 25 50 75 95 %"][split] = quantiles
        return facts

    def _readable(self, record: Record) -> bool:
        try:
            self._image(record)
        except DataError as error:
            self.bad_rows.add(record.name, 1, str(error).removeprefix(f"{record.name}: "))
            return False
        return True

    def _image(self, record: Record) -> Tensor:
        """[3, H, W] uint8, from the cache if it is there."""
        if record.path is None:
            assert record.pixels is not None
            return torch.from_numpy(record.pixels).permute(2, 0, 1)
        if (held := self._cache.get(record.path)) is not None:
            return held
        image = read_image(record.path)
        if image.shape[1:] != (record.height, record.width):
            turned = " (perhaps turned by its EXIF)" if image.shape[1:] == (record.width, record.height) else ""
            raise DataError(
                f"{record.path}: the picture is {image.shape[2]} x {image.shape[1]} pixels{turned}, its annotation "
                f"says {record.width} x {record.height}"
            )
        if image.numel() <= self._room:
            self._room -= image.numel()
            self._cache[record.path] = image
        return image

    # ------------------------------------------------------------------------------------------------ training

    def _scene(self, record: Record) -> Scene:
        """What is trained on: all but crowd boxes."""
        chosen = ~record.crowd
        boxes, labels = torch.from_numpy(record.boxes[chosen]), torch.from_numpy(record.labels[chosen])
        masks = None
        if self.masks:
            assert record.masks is not None
            masks = decode_masks(
                [m for m, c in zip(record.masks, chosen, strict=True) if c], record.height, record.width
            )
        return scene(self._image(record), boxes, labels, masks)

    def _training(self, records: list[Record], row: int) -> dict[str, Any]:
        draw = torch.randint(1 << 62, ())
        found = self._scene(records[row])
        if self.mosaic and torch.rand(()) < self.mosaic:
            others = torch.randint(len(records), (3,)).tolist()
            parts = [found, *(self._scene(records[other]) for other in others)]
            found = mosaic([self._resized(part) for part in parts], self.size)
        found = self._zoom_out(found)
        # without boxes, the search for a part that overlaps one would try all it can, and find none
        if len(found["boxes"]) and torch.rand(()) < self._iou_crop_odds:
            found = self._valid(self._iou_crop(found))
        found = self._flips(found)
        if self.turns:
            found = quarter_turns(found, int(torch.randint(4, ())))
        low, high = self.jitter
        found = self._resized(found, low + (high - low) * float(torch.rand(())) if high > low else low)
        height, width = found["image"].shape[1:]
        if self.resize != "fit" and max(height, width) > self.size:
            room = torch.tensor([max(0, height - self.size), max(0, width - self.size)])
            top, left = (torch.rand(2) * (room + 1)).long().tolist()
            found = crop(found, top, left, min(height, self.size), min(width, self.size))
        if self._colours:
            found = self._colours(found)
        found = self._valid(found)
        return {"draw": draw, **found, **self._as_truth(found, row)}

    def _as_truth(self, found: Scene, row: int) -> dict[str, Any]:
        """What is measured of a changed picture, where a run is tried out on what it trains on: itself."""
        height, width = found["image"].shape[1:]
        truth: dict[str, Any] = {
            "scale": torch.ones(2),
            "original": torch.tensor([height, width]),
            "image_id": torch.tensor(row),
            "true_boxes": found["boxes"],
            "true_labels": found["labels"],
            "crowd": torch.zeros(len(found["labels"]), dtype=torch.bool),
        }
        if self.masks:
            truth["true_masks"] = encode_masks(found["masks"].numpy())
        return truth

    @staticmethod
    def _valid(found: Scene) -> Scene:
        """Without the boxes that have become narrower than a pixel."""
        found["boxes"] = v2.functional.clamp_bounding_boxes(found["boxes"])
        x1, y1, x2, y2 = found["boxes"].as_subclass(Tensor).unbind(1)
        return kept(found, (x2 - x1 >= 1) & (y2 - y1 >= 1))

    def _target_size(self, height: int, width: int, factor: float = 1.0) -> list[int]:
        if self.resize == "stretch":
            return [max(1, round(self.size * factor))] * 2
        if self.resize == "letterbox":
            scale = self.size * factor / max(height, width)
        else:
            scale = min(self.size * factor / min(height, width), self.max_size / max(height, width))
        return [max(1, round(height * scale)), max(1, round(width * scale))]

    def _resized(self, found: Scene, factor: float = 1.0) -> Scene:
        height, width = found["image"].shape[1:]
        size = self._target_size(height, width, factor)
        if size == [height, width]:
            return found
        resized = {**found, "boxes": v2.functional.resize(found["boxes"], size)}
        resized["image"] = v2.functional.resize(found["image"], size, antialias=True)
        if "masks" in found:
            resized["masks"] = tv_tensors.Mask(resized_masks(found["masks"].as_subclass(Tensor), size))
        return resized

    # ------------------------------------------------------------------------------------------------ evaluation

    def _input(self, image: Tensor) -> dict[str, Any]:
        """What `predict` needs of a picture [3, H, W] uint8."""
        height, width = image.shape[1:]
        size = self._target_size(height, width)
        return {
            "image": v2.functional.resize(image, size, antialias=True) if size != [height, width] else image,
            "scale": torch.tensor([size[0] / height, size[1] / width]),
            "original": torch.tensor([height, width]),
        }

    def _evaluation(self, records: list[Record], row: int) -> dict[str, Any]:
        record = records[row]
        found = self._input(self._image(record))
        boxes, labels = torch.from_numpy(record.boxes), torch.from_numpy(record.labels)
        crowd = torch.from_numpy(record.crowd)
        rest: dict[str, Any] = {"true_masks": record.masks} if self.masks else {}
        return {
            **found,
            "boxes": boxes[~crowd] * found["scale"].flip(0).repeat(2),
            "labels": labels[~crowd],
            "image_id": torch.tensor(row),
            "true_boxes": boxes,
            "true_labels": labels,
            "crowd": crowd,
            **rest,
        }

    def _collate(self, samples: list[dict[str, Any]]) -> Batch:
        sizes = torch.tensor([sample["image"].shape[1:] for sample in samples])
        if self.resize == "fit":
            height, width = (-(-int(side) // STRIDE) * STRIDE for side in sizes.amax(0))
        else:
            height = width = self.size
        batch: Batch = {"image": torch.zeros(len(samples), 3, height, width), "size": sizes}
        for image, sample in zip(batch["image"], samples, strict=True):
            h, w = sample["image"].shape[1:]
            normalise(sample["image"].as_subclass(Tensor), self.mean, self.deviation, out=image[:, :h, :w])
        for name in samples[0].keys() - {"image"}:
            values = [sample[name] for sample in samples]
            if name == "masks":
                most = max(1, max(map(len, values)))
                batch[name] = torch.zeros(len(samples), most, height, width, dtype=torch.uint8)
                for target, value in zip(batch[name], values, strict=True):
                    target[: len(value), : value.shape[1], : value.shape[2]] = value
            elif name in ("boxes", "labels", "true_boxes", "true_labels", "crowd"):
                batch[name] = padded([value.as_subclass(Tensor) for value in values])
            elif name == "true_masks":
                batch[name] = values
            else:
                batch[name] = torch.stack(values)
        return batch

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """What `picture_of` takes: the path of an image, an image as text, a picture of Pillow's, or pixels; also as
        {"image": ...}."""
        return self._collate([self._input(pixels_of(picture_of(raw)))])

    @staticmethod
    def _text(record: Record) -> str:
        """A generated picture as text."""
        from PIL import Image

        assert record.pixels is not None
        return as_text(Image.fromarray(record.pixels))

    def examples(self) -> Sequence[Any]:
        """Generated pictures as text: there are no files to name where only weights are."""
        return [self._text(record) for record in self._drawn(3, 3)]

    # ------------------------------------------------------------------------------------------------ pictures

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The boxes of `answer["objects"]` with their names and scores, a colour for each class, and their masks."""
        return drawn(pixels_of(picture_of(raw)), answer["objects"], self._labels)

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        record = self._records[split][row]
        objects: list[dict[str, Any]] = []
        for i, (name, box) in enumerate(zip(record.names, record.boxes.tolist(), strict=True)):
            objects.append({"label": name, "box": box})
            if record.crowd[i]:
                objects[-1]["crowd"] = True
            if self.masks and record.masks:
                run = record.masks[i]
                objects[-1]["mask"] = {"size": run["size"], "counts": run["counts"].decode("ascii")}
        return (str(record.path) if record.path else self._text(record)), {"objects": objects}

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, list[Record]]:
        counts = {"train": 64, "valid": 16, "test": 16}
        return {split: self._drawn(n, stream) for stream, (split, n) in enumerate(counts.items())}

    def _drawn(self, count: int, stream: int) -> list[Record]:
        """Generated pictures a little larger than a detector sees them, 4 to 3 in shape."""
        height, width = self.size, self.size * 4 // 3
        records = []
        for number in range(count):
            pixels, boxes, names, masks = draw(self.toy, height, width, mix(stream, number))
            runs = encode_masks(masks) if self.masks else None
            records.append(
                Record(None, height, width, boxes, names, np.zeros(len(names), np.bool_), runs, pixels=pixels)
            )
        return records


def disagreement(one: str, ours: Sequence[str], other: str, theirs: Sequence[str]) -> str:
    """What to say where the classes of two parties do not agree: a table of both."""
    both = list(zip_longest(ours, theirs, fillvalue="-"))[:100]
    rows = [("number", one, other), *((i, *names) for i, names in enumerate(both, 1))]
    return f"the classes of {one} and of {other} do not agree\n{text_table(rows)}"


_COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075",
)  # fmt: skip


def drawn(image: Tensor, objects: Sequence[dict[str, Any]], labels: Sequence[str]) -> Image.Image:
    """A picture [3, H, W] uint8 with objects on it, as `Detection.render` gives them."""
    from PIL import Image
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    number = {name: i for i, name in enumerate(labels)}
    colours = [_COLOURS[number.get(found["label"], 0) % len(_COLOURS)] for found in objects]
    if objects and all("mask" in found for found in objects):
        runs = [{**found["mask"], "counts": found["mask"]["counts"].encode("ascii")} for found in objects]
        masks = decode_masks(runs, image.shape[1], image.shape[2])
        image = draw_segmentation_masks(image, masks.bool(), alpha=0.4, colors=colours)
    if objects:
        names = [f"{f['label']} {f['score']:.2f}" if "score" in f else f["label"] for f in objects]
        boxes = torch.tensor([found["box"] for found in objects])
        side = min(image.shape[1:])
        image = draw_bounding_boxes(
            image,
            boxes,
            names,
            colours,
            width=max(1, round(side / 240)),
            font=font_file(),
            font_size=max(10, round(side / 32)),
            label_colors="white",
            label_background_colors=colours,
            fill_labels=True,
        )
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def padded(values: list[Tensor]) -> Tensor:
    """[g_i, ...] each -> [B, G, ...] with G the largest g, at least 1; filled up with 0."""
    most = max(1, *(len(value) for value in values))
    whole = values[0].new_zeros((len(values), most, *values[0].shape[1:]))
    for target, value in zip(whole, values, strict=True):
        target[: len(value)] = value
    return whole


def encode_masks(masks: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """[G, H, W] uint8 -> COCO's run lengths, one a mask."""
    from pycocotools import mask as coco

    return [coco.encode(np.asfortranarray(mask)) for mask in masks]


def decode_masks(runs: list[dict[str, Any]], height: int, width: int) -> Tensor:
    """COCO's run lengths -> [G, H, W] uint8."""
    from pycocotools import mask as coco

    if not runs:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(coco.decode(runs).transpose(2, 0, 1)))
