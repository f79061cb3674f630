"""word2vec: skip-gram with negative sampling.

Mikolov, Sutskever, Chen, Corrado, Dean, 2013, "Distributed Representations of Words and Phrases and their
Compositionality", NeurIPS, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paddlerec.models.item2vec import Item2Vec


class Word2Vec(Item2Vec):
    """`Item2Vec` whose items are words, ranked by how probable they are amid a context.

    It is trained as it says there: score(context c, word i) = <in_c, out_i>. With negatives drawn from q, the best
    possible score is log p(i | c) - log q(i) - log k (Levy, Goldberg, 2014, "Neural Word Embedding as Implicit Matrix
    Factorization", NeurIPS, section 3), by which rare words come first. Ranking adds `prior` times log q(i): with 1,
    words stand in order of p(i | c), of several contexts in that of the geometric mean; with 0, in that of the score.
    Where frequent words are left out at random, p is what is left of it, so q is divided by what stays of a word.

    Args:
        num_items: words, 0 = padding.
        log_noise: [num_items] log q of each word; for the padding, anything. None = unknown: rankings are by score.
        prior: weight of it in rankings; training is not changed.
        dim, init_std, tied: see `Item2Vec`.

    Shapes: see the methods. Ids are int64, vectors float32.
    """

    noise: Tensor

    def __init__(
        self,
        *,
        num_items: int,
        log_noise: Sequence[float] | None = None,
        prior: float = 1.0,
        dim: int = 100,
        init_std: float = 0.01,
        tied: bool = False,
    ) -> None:
        if log_noise is None:
            log_noise = [0.0] * num_items
        if len(log_noise) != num_items:
            raise ValueError(f"log_noise must have num_items={num_items} values, got {len(log_noise)}")
        super().__init__(num_items=num_items, dim=dim, init_std=init_std, tied=tied)
        self.prior = prior
        # it comes with the vocabulary, not with the weights
        self.register_buffer("noise", torch.tensor(log_noise, dtype=torch.float32), persistent=False)

    def item_bias(self) -> Tensor:
        """[num_items], row 0 included."""
        return self.prior * self.noise
