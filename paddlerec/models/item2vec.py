"""Item2Vec: word2vec where a user's items are the sentence.

Mikolov, Sutskever, Chen, Corrado, Dean, 2013, "Distributed Representations of Words and Phrases and their
Compositionality", NeurIPS (word2vec, skip-gram with negative sampling); Barkan, Koenigstein, 2016, "Item2Vec: Neural
Item Embedding for Collaborative Filtering", MLSP.
"""

from __future__ import annotations

from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.history import mean_of_history


class Item2Vec(nn.Module):
    """score(context c, item i) = <in_c, out_i>, where any other item of the same user is a context.

    The order of a user's items does not matter (Item2Vec, section 3: the window is the whole set). As word2vec, items
    are the words and users the windows. With `task.loss=sgns` and `data.train_history=1` each pair of a step is one
    context and one item, skip-gram; with more, the context is the mean of several items, as in word2vec's CBOW and as
    in evaluation.

    A user is the mean of the `in` vectors of their history; with an empty one all scores are 0. The user's own id is
    not looked at.

    Args:
        num_items: items, 0 = padding.
        dim: width of a vector.
        init_std: standard deviation of the initial vectors.
        tied: one table for both sides, scored by the cosine of mean and item.

    Shapes: see the methods. Ids are int64, vectors float32.
    """

    reads_histories = True  # users are known by them, so data without are refused

    def __init__(self, *, num_items: int, dim: int = 64, init_std: float = 0.01, tied: bool = False) -> None:
        super().__init__()
        self.contexts = RowTable(num_items, dim, init_std=init_std)
        self.items = self.contexts if tied else RowTable(num_items, dim, init_std=init_std)
        self.tied = tied

    def forward(self, user: Tensor, items: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of contexts [B, T] and of items [M], for training: [B, dim], [M, dim]."""
        return self.encode(user, history), self._scaled(self.items(items))

    def encode(self, user: Tensor, history: Tensor) -> Tensor:
        """[B], [B, T] -> [B, dim]."""
        return self._scaled(mean_of_history(self.contexts, history))

    def item_vectors(self) -> Tensor:
        """[num_items, dim], row 0 included."""
        return self._scaled(self.items.weight)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1) if self.tied else vectors
