"""Text classification: which one class does this text belong to?"""

from __future__ import annotations

from paddlecore.task import Classification


class TextClassification(Classification):
    """Cross-entropy of one label a text: tokens [B, T] int64, padded on the right; label [B] int64."""

    input = "tokens"
