"""Image classification: which one class does this image show?"""

from __future__ import annotations

from paddlecore.task import Classification


class ImageClassification(Classification):
    """Cross-entropy of one label an image: image [B, channels, H, W] float32, label [B] int64."""

    input = "image"
