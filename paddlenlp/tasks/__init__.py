"""What each kind of language problem optimises, measures and predicts."""

from __future__ import annotations

from paddlenlp.tasks.classification import TextClassification
from paddlenlp.tasks.language_model import LanguageModel
from paddlenlp.tasks.matching import Matching
from paddlenlp.tasks.translation import Translation

__all__ = ["LanguageModel", "Matching", "TextClassification", "Translation"]
