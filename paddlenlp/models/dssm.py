"""DSSM: a query and a document as vectors of one space, from bags of letter trigrams.

Huang, He, Gao, Deng, Acero, Heck, 2013, "Learning Deep Structured Semantic Models for Web Search using Clickthrough
Data", CIKM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlenlp.layers import word_vectors


class DSSM(nn.Module):
    """gamma times the cosine of two texts (eq. 4, and gamma of eq. 5), each a tower over its bag of terms (eq. 3).

    A text is the count vector of its terms: letter trigrams (word hashing, section 3.2), or words or Chinese characters
    where the tokens are those. The first layer's product with that vector is the sum of its columns for the terms of
    the text. All layers end in tanh, and both texts go through the same ones. The training criterion, a softmax over
    the right document and sampled wrong ones (eq. 5, 6), is `paddlenlp.tasks.Matching` with loss=softmax.

    Args:
        vocab_size: terms, padding included.
        hidden: widths of the layers; the last one is the space's (the paper: 300, 300, 128).
        gamma: factor of the cosine.
        dropout: probability that an input of the second or a later layer is dropped (not in the paper).
        pad_id: term that fills up; it counts nothing.

    Shapes: query [N, T] or [N, T, L] int64, document [N, U] or [N, U, L] int64, L the terms of a word -> score [N].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden: Sequence[int] = (300, 300, 128),
        gamma: float = 10.0,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must have the width of one layer at least")
        self.gamma = gamma
        self.terms = word_vectors(vocab_size, hidden[0], pad_id, 0.2)
        self.bias = nn.Parameter(torch.zeros(hidden[0]))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(hidden, hidden[1:], strict=False))
        self.dropout = nn.Dropout(dropout)

    def embed(self, tokens: Tensor) -> Tensor:
        """A text's vector, [N, hidden[-1]]."""
        table = self.terms
        bag = nn.functional.embedding_bag(tokens.flatten(1), table.weight, mode="sum", padding_idx=table.padding_idx)
        text = (bag + self.bias).tanh()
        for layer in self.layers:
            text = layer(self.dropout(text)).tanh()
        return text

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        return self.gamma * nn.functional.cosine_similarity(self.embed(query), self.embed(document), dim=1)
