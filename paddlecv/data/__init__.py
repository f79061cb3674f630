"""Data sets of vision, and own images."""

from __future__ import annotations

from paddlecv.data.image_folder import ImageFolderData
from paddlecv.data.mnist import MNISTData

__all__ = ["ImageFolderData", "MNISTData"]
