"""LightGCN: embeddings smoothed over the graph of users and items, and nothing else.

He, Deng, Wang, Li, Zhang, Wang, 2020, "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LightGCN(nn.Module):
    """E = 1 / (K + 1) (E0 + S E0 + S^2 E0 + ... + S^K E0) (eq. 8), score(u, i) = <E_u, E_i> (eq. 5).

    S is the adjacency of users and items, an edge of u and i weighing 1 / sqrt(deg u deg i) (eq. 3).

    The graph is given by `set_graph` and is no part of the weights. What E is at the time is saved beside E0, as the
    buffer `final`, zeros at the start: a model that was loaded without its graph recommends by that. In evaluation mode
    E is made once.

    Row u of the table is user u, row num_users + i item i. An unknown user (0) gets the mean of the item vectors of
    their history, as MF gives it.

    Args:
        num_users: users, 0 = unknown.
        num_items: items, 0 = padding.
        dim: width of a vector.
        layers: K, how far the vectors travel; 0 = matrix factorisation.
        init_std: standard deviation of E0 at the start.
        normalise: score by the cosine.
        rank_normalised: where `normalise`, rank by the cosine as well; false = train the cosine but rank by the inner
            product, since the graph makes the vectors of popular items long (Wu et al., 2022, "On the Effectiveness of
            Sampled Softmax Loss for Item Recommendation"). That goes with `task.log_q=0`.

    Shapes: see the methods. Ids are int64, vectors float32.
    """

    final: Tensor

    def __init__(
        self, *, num_users: int, num_items: int, dim: int = 64, layers: int = 3, init_std: float = 0.1,
        normalise: bool = False, rank_normalised: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if layers < 0:
            raise ValueError(f"layers must be at least 0, got {layers}")
        self.num_users, self.layers = num_users, layers
        self.normalise, self.rank_normalised = normalise, rank_normalised
        self.table = nn.Parameter(torch.empty(num_users + num_items, dim).normal_(0.0, init_std))  # E0
        self.register_buffer("final", torch.zeros_like(self.table))
        self._graph: tuple[Tensor, Tensor, Tensor] | None = None
        self._fresh = False

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    def set_graph(self, user: Tensor, item: Tensor) -> None:
        """The training pairs, [n] int64 each, every pair once."""
        rows = len(self.table)
        one, other = torch.cat([user, item + self.num_users]), torch.cat([item + self.num_users, user])
        order = torch.sort(one * rows + other).indices  # neighbours in order: they are read from memory that way
        one, other = one[order], other[order]
        degree = torch.bincount(one, minlength=rows)
        scale = degree.clamp(min=1).double().rsqrt()
        weight = (scale[one] * scale[other]).to(self.table.dtype)
        self._graph = (other, degree.cumsum(0) - degree, weight)
        self._fresh = False

    def train(self, mode: bool = True) -> LightGCN:
        self._fresh = False
        return super().train(mode)

    def vectors(self) -> Tensor:
        """[num_users + num_items, dim] E, not normalised."""
        if self._graph is None and self.training:
            raise RuntimeError("LightGCN needs the graph to train: call set_graph(user, item) first")
        if self._graph is not None and (self.training or torch.is_grad_enabled()):
            return _Propagate.apply(self.table, *self._graph, self.layers)
        if not self._fresh:
            self._refresh()
        return self.final

    @torch.no_grad()
    def _refresh(self) -> None:
        if self._graph is not None:
            self.final.copy_(propagate(self.table, *self._graph, self.layers))
        self._fresh = not self.training

    def _save_to_state_dict(self, *args: Any) -> None:
        self._refresh()
        super()._save_to_state_dict(*args)

    def forward(self, user: Tensor, items: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of known users [B] and of items [M], for training: [B, dim], [M, dim]."""
        vectors = self.vectors()
        # one gather, so that backward writes one gradient of the table's size
        found = nn.functional.embedding(torch.cat([user, items + self.num_users]), vectors)
        if self.normalise:
            found = nn.functional.normalize(found, dim=1)
        query, item = found.split([len(user), len(items)])
        return query, item

    def encode(self, user: Tensor, history: Tensor | None = None) -> Tensor:
        """Vectors of users [B], who may be unknown, with their histories [B, T]: [B, dim]."""
        vectors = self.vectors()
        found = vectors[user]
        unknown = (user == 0).unsqueeze(1)
        if history is None:
            return self._ranked(found.masked_fill(unknown, 0.0))
        items = vectors[self.num_users :]
        folded = nn.functional.embedding_bag(history, items, mode="mean", padding_idx=0)
        return self._ranked(found.where(~unknown, folded))

    def item_vectors(self) -> Tensor:
        """[num_items, dim], row 0 included."""
        return self._ranked(self.vectors()[self.num_users :])

    def penalty(self, user: Tensor, items: Tensor) -> Tensor:
        """[] sum of squares of E0 of these users [B] and items [M] (eq. 15)."""
        return self.table[torch.cat([user, items + self.num_users])].square().sum()

    def _ranked(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1) if self.normalise and self.rank_normalised else vectors


def propagate(table: Tensor, neighbours: Tensor, starts: Tensor, weights: Tensor, layers: int) -> Tensor:
    """1 / (K + 1) (T + S T + ... + S^K T), by Horner's rule: T + S (T + S (T + ...)); nothing is kept on the way.

    S is symmetric, in rows: node n's `neighbours` and `weights`, [edges] each, begin at `starts` [nodes]. A product
    with it is a weighted bag of rows; on a CPU that is nine times as fast as the product of torch's sparse matrices.
    """
    total = table
    for _ in range(layers):
        total = table + nn.functional.embedding_bag(neighbours, total, starts, mode="sum", per_sample_weights=weights)
    return total / (layers + 1)


class _Propagate(torch.autograd.Function):
    """`propagate` is linear in the table and its own transpose, so its gradient is itself."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, neighbours: Tensor, starts: Tensor, weights: Tensor, layers: int) -> Tensor:
        ctx.save_for_backward(neighbours, starts, weights)
        ctx.layers = layers
        return propagate(table, neighbours, starts, weights, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        neighbours, starts, weights = ctx.saved_tensors
        return propagate(gradients[0].contiguous(), neighbours, starts, weights, ctx.layers), None, None, None, None
