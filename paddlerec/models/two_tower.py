"""Two towers: one network for the user, one for the item, that meet in an inner product.

Huang, He, Gao, Deng, Acero, Heck, 2013, "Learning Deep Structured Semantic Models for Web Search using Clickthrough
Data", CIKM (DSSM); for recommendation with sampled softmax: Yi et al., 2019, "Sampling-Bias-Corrected Neural Modeling
for Large Corpus Item Recommendations", RecSys; and with a history instead of a user id: Covington, Adams, Sargin,
2016, "Deep Neural Networks for YouTube Recommendations", RecSys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.history import mean_of_history
from paddlerec.layers.mlp import mlp


class TwoTower(nn.Module):
    """score(u, i) = cosine of (user tower, item tower), as in DSSM (eq. 4); the temperature belongs to the loss.

    With `item_bias`, plus a number of the item's own (Koren, Bell, Volinsky, 2009, "Matrix Factorization Techniques for
    Recommender Systems", eq. 3): how popular it is then need not be told by the direction of its vector. It is one more
    column of the vectors, beside which the users' have a 1, so the score stays an inner product.

    The user tower takes the mean vector of the user's history, plus a vector of the user's own where `user_ids`; the
    item tower takes the item's vector. History and item share their table. On top of each stands a network of its own
    where `hidden` is not empty: its layers with ReLU, then a linear one back to `dim`.

    An unknown user (0) is their history alone; with an empty one, all such users have one vector.

    Args:
        num_users: users, 0 = unknown.
        num_items: items, 0 = padding.
        dim: width of a vector.
        hidden: widths of the hidden layers of both towers; empty = no network.
        user_ids: give each user a vector; without, nothing grows with the number of users.
        init_std: standard deviation of the initial vectors.
        normalise: scale both vectors to length 1.
        item_bias: see above; vectors then have dim + 1 columns.

    Shapes: see the methods. Ids are int64, vectors float32.
    """

    reads_histories = True  # users are known by them, so data without are refused

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        dim: int = 64,
        hidden: Sequence[int] = (),
        user_ids: bool = True,
        init_std: float = 0.01,
        normalise: bool = True,
        item_bias: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.items = RowTable(num_items, dim, init_std=init_std)
        self.users = RowTable(num_users, dim, init_std=init_std) if user_ids else None
        self.user_tower = self._tower(dim, hidden) if hidden else None
        self.item_tower = self._tower(dim, hidden) if hidden else None
        self.bias = RowTable(num_items, 1, init_std=0.0) if item_bias else None

    @staticmethod
    def _tower(dim: int, hidden: Sequence[int]) -> nn.Sequential:
        return nn.Sequential(mlp([dim, *hidden]), nn.Linear(hidden[-1], dim))

    def forward(self, user: Tensor, items: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of users [B] with histories [B, T] and of items [M], for training: [B, d], [M, d]; d is dim, or
        dim + 1 with `item_bias`."""
        bias = None if self.bias is None else self.bias(items)
        return self.encode(user, history), self._item(self.items(items), bias)

    def encode(self, user: Tensor, history: Tensor) -> Tensor:
        """[B], [B, T] -> [B, d]."""
        vectors = mean_of_history(self.items, history)
        if self.users is not None:
            vectors = vectors + self.users(user) * (user > 0).unsqueeze(1)  # row 0 is never trained
        vectors = self._scaled(vectors if self.user_tower is None else self.user_tower(vectors))
        return vectors if self.bias is None else torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1)

    def item_vectors(self) -> Tensor:
        """[num_items, d], row 0 included."""
        return self._item(self.items.weight, None if self.bias is None else self.bias.weight)

    def _item(self, vectors: Tensor, bias: Tensor | None) -> Tensor:
        vectors = self._scaled(vectors if self.item_tower is None else self.item_tower(vectors))
        return vectors if bias is None else torch.cat([vectors, bias], 1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1) if self.normalise else vectors
