"""CDSSM: DSSM with a convolution over words, so that their order and neighbours count.

Shen, He, Gao, Deng, Mesnil, 2014, "A Latent Semantic Model with Convolutional-Pooling Structure for Information
Retrieval", CIKM (also "Learning Semantic Representations Using Convolutional Neural Networks for Web Search", WWW).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlenlp.layers import highest, text_lengths


class CDSSM(nn.Module):
    """gamma times the cosine of two texts (eq. 5), each read through windows of words.

    A word is the count vector of its letter trigrams; a window of 2 d + 1 words, centred at each word, is the
    concatenation of their vectors (section 3.2), zero beyond the ends. h_t = tanh(W_c l_t) (eq. 2), v = the maximum of
    each feature over the text (eq. 3), y = tanh(W_s v) (eq. 4). W_c is kept as a table of terms: what a term adds to
    h_t from each place in the window. Both texts go through the same layers; as in DSSM, layers have biases.

    Args:
        vocab_size: terms, padding included.
        maps: width of h_t and v (the paper: 300).
        dim: width of y (the paper: 128).
        width: words of a window, odd (the paper: 3).
        gamma: factor of the cosine.
        dropout: probability that a feature of v is dropped (not in the paper).
        pad_id: term that fills up; it counts nothing.

    Shapes: query [N, T] or [N, T, L] int64, document [N, U] or [N, U, L] int64, L the terms of a word -> score [N].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        maps: int = 300,
        dim: int = 128,
        width: int = 3,
        gamma: float = 10.0,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if width < 1 or width % 2 == 0:
            raise ValueError(f"width must be odd, since a window has a word in its middle; got {width}")
        self.width, self.maps, self.gamma, self.pad_id = width, maps, gamma, pad_id
        self.terms = nn.Embedding(vocab_size, width * maps, padding_idx=pad_id)
        self.bias = nn.Parameter(torch.zeros(maps))
        with torch.no_grad():
            # the word in the middle counts most at the start, so that equal words are near before anything is learned
            places = self.terms.weight.uniform_(-0.2, 0.2).view(vocab_size, width, maps)
            places[:, : width // 2] *= 0.25
            places[:, width // 2 + 1 :] *= 0.25
            self.terms.weight[pad_id] = 0.0
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(maps, dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """A text's vector, [N, dim]; one without words gives that of v = 0."""
        words = tokens if tokens.dim() == 3 else tokens[:, :, None]
        lengths = text_lengths((words != self.pad_id).any(2).long(), 0)  # [N]
        bags = words.flatten(0, 1)
        bags = nn.functional.embedding_bag(bags, self.terms.weight, mode="sum", padding_idx=self.pad_id)
        places = bags.view(*words.shape[:2], self.width, self.maps)  # [N, T, width, maps]
        side = self.width // 2
        padded = nn.functional.pad(places, (0, 0, 0, 0, side, side))  # [N, T + 2 side, width, maps]
        steps = words.shape[1]
        scores = sum(padded[:, k : k + steps, k] for k in range(self.width)) + self.bias  # [N, T, maps]
        text = highest(scores, lengths).tanh()  # [N, maps]; tanh never falls
        return self.output(self.dropout(text)).tanh()

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        return self.gamma * nn.functional.cosine_similarity(self.embed(query), self.embed(document), dim=1)
