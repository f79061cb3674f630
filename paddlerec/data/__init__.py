"""Data sets of recommendation, and own tables."""

from __future__ import annotations

from paddlerec.data.ctr_toy import CtrToyData

__all__ = ["CtrToyData"]
