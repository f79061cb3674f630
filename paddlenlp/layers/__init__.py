"""Parts that several models share."""

from __future__ import annotations

from paddlenlp.layers.encoders import BagOfWords, Convolution, Recurrent, highest, text_lengths, word_vectors

__all__ = ["BagOfWords", "Convolution", "Recurrent", "highest", "text_lengths", "word_vectors"]
