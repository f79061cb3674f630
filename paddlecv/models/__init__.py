"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlecv.models.lenet import LeNet

__all__ = ["LeNet"]
