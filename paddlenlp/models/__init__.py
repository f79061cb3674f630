"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlenlp.models.senta import SentaBiLSTM, SentaBOW, SentaCNN, SentaGRU, SentaLSTM
from paddlenlp.models.textcnn import TextCNN
from paddlenlp.models.transformer import Transformer

__all__ = ["SentaBOW", "SentaBiLSTM", "SentaCNN", "SentaGRU", "SentaLSTM", "TextCNN", "Transformer"]
