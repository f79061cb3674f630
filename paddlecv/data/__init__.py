"""Data sets of vision, and own images."""

from __future__ import annotations

from paddlecv.data.bccd import BCCDData
from paddlecv.data.camvid import CamVidData
from paddlecv.data.cifar10 import CIFAR10Data
from paddlecv.data.cityscapes import CityscapesData
from paddlecv.data.coco import CocoData
from paddlecv.data.face_masks import FaceMasksData
from paddlecv.data.hymenoptera import HymenopteraData
from paddlecv.data.image_folder import ImageFolderData
from paddlecv.data.mnist import MNISTData
from paddlecv.data.pennfudan import PennFudanData
from paddlecv.data.segmentation import SegmentationData
from paddlecv.data.voc import VOCData

__all__ = [
    "BCCDData",
    "CIFAR10Data",
    "CamVidData",
    "CityscapesData",
    "CocoData",
    "FaceMasksData",
    "HymenopteraData",
    "ImageFolderData",
    "MNISTData",
    "PennFudanData",
    "SegmentationData",
    "VOCData",
]
