"""The same items for everybody, the most popular first: the baseline of retrieval."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable


class Popularity(nn.Module):
    """score(u, i) = the share of all training pairs that are of item i.

    A model in closed form that the trainer finds in one step: the mean over all pairs of -score(item) has the gradient
    -(share of i) at item i, so one step of SGD with rate 1 on all pairs at once leads from zeros to the shares exactly
    (`task.loss=linear`, `data.batch_size` at least the number of pairs).

    Args:
        num_items: items, 0 = padding.

    Shapes: see the methods. Ids are int64, vectors float32 of width 1.
    """

    def __init__(self, *, num_items: int) -> None:
        super().__init__()
        self.shares = RowTable(num_items, 1, init_std=0.0)

    def forward(self, user: Tensor, items: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of users [B] and items [M]: [B, 1] ones, [M, 1]."""
        return self.encode(user), self.shares(items)

    def encode(self, user: Tensor, history: Tensor | None = None) -> Tensor:
        """[B] -> [B, 1] ones."""
        return torch.ones(len(user), 1, device=user.device)

    def item_vectors(self) -> Tensor:
        """[num_items, 1], row 0 included."""
        return self.shares.weight
