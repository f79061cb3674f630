"""Data sets of language, and own text."""

from __future__ import annotations

from paddlenlp.data.sentence_classification import MRData, TextTableData

__all__ = ["MRData", "TextTableData"]
