"""Penn-Fudan: pedestrians with boxes and masks, and own data with a picture of numbers for each picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from paddlecore.errors import DataError
from paddlecore.sources import File, Source, unpacked
from paddlecv.data.detection import DetectionData, Record, encode_masks
from paddlecv.data.images import images_by_name, opened
from paddlecv.data.labelled import split_lists
from paddlecv.data.segmentation import MASK_FORMATS, lossy
from paddlecv.data.shapes import Shape, box_of

SOURCE = Source(
    name="Penn-Fudan pedestrians",
    folder="cv/pennfudan",
    files=(File("pennfudan.tar.gz", "505bdd0c400168eccc74fcf07e39104851dfc54017b912f366b87c83470f1fa7", 8_188_970),),
    licence="copyright of its authors, no terms are published with it",
    homepage="https://www.cis.upenn.edu/~jshi/ped_html/",
    manual=(
        "Get PennFudanPed.zip from the homepage and unpack it.\n"
        "Use it as it is: data.source=<folder>/PennFudanPed. Its pictures are PNG rather than JPEG here."
    ),
)
_TEST, _PERIOD = (0, 3, 7, 10, 14), 17  # places in the sorted names that are for testing: both halves of the set


class PennFudanData(DetectionData):
    """170 street scenes with 423 pedestrians, boxes and masks (Wang, Shi, Song, Shen, 2007, "Object Detection Combining
    Recognition and Segmentation", ACCV). There is no official split: by name, of each 17 pictures those at the places
    0, 3, 7, 10 and 14 are for testing (50); of the others, each sixth is for validation (20), the rest to train (100).

    `source`: auto = pennfudan.tar.gz under PADDLE_DATA (cv/pennfudan); toy = generated; or a folder with images/<name>
    and masks/<name>_mask.png (or PNGImages and PedMasks), in which pixel value 0 is background and k the k-th object,
    all of one class; boxes are drawn around them. With train.txt, valid.txt (or val.txt) and test.txt in the folder
    (names, one a line), those are the splits; otherwise as above.

    Args:
        label: the class's name.
        **common: see `DetectionData`.
    """

    toy: ClassVar[dict[str, Shape]] = {"pedestrian": Shape("triangle", (60, 80, 200), 0.3, 0.7)}

    def __init__(self, *, label: str = "pedestrian", **common: Any) -> None:
        super().__init__(**common)
        self.label = label

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        folder = unpacked(SOURCE, "pennfudan.tar.gz") if self.source == "auto" else Path(self.source)
        places = [folder / name for name in ("images", "PNGImages") if (folder / name).is_dir()]
        masks = [folder / name for name in ("masks", "PedMasks") if (folder / name).is_dir()]
        if not places or not masks:
            raise DataError(f"data.source={folder} must hold the folders images and masks (or PNGImages and PedMasks)")
        self._paths = [places[0], masks[0]]
        images = images_by_name(places[0], self.bad_rows)
        lists = split_lists(folder)
        if lists and "train" not in lists:
            raise DataError(f"{folder} has lists of names, but no train.txt")
        splits = lists if "train" in lists else held_out(sorted(images), _TEST, _PERIOD, 6)
        records = {}
        for split, names in splits.items():
            if absent := [name for name in names if name not in images]:
                raise DataError(f"{folder}: {split} names {absent[0]}, but {places[0]} has no such picture")
            records[split] = [self._record(images[name], masks[0] / f"{name}_mask.png") for name in names]
        return records, [self.label]

    def _record(self, path: Path, mask: Path) -> Record:
        with opened(mask) as file:
            if file.format not in MASK_FORMATS:
                raise DataError(lossy(mask, file.format))
            numbers = np.array(file)
        if numbers.ndim != 2 or numbers.dtype.kind == "f":
            shown = f"this one has {numbers.dtype} of the shape {numbers.shape}"
            raise DataError(f"{mask}: a mask has one whole number a pixel, {shown}")
        masks = [np.asarray(numbers == k, np.uint8) for k in np.unique(numbers) if k]
        boxes = np.array([box_of(m) for m in masks], np.float32).reshape(-1, 4)
        runs = encode_masks(np.array(masks)) if self.masks else None
        names = [self.label] * len(masks)
        height, width = numbers.shape
        return Record(path, height, width, boxes, names, np.zeros(len(masks), np.bool_), runs)


def held_out(names: list[str], test: tuple[int, ...], period: int, valid_every: int) -> dict[str, list[str]]:
    """The splits of a data set that comes without: of each `period` names those at the places `test` are for testing,
    of the others each `valid_every`-th is for validation."""
    rest = [name for i, name in enumerate(names) if i % period not in test]
    return {
        "train": [name for i, name in enumerate(rest) if (i + 1) % valid_every],
        "valid": rest[valid_every - 1 :: valid_every],
        "test": [name for i, name in enumerate(names) if i % period in test],
    }
