"""What each kind of vision problem optimises, measures and predicts."""

from __future__ import annotations

from paddlecv.tasks.classification import ImageClassification
from paddlecv.tasks.detection import Detection
from paddlecv.tasks.segmentation import Segmentation

__all__ = ["Detection", "ImageClassification", "Segmentation"]
