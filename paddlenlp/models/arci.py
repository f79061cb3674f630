"""ARC-I: two sentences, each through convolutions and pooling, compared by a multi-layer perceptron.

Hu, Lu, Li, Chen, 2014, "Convolutional Neural Network Architectures for Matching Natural Language Sentences", NIPS.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlenlp.layers import word_vectors


class ARCI(nn.Module):
    """A score of two sentences: convolutional sentence models (section 2), joined and put into an MLP (section 3.1).

    A layer of convolution is ReLU of filters over `width` neighbours, with a gate that gives zero where all of them are
    padding (eq. 2), followed by the maximum of every two neighbours (eq. 3). Sentences are cut or padded to fixed
    lengths, so that what is left after the last layer is flattened into the sentence's vector.

    The paper feeds word vectors trained on Wikipedia. Without such, word vectors hardly tell that a word of the
    question stands in the answer; `overlap` adds a trained vector to each word that the other sentence has too
    (Severyn and Moschitti, 2016, "Modeling Relational Information in Question-Answer Pairs with Convolutional Neural
    Networks"). The score has no bias: it would be the same for all that is ranked.

    Args:
        vocab_size: tokens, padding included.
        query_length: words of the first sentence.
        document_length: words of the second.
        dim: width of a word vector.
        maps: filters of each layer of convolution.
        width: neighbours that a filter sees, odd.
        hidden: width of the MLP's layer.
        overlap: tell the words that both sentences have.
        dropout: probability that an input of the MLP is dropped.
        pad_id: token that fills up.
        unknown_id: token that stands for all words without an id of their own: `overlap` does not take two of them for
            the same word. None = there is none.

    Shapes: query [N, T] int64, document [N, U] int64, padded on the right -> score [N].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        query_length: int,
        document_length: int,
        dim: int = 50,
        maps: Sequence[int] = (64, 64),
        width: int = 3,
        hidden: int = 64,
        overlap: bool = False,
        dropout: float = 0.2,
        pad_id: int = 0,
        unknown_id: int | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or width % 2 == 0:
            raise ValueError(f"width must be odd, got {width}")
        shortest = 2 ** len(maps)
        if not maps:
            raise ValueError("maps must have the filters of one layer at least")
        if min(query_length, document_length) < shortest:
            raise ValueError(
                f"{len(maps)} layers need sentences of at least {shortest} words, got query_length={query_length}, "
                f"document_length={document_length}"
            )
        self.query_length, self.document_length = query_length, document_length
        self.width, self.pad_id, self.unknown_id = width, pad_id, unknown_id
        self.embedding = word_vectors(vocab_size, dim, pad_id)
        self.overlap = nn.Parameter(torch.empty(dim).uniform_(-0.1, 0.1)) if overlap else None
        sizes = [dim, *maps]

        def tower() -> nn.ModuleList:
            pairs = zip(sizes, sizes[1:], strict=False)
            return nn.ModuleList(nn.Conv1d(a, b, width, padding=width // 2) for a, b in pairs)

        self.query_layers, self.document_layers = tower(), tower()
        left = query_length // shortest + document_length // shortest  # places of both after all pooling
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(left * maps[-1], hidden)
        self.output = nn.Linear(hidden, 1, bias=False)

    def _sentence(self, tokens: Tensor, other: Tensor, layers: nn.ModuleList) -> Tensor:
        there = tokens != self.pad_id  # [N, T]
        words = self.embedding(tokens)  # [N, T, dim]
        if self.overlap is not None:
            both = (tokens[:, :, None] == other[:, None, :]).any(2) & there
            if self.unknown_id is not None:
                both &= tokens != self.unknown_id
            words = words + both[:, :, None] * self.overlap
        x, there = words.transpose(1, 2), there.float()[:, None]  # [N, dim, T], [N, 1, T]
        for layer in layers:
            gate = nn.functional.max_pool1d(there, self.width, stride=1, padding=self.width // 2)
            x = nn.functional.max_pool1d(layer(x).relu() * gate, 2)  # [N, maps, T // 2]
            there = nn.functional.max_pool1d(gate, 2)
        return x.flatten(1)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        query, document = self._fitted(query, self.query_length), self._fitted(document, self.document_length)
        both = [
            self._sentence(query, document, self.query_layers),
            self._sentence(document, query, self.document_layers),
        ]
        hidden = self.hidden(self.dropout(torch.cat(both, 1))).tanh()
        return self.output(self.dropout(hidden)).squeeze(1)

    def _fitted(self, tokens: Tensor, length: int) -> Tensor:
        return nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=self.pad_id)  # negative: cuts
