"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlerec.models.deepfm import DeepFM
from paddlerec.models.lr import LR

__all__ = ["DeepFM", "LR"]
