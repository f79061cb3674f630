"""Boxes and masks in COCO's layout: one JSON file a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from paddlecore.errors import DataError
from paddlecore.sources import SPLITS, only
from paddlecv.data.detection import DetectionData, Record, disagreement

_MOST_PIXELS = 178_956_970  # of a picture: Pillow opens no larger one, and masks of far larger ones crash pycocotools
_WRONG = (TypeError, KeyError, ValueError, OverflowError)  # what comes of an entry that is not as it should be


class CocoData(DetectionData):
    """Own data, or COCO itself, in COCO's layout (Lin et al., 2014, "Microsoft COCO", and cocodataset.org).

    `source` is a folder with a file for each split: train.json, valid.json (or val.json), optionally test.json, in it,
    or in annotations, also called instances_train.json or instances_train2017.json; or train/_annotations.coco.json.
    Pictures lie where `file_name` says, below the first of <split>, <split>2017, images/<split>, images/<split>2017,
    images, or the folder itself that has the first one. toy = generated.

    Classes are `categories` by rising id, and are numbered 1..C in that order whatever the ids are; all splits must
    have the same ids and names. A box is [x, y, width, height]; `iscrowd` boxes are neither trained on nor counted as
    hits or misses. Masks are polygons or run lengths. Bad rows are named by the annotation's id.

    See `DetectionData` for options and the batch.
    """

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        if self.source == "auto":
            raise DataError("data.source: name the folder with train.json, valid.json and the pictures, or toy")
        folder = Path(self.source)
        if not folder.is_dir():
            raise DataError(f"data.source={folder}: there is no such folder")
        files = {split: found for split in SPLITS if (found := _json_of(folder, split))}
        if "train" not in files:
            raise DataError(
                f"{folder} has no train.json, annotations/instances_train*.json, or train/_annotations...json; other "
                "layouts are read by data._target_=paddlecv.data.VOCData and paddlecv.data.PennFudanData"
            )
        self._paths = [folder]
        contents = {split: _parsed(path) for split, path in files.items()}
        classes = {split: _classes(files[split], content) for split, content in contents.items()}
        for split, theirs in classes.items():
            if theirs != classes["train"]:
                tables = [[f"{name} (id {i})" for i, name in sorted(c.items())] for c in (classes["train"], theirs)]
                raise DataError(disagreement(str(files["train"]), tables[0], str(files[split]), tables[1]))
        names = dict(sorted(classes["train"].items()))
        records = {split: self._read_split(folder, split, files[split], contents[split], names) for split in files}
        seen: dict[Path | None, str] = {}
        for split, pictures in records.items():
            for path in (picture.path for picture in pictures):
                if path in seen:
                    both = f"{files[seen[path]]} and in {files[split]}"
                    raise DataError(f"{path} is in {both}; a picture is in one split")
                seen[path] = split
        return records, list(names.values())

    def _read_split(
        self, folder: Path, split: str, path: Path, content: dict[str, Any], classes: dict[int, str]
    ) -> list[Record]:
        pictures: dict[int, Record] = {}
        rows: dict[int, list[tuple[tuple[float, ...], str, bool, dict[str, Any] | None]]] = {}
        place, listed = None, set()
        for number, image in enumerate(content["images"]):
            try:
                ident, name, height, width = int(image["id"]), image["file_name"], image["height"], image["width"]
                if not isinstance(name, str):
                    raise TypeError(f"file_name is {name!r}")
                if min(int(height), int(width)) < 1 or int(height) * int(width) > _MOST_PIXELS:
                    raise ValueError(f"its size is {width} x {height}")
            except _WRONG as error:
                raise DataError(f"{path}: images[{number}] needs id, file_name, height and width ({error})") from None
            if ident in pictures:
                raise DataError(f"{path}: two images have the id {ident}")
            if name in listed:
                raise DataError(f"{path}: two images are the file {name}, so none has all its boxes")
            listed.add(name)
            place = place or _place(folder, split, path, name)
            empty = np.zeros((0, 4), np.float32)
            pictures[ident] = Record(place / name, int(height), int(width), empty, [], np.zeros(0, np.bool_))
            rows[ident] = []
        for number, item in enumerate(content["annotations"]):
            which: Any = item.get("id", f"number {number}") if isinstance(item, dict) else f"number {number}"
            where = f"{path}, annotation"
            try:
                image_id = int(item["image_id"])  # as those of the images: some tools write numbers as text
                picture, label = pictures.get(image_id), classes.get(int(item["category_id"]))
                x, y, width, height = (float(v) for v in item["bbox"])
                crowd = bool(int(item.get("iscrowd") or 0))
            except _WRONG as error:
                message = f"needs image_id, category_id and bbox [x, y, width, height] ({error})"
                self.bad_rows.add(where, which, message)
                continue
            if picture is None or label is None:
                unknown = f"image_id {item['image_id']}" if picture is None else f"category_id {item['category_id']}"
                self.bad_rows.add(where, which, f"its {unknown} is not in the file")
                continue
            box = self.checked(where, which, (x, y, x + width, y + height), picture.height, picture.width)
            mask = self._mask(where, which, item.get("segmentation"), picture) if self.masks and box else None
            if box is not None and not (self.masks and mask is None):
                rows[image_id].append((box, label, crowd, mask))
        for ident, found in rows.items():
            picture = pictures[ident]
            picture.boxes = np.array([box for box, *_ in found], np.float32).reshape(-1, 4)
            picture.names = [name for _, name, *_ in found]
            picture.crowd = np.array([crowd for *_, crowd, _ in found], np.bool_)
            picture.masks = [mask for *_, mask in found if mask is not None] if self.masks else None
        return list(pictures.values())

    def _mask(self, where: str, ident: Any, given: Any, picture: Record) -> dict[str, Any] | None:
        """Polygons or run lengths as compressed run lengths; None for a bad one."""
        from pycocotools import mask as coco

        size = (picture.height, picture.width)
        try:
            if given is None:
                raise ValueError("there is none")
            if isinstance(given, list):
                if not given or any(len(polygon) < 6 or len(polygon) % 2 for polygon in given):
                    raise ValueError("a polygon needs three points or more, each two numbers")
                polygons = [[float(v) for v in polygon] for polygon in given]
                if not all(abs(v) <= 10 * max(size) for polygon in polygons for v in polygon):
                    raise ValueError("a point is not finite, or far outside")  # on the way there memory would end
                return coco.merge(coco.frPyObjects(polygons, *size))
            if tuple(given["size"]) != size:
                raise ValueError(f"its size {given['size']} is not that of the picture, {list(size)}")
            if isinstance(given["counts"], list):
                if min(given["counts"]) < 0 or sum(given["counts"]) != size[0] * size[1]:
                    raise ValueError("its run lengths do not add up to the picture")
                return coco.frPyObjects(given, *size)
            run = {"size": list(size), "counts": given["counts"].encode("ascii")}
            coco.decode(run)  # now, while it can be named
            return run
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            self.bad_rows.add(where, ident, f"its segmentation cannot be used ({error})")
            return None


def _json_of(folder: Path, split: str) -> Path | None:
    patterns = ("{}.json", "annotations/{}.json", "annotations/instances_{}.json", "annotations/instances_{}2017.json",
                "{}/_annotations.coco.json")  # fmt: skip
    places = [folder / pattern.format(name) for name in SPLITS[split] for pattern in patterns]
    return only(split, [path for path in places if path.is_file()])


def _place(folder: Path, split: str, path: Path, name: str) -> Path:
    """The folder that holds the picture `name`; if there is none, the likeliest."""
    places = [
        folder / base / f"{alias}{year}" for base in (".", "images") for alias in SPLITS[split] for year in ("", "2017")
    ]
    places += [folder / "images", folder, path.parent]
    return next((place for place in places if (place / name).is_file()), next(p for p in places if p.is_dir()))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors mark UTF-8
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: the JSON is damaged or cut off ({error})") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path}: a COCO file is an object with the lists images, annotations and categories; no {key} here"
            )
    return content


def _classes(path: Path, content: dict[str, Any]) -> dict[int, str]:
    try:
        found = [(int(c["id"]), str(c["name"])) for c in content["categories"]]
    except _WRONG as error:
        raise DataError(f"{path}: each of categories needs an id and a name ({error})") from None
    for kind, values in (("ids", [i for i, _ in found]), ("names", [name for _, name in found])):
        if len(set(values)) != len(values):
            raise DataError(f"{path}: two categories have the same {kind[:-1]} among {sorted(map(str, values))}")
    return dict(found)
