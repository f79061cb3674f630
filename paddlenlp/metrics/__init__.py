"""Metrics of language."""

from __future__ import annotations

from paddlenlp.metrics.bleu import Bleu, ChrF
from paddlenlp.metrics.perplexity import Perplexity

__all__ = ["Bleu", "ChrF", "Perplexity"]
