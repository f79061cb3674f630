"""Metrics of language."""

from __future__ import annotations

from paddlenlp.metrics.binary import BinaryF1
from paddlenlp.metrics.bleu import Bleu, ChrF
from paddlenlp.metrics.macro_f1 import MacroF1
from paddlenlp.metrics.perplexity import Perplexity
from paddlenlp.metrics.ranking import GroupRanking

__all__ = ["BinaryF1", "Bleu", "ChrF", "GroupRanking", "MacroF1", "Perplexity"]
