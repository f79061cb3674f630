"""Faces with and without masks: photographs with boxes, as one class or as two."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from paddlecore.sources import File, Source, unpacked
from paddlecv.data.detection import Record
from paddlecv.data.pennfudan import held_out
from paddlecv.data.shapes import Shape
from paddlecv.data.voc import VOCData, annotations_of

SOURCE = Source(
    name="face masks",
    folder="cv/face_masks",
    files=(File("face_masks.tar", "c5ea8e5f37230e2fe4b48027da62c0ef1e485f06350f367bd62853d83a33712d", 3_328_000),),
    licence="GPL-3.0 (of the repository it is published in)",
    homepage="https://github.com/formatcom/tfm-mask-detect",
    manual=(
        "Clone the homepage's repository, commit 886e865161d6ef8a2a213ed8c747b8ae8a4faa12.\n"
        "Put the pictures of dataset/ called maksssksksss* into images/, their XML files into annotations/.\n"
        "Use that folder: data.source=<folder>."
    ),
)


class FaceMasksData(VOCData):
    """140 photographs with 162 faces, 110 of them with a mask; mostly one large face, small ones are not all annotated.

    There is no official split: by name, each fifth picture is for testing (28); of the others, each eighth is for
    validation (14), the rest to train (98).

    `source`: auto = face_masks.tar under PADDLE_DATA (cv/face_masks); a folder with images and annotations, or
    JPEGImages and Annotations; or toy = generated. See `VOCData` and `DetectionData` for options and the batch.

    Args:
        merge: all are of the one class `face`; otherwise the classes are with_mask and without_mask.
        **common: see `VOCData`.
    """

    toy: ClassVar[dict[str, Shape]] = {"face": Shape("disc", (226, 184, 150), 0.25, 0.6)}

    def __init__(self, *, merge: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.merge = merge
        if not merge:
            self.toy = {  # type: ignore[misc]
                "with_mask": Shape("square", (90, 150, 210), 0.25, 0.6),
                "without_mask": Shape("disc", (226, 184, 150), 0.25, 0.6),
            }

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        folder = unpacked(SOURCE, "face_masks.tar") if self.source == "auto" else Path(self.source)
        names = sorted(path.stem for path in annotations_of(folder).glob("*.xml"))
        records, _ = self.read_folder(folder, "face" if self.merge else None, held_out(names, (0,), 5, 8))
        return records, list(self.toy)
