"""TextCNN: convolutions over word vectors, and the maximum of each feature over the text.

Kim, 2014, "Convolutional Neural Networks for Sentence Classification", EMNLP. This is its CNN-rand: word vectors start
at random and are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlenlp.layers import text_lengths, word_vectors


class TextCNN(nn.Module):
    """Filters of several widths (eq. 2), max over time (section 2), dropout, and a linear layer of bounded weights.

    A filter sees every window that holds at least one token, with zero vectors beyond the ends of the text: n + width -
    1 windows for n tokens. So a text may be shorter than a filter; and windows of padding alone are left out of the
    maximum, so scores do not depend on how far a batch is padded.

    Section 2.1 bounds the norm of each class's weight vector by rescaling it after an update. Here the rescaled vector
    is what the forward pass uses, and the gradient is that of the rescaling: a step leaves no weight out of bounds
    either, and the module needs no help from the training loop.

    Args:
        vocab_size: tokens, padding included.
        num_classes: classes, C.
        dim: width of a word vector.
        widths: widths of the filters in tokens.
        maps: filters of each width.
        dropout: probability that one of the `maps` x widths features is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.
        max_norm: bound on the norm of a class's weight vector in the last layer; None = no bound.

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        dim: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        dropout: float = 0.5,
        pad_id: int = 0,
        max_norm: float | None = 3.0,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or (max_norm is not None and not max_norm > 0):
            raise ValueError(
                f"widths must be one or more, of at least 1, and max_norm above 0: got {list(widths)}, {max_norm}"
            )
        self.widths, self.pad_id, self.max_norm = tuple(widths), pad_id, max_norm
        self.embedding = word_vectors(vocab_size, dim, pad_id, 0.25)  # as the author's own program does
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, maps, width, padding=width - 1) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(maps * len(widths), num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = text_lengths(tokens, self.pad_id)[:, None]  # [B, 1]
        words = self.embedding(tokens).transpose(1, 2)  # [B, dim, T]
        features = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            scores = convolution(words)  # [B, maps, T + width - 1]
            windows = torch.arange(scores.shape[2], device=tokens.device)
            beyond = windows >= lengths + width - 1  # [B, T + width - 1]: windows of padding alone
            # the ReLU after the maximum is that before it, at a fraction of the work
            features.append(scores.masked_fill(beyond[:, None], -torch.inf).amax(2).relu())
        weight = self.output.weight
        if self.max_norm is not None:
            weight = weight.renorm(2, 0, self.max_norm)
        return nn.functional.linear(self.dropout(torch.cat(features, 1)), weight, self.output.bias)
