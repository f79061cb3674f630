"""Metrics of language."""

from __future__ import annotations

from paddlenlp.metrics.binary import BinaryF1
from paddlenlp.metrics.bleu import Bleu, ChrF
from paddlenlp.metrics.perplexity import Perplexity
from paddlenlp.metrics.ranking import GroupRanking

__all__ = ["BinaryF1", "Bleu", "ChrF", "GroupRanking", "Perplexity"]
