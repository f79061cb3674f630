"""Metrics of vision."""

from __future__ import annotations

from paddlecv.metrics.confusion import ConfusionMatrix
from paddlecv.metrics.detection import DetectionAP

__all__ = ["ConfusionMatrix", "DetectionAP"]
