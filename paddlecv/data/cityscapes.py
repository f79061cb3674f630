"""Cityscapes: street scenes of 50 cities, 19 classes, in the folders in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlecv.data.segmentation import Pair, SegmentationData, table_of_ids

HOMEPAGE = "https://www.cityscapes-dataset.com/"
CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of these classes, in labelIds


class CityscapesData(SegmentationData):
    """3 475 finely labelled frames of 2048 x 1024 (Cordts et al., 2016, "The Cityscapes Dataset for Semantic Urban
    Scene Understanding", CVPR): 2 975 to train, 500 for validation, which is also what is reported, for the labels of
    the test split are not published. The 19 classes that are evaluated; all other ids are void.

    `source`: auto = cv/cityscapes under PADDLE_DATA; toy = generated; or a folder. It holds what the publisher's
    leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpack to: `leftImg8bit/<split>/<city>/*_leftImg8bit.png`
    and `gtFine/<split>/<city>/*_gtFine_labelIds.png`, with the splits train and val.

    Batch and memory: see `SegmentationData`.

    Args:
        count: read all masks at the start: minutes, for 3 475 of them.
        cache: keep decoded images in memory (in each worker): 8 MB each.
        **options: see `SegmentationData`.
    """

    splits = ("train", "valid")
    toy_classes = CLASSES

    def __init__(self, *, count: bool = False, cache: bool = False, **options: Any) -> None:
        super().__init__(count=count, cache=cache, **options)

    def find(self) -> tuple[dict[str, list[Pair]], list[str], np.ndarray]:
        root = data_root()
        folder = root / "cv/cityscapes" if root and self.source == "auto" else Path(self.source)
        if not (folder / "leftImg8bit").is_dir() or not (folder / "gtFine").is_dir():
            raise DataError(
                f"{folder} has no leftImg8bit and gtFine. Cityscapes may be had for research after registration: get\n"
                f"  leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from {HOMEPAGE}\n"
                "  and unpack both into this folder, or pass data.source=<folder>"
            )
        pairs = {split: self._pairs_of(folder, name) for split, name in (("train", "train"), ("valid", "val"))}
        known = dict.fromkeys(range(34), 255) | {number: i for i, number in enumerate(LABEL_IDS)}
        return pairs, list(CLASSES), table_of_ids(known, self.void)

    def _pairs_of(self, folder: Path, split: str) -> list[Pair]:
        images = sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        if not images:
            raise DataError(f"{folder / 'leftImg8bit' / split} has no <city>/*_leftImg8bit.png")
        pairs = []
        for image in images:
            name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
            mask = folder / "gtFine" / split / image.parent.name / name
            if mask.is_file():
                pairs.append((image, mask))
            else:
                self.bad_rows.add(image, 1, f"there is no mask {mask}")
        return pairs
