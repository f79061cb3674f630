"""Metrics of vision."""

from __future__ import annotations

from paddlecv.metrics.detection import DetectionAP

__all__ = ["DetectionAP"]
