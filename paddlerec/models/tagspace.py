"""TagSpace: a document and its tags as points of one space.

Weston, Chopra, Adams, 2014, "#TagSpace: Semantic Embeddings from Hashtags", EMNLP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable


class TagSpace(nn.Module):
    """Score of each tag for a document: f(w, t) = <e_conv(w), e_lt(t)> (section 3).

    e_conv: word vectors; a convolution of `width` words with `hidden` filters, zero vectors beyond both ends; tanh; the
    maximum of each filter over the document; tanh; a linear layer to `dim`. e_lt is a table of tag vectors. Places of
    padding take no part in the maximum, so scores do not depend on how far a batch is padded; the scores of a document
    without any word are those of the bias of the linear layer.

    Args:
        vocab_size: words, padding included.
        num_classes: tags, C.
        word_dim: width of a word vector.
        hidden: filters of the convolution, H.
        width: words that a filter sees, K; odd.
        dim: width of the common space.
        dropout: probability that one of the `hidden` features is dropped (none in the paper).
        score: `dot`, the paper's; or `cosine` of the two vectors.
        init_std: of the initial word vectors.
        pad_id: fills up short documents.

    Shapes: tokens [B, T] int64, padded on the right -> scores [B, C].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        word_dim: int = 100,
        hidden: int = 1000,
        width: int = 5,
        dim: int = 64,
        dropout: float = 0.0,
        score: str = "dot",
        init_std: float = 0.1,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if score not in ("dot", "cosine"):
            raise ValueError(f"score must be dot or cosine, got {score!r}")
        if width % 2 == 0:
            raise ValueError(f"width must be odd, so that a window has a middle; got {width}")
        self.score, self.pad_id = score, pad_id
        self.words = RowTable(vocab_size, word_dim, init_std=init_std)
        self.convolution = nn.Conv1d(word_dim, hidden, width, padding=width // 2)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, dim)
        self.tags = nn.Parameter(torch.randn(num_classes, dim) / dim**0.5)

    def encode(self, tokens: Tensor) -> Tensor:
        """Documents as points of the common space: [B, T] -> [B, dim]."""
        inside = tokens != self.pad_id  # [B, T]
        words = self.words(tokens) * inside.unsqueeze(2)  # [B, T, word_dim]
        places = self.convolution(words.transpose(1, 2))  # [B, H, T]
        # tanh rises everywhere: that of the maximum is the maximum of tanh, at a fraction of the work
        most = places.masked_fill(~inside.unsqueeze(1), -torch.inf).amax(2)  # [B, H]
        most = torch.where(inside.any(1, keepdim=True), most, 0.0)
        return self.linear(self.dropout(most.tanh().tanh()))

    def forward(self, tokens: Tensor) -> Tensor:
        documents = self.encode(tokens)
        tags: Tensor = self.tags
        if self.score == "cosine":
            documents, tags = nn.functional.normalize(documents, dim=1), nn.functional.normalize(tags, dim=1)
        return documents @ tags.T
