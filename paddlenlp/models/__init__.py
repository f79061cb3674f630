"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlenlp.models.textcnn import TextCNN

__all__ = ["TextCNN"]
