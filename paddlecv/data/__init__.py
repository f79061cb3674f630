"""Data sets of vision, and own images."""

from __future__ import annotations

from paddlecv.data.bccd import BCCDData
from paddlecv.data.mnist import MNISTData
from paddlecv.data.voc import VOCData

__all__ = ["BCCDData", "MNISTData", "VOCData"]
