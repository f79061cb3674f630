"""What each kind of recommendation problem optimises, measures and predicts."""

from __future__ import annotations

from paddlerec.tasks.ctr import CTR

__all__ = ["CTR"]
