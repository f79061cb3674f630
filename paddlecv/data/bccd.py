"""BCCD: blood cells under the microscope, with boxes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from paddlecore.sources import File, Source, unpacked
from paddlecv.data.detection import Record
from paddlecv.data.shapes import Shape
from paddlecv.data.voc import VOCData

SOURCE = Source(
    name="BCCD",
    folder="cv/bccd",
    files=(File("bccd.tar.gz", "c1c5aafb11c59c42bbcbef0338bf80d4bf75c6b0c8fe7a8f909c42195402eb1f", 7_382_999),),
    licence="MIT",
    homepage="https://github.com/Shenggan/BCCD_Dataset",
    manual=(
        "Clone the homepage's repository and check out commit d272fb14cdff6e473fafeeeba32aba5f560e9e43.\n"
        "Use it as it is: data.source=<clone>/BCCD. It holds the same pictures, boxes and lists."
    ),
)


class BCCDData(VOCData):
    """364 micrographs of 640 x 480 pixels with 4888 boxes of three classes of blood cells: red (RBC), white (WBC) and
    platelets. The publishers' split: 205 to train, 87 for validation, 72 to test.

    Two boxes without area (in BloodImage_00338 and _00343) are left out. Crowded red cells are not all annotated, so
    precision is a little better than measured.

    `source`: auto = bccd.tar.gz under PADDLE_DATA (cv/bccd); the folder BCCD of the publishers' repository; a folder of
    own pictures in VOC's layout, whose classes may be others; or toy = generated cells. See `VOCData` and
    `DetectionData` for options and the batch.
    """

    toy: ClassVar[dict[str, Shape]] = {
        "RBC": Shape("disc", (222, 150, 150), 0.17, 0.25),
        "WBC": Shape("disc", (120, 80, 160), 0.32, 0.48),
        "Platelets": Shape("disc", (150, 90, 170), 0.07, 0.11),
    }
    known_empty: ClassVar[frozenset[str]] = frozenset({"BloodImage_00338", "BloodImage_00343"})

    def read(self) -> tuple[dict[str, list[Record]], list[str] | None]:
        folder = unpacked(SOURCE, "bccd.tar.gz") if self.source == "auto" else Path(self.source)
        records, declared = self.read_folder(folder)
        cells = {name for part in records.values() for record in part for name in record.names} <= self.toy.keys()
        return records, declared or (list(self.toy) if cells else None)
