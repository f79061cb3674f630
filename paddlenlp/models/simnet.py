"""SimNet: two texts through one encoder, compared by their cosine or by a small network.

The networks of Baidu's SimNet, as its open code defines them (PaddlePaddle models repository, similarity_net; there is
no paper).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlenlp.layers import BagOfWords, Convolution, Recurrent, text_lengths, word_vectors


class SimNet(nn.Module):
    """A score of two texts: word vectors, an encoder, a linear layer; and on top a comparison.

    The encoders: bow = softsign of the sum of the word vectors; cnn = tanh filters over neighbours and their maximum;
    lstm, gru = the last state, or with pool=max the maximum of each feature over the states. Both texts go through the
    same layers. The heads: cosine = a trained scale times the cosine, which SimNet ranks pairs with; mlp = a tanh layer
    and a score over the two vectors, which it classifies pairs with (there: over the two side by side; here |u - v| and
    u * v stand beside them).

    Args:
        vocab_size: tokens, padding included.
        encoder: bow, cnn, lstm or gru.
        head: cosine or mlp.
        dim: width of a word vector.
        hidden: width of an encoder's output (filters, state; bow has `dim`).
        size: width of a text's vector, and of the mlp's layer.
        width: words that a filter of the cnn sees.
        pool: last or max, of lstm and gru.
        scale: of the cosine at the start; it is trained.
        bound: word vectors are drawn uniformly from [-bound, bound].
        dropout: probability that a value of a word vector is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.

    Shapes: query [N, T] int64, document [N, U] int64, padded on the right -> score [N].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        encoder: str = "bow",
        head: str = "cosine",
        dim: int = 128,
        hidden: int = 128,
        size: int = 128,
        width: int = 3,
        pool: str = "last",
        scale: float = 10.0,
        bound: float = 0.1,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if encoder not in ("bow", "cnn", "lstm", "gru") or head not in ("cosine", "mlp"):
            raise ValueError(f"encoder must be bow, cnn, lstm or gru, head cosine or mlp; got {encoder!r}, {head!r}")
        if pool not in ("last", "max"):
            raise ValueError(f"pool must be last or max, got {pool!r}")
        self.pad_id = pad_id
        self.embedding = word_vectors(vocab_size, dim, pad_id, bound)
        self.encoder: BagOfWords | Convolution | Recurrent
        if encoder == "bow":
            self.encoder = BagOfWords(dim=dim)
        elif encoder == "cnn":
            self.encoder = Convolution(dim=dim, maps=hidden, width=width)
        else:
            self.encoder = Recurrent(kind=encoder, dim=dim, hidden=hidden, pool=pool)
        self.is_bow = encoder == "bow"
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(self.encoder.size, size)
        if head == "cosine":
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        mlp = nn.Sequential(nn.Linear(4 * size, size), nn.Tanh(), nn.Linear(size, 1))
        self.compare = mlp if head == "mlp" else None

    def embed(self, tokens: Tensor) -> Tensor:
        """A text's vector, [N, size]."""
        text = self.encoder(self.dropout(self.embedding(tokens)), text_lengths(tokens, self.pad_id))
        return self.project(nn.functional.softsign(text) if self.is_bow else text)

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        u, v = self.embed(query), self.embed(document)
        if self.compare is not None:
            return self.compare(torch.cat([u, v, (u - v).abs(), u * v], 1)).squeeze(1)
        return self.scale * nn.functional.cosine_similarity(u, v, dim=1)
