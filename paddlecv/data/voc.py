"""Boxes in PASCAL VOC's layout: one XML file a picture, lists of names for the splits."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from paddlecore.errors import DataError
from paddlecv.data.detection import DetectionData, Record
from paddlecv.data.images import images_by_name
from paddlecv.data.labelled import read_lines, split_lists


class VOCData(DetectionData):
    """Own data in PASCAL VOC's layout (Everingham et al., 2010, "The PASCAL Visual Object Classes Challenge").

    `source` is a folder with Annotations/<name>.xml, JPEGImages/<name>.<ending> and the lists ImageSets/Main/train.txt,
    val.txt (or valid.txt), optionally test.txt, one name a line. The lists may also lie in the folder itself, and the
    folders may be called annotations and images. toy = generated. The classes are those of `classes`, of classes.txt in
    the folder (one name a line, in the order of their numbers), or all that the training pictures have, by alphabet.

    VOC counts pixels from 1 and includes the last one, so a box is (xmin - 1, ymin - 1, xmax, ymax) here. Objects that
    are marked `difficult` are neither trained on nor counted as hits or misses.

    See `DetectionData` for options and the batch.
    """

    known_empty: ClassVar[frozenset[str]] = frozenset()
    """Annotations of a published data set in which a box without area is known and left out."""

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.unlisted: list[str] = []  # annotations that are in no list

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        if self.source == "auto":
            raise DataError("data.source: name the folder with Annotations, JPEGImages and ImageSets, or toy")
        return self.read_folder(Path(self.source))

    def read_folder(
        self, folder: Path, merge: str | None = None, splits: dict[str, list[str]] | None = None
    ) -> tuple[dict[str, list[Record]], list[str] | None]:
        """The records of a folder in this layout.

        Args:
            merge: all objects are of this one class.
            splits: names of each, where the folder has no lists.

        Raises:
            DataError: what is missing, or wrong in a file, by name and line.
        """
        annotations = annotations_of(folder)
        place = _first(folder, "JPEGImages", "images")
        images = images_by_name(place, self.bad_rows)
        lists = folder / "ImageSets" / "Main"
        lists = lists if lists.is_dir() else folder
        named = splits or split_lists(lists)
        if "train" not in named:
            raise DataError(f"{lists} has no train.txt")
        self._paths = [folder]
        records = {
            split: [
                self._record(annotations / f"{name}.xml", images.get(name, place / f"{name}.jpg"), merge)
                for name in names
            ]
            for split, names in named.items()
        }
        listed = {name for names in named.values() for name in names}
        self.unlisted = sorted(path.stem for path in annotations.glob("*.xml") if path.stem not in listed)
        declared = [merge] if merge else read_lines(folder / "classes.txt")
        return records, declared

    def _record(self, path: Path, image: Path, merge: str | None) -> Record:
        root, lines = _parsed(path)
        height, width = (_number(path, 1, root, f"size/{side}") for side in ("height", "width"))
        if not all(1 <= side < math.inf for side in (height, width)):
            raise DataError(f"{path}: the picture's size is {width:g} x {height:g}")
        boxes, names, difficult = [], [], []
        for line, item in zip(lines, root.iter("object"), strict=False):
            name = (item.findtext("name") or "").strip()
            if not name:
                raise DataError(f"{path}:{line}: an object without a name")
            x1, y1, x2, y2 = (_number(path, line, item, f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax"))
            if x2 <= x1 or y2 <= y1:  # as it stands in the file; one pixel less on the left would give it an area
                if path.stem in self.known_empty:
                    continue
                self.bad_rows.add(path, line, f"the box {x1:g} {y1:g} {x2:g} {y2:g} of {name!r} has no area")
                continue
            # some tools count from 0; that is no reason to call it a box that reaches out
            box = self.checked(path, line, (x1 - (x1 > 0), y1 - (y1 > 0), x2, y2), int(height), int(width))
            if box is not None:
                boxes.append(box)
                names.append(merge or name)
                difficult.append((item.findtext("difficult") or "0").strip() == "1")
        return Record(
            image, int(height), int(width), np.array(boxes, np.float32).reshape(-1, 4), names, np.array(difficult, bool)
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "annotations in no list": len(self.unlisted), "first of them": self.unlisted[:5]}


def annotations_of(folder: Path) -> Path:
    """Where a folder in this layout has its annotations.

    Raises:
        DataError: there is no such folder, or none in it; names what was looked for.
    """
    if not folder.is_dir():
        raise DataError(f"data.source={folder}: there is no such folder")
    return _first(folder, "Annotations", "annotations")


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataError(
        f"{folder} has no {' or '.join(names)}, as VOC's layout has; other layouts are read by "
        "data._target_=paddlecv.data.CocoData and paddlecv.data.PennFudanData"
    )


def _parsed(path: Path) -> tuple[ElementTree.Element, Iterable[int]]:
    """An annotation, and the line of each of its objects."""
    try:
        content = path.read_bytes()
        told = re.match(rb"""\s*<\?xml[^>]*?encoding=["']([\w.-]+)""", content)
        # a text that is not UTF-8 says what it is, or starts with the mark of UTF-16
        marked = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        text = content.decode("utf-16" if marked else told[1].decode() if told else "utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file, but a list names it") from None
    except (OSError, UnicodeDecodeError, LookupError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if "<!ENTITY" in text:
        raise DataError(f"{path}: an annotation that defines entities is refused")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: the XML is damaged or cut off ({error})") from None
    return root, [text.count("\n", 0, found.start()) + 1 for found in re.finditer(r"<object[\s>]", text)]


def _number(path: Path, line: int, item: ElementTree.Element, name: str) -> float:
    text = item.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{path}:{line}: {name} must be a number, found {text!r}") from None
