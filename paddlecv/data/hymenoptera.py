"""Ants and bees: the 397 photographs on which fine-tuning is often shown."""

from __future__ import annotations

from typing import Any

from paddlecore.sources import File, Source, locate, unpacked
from paddlecv.data.image_folder import Classes, ImageFolderData, class_images, held_out

SOURCE = Source(
    name="Hymenoptera",
    folder="cv/hymenoptera",
    files=(File("hymenoptera.tar", "4fceef4359d349f6badb101bb69f03fe90fef22bc885e3511248e9d0c521bdd3", 7_854_080),),
    licence="none is stated; the photographs are of ImageNet",
    homepage="https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html",
    manual="Unpack the tutorial's hymenoptera_data.zip, call its val test, and name the folder: data.source=<folder>.\n"
    "(The archive has these photographs with short sides of at most 256 pixels, as {train,val}/<class>/<image>.)",
)


class HymenopteraData(ImageFolderData):
    """397 photographs of ants and bees, most of them in ImageNet: 244 for training, 153 for testing.

    Those for testing are what the tutorial calls val: scores are reported on them, so they may choose nothing.

    `source`: auto = the files under PADDLE_DATA (cv/hymenoptera); all else, and batches, as for `ImageFolderData`.

    Args:
        holdout: every so-manyth training image of a class is for validation; 0 = settings are chosen, train on all.
        **options: see `ImageFolderData`.
    """

    def __init__(self, *, holdout: int = 0, **options: Any) -> None:
        super().__init__(holdout=holdout, **options)

    def find(self) -> dict[str, Classes]:
        if self.source != "auto":
            return super().find()
        self._paths = [locate(SOURCE) / SOURCE.files[0].name]
        found = class_images(unpacked(SOURCE, SOURCE.files[0].name), 0)
        return held_out({"train": found["train"], "test": found["valid"]}, self.holdout)
