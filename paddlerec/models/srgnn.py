"""SR-GNN: a session as a graph of its items, read by a gated graph network.

Wu, Tang, Zhu, Wang, Xie, Tan, 2019, "Session-based Recommendation with Graph Neural Networks", AAAI.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from paddlecore.linear import Linear
from paddlecore.sparse import RowTable


class SRGNN(nn.Module):
    """Gated graph network over the session's different items (eq. 1-5), and soft attention with its last (eq. 6, 7).

    The nodes of a session are its different items; each click after another makes an edge, and an edge counts once
    however often it is taken. For node i, with the means over edges that come in and that go out,

        a_i = [mean of v_j W_in over j -> i, mean of v_j W_out over i -> j] + b        (eq. 1)
        v_i <- GRU(a_i, v_i)                                                           (eq. 2-5)

    A session's vector is W_3 [v_n; sum_j alpha_j v_j] (eq. 7) over its clicks j, the last of which is n, with
    alpha_j = q . sigmoid(W_1 v_n + W_2 v_j + c) (eq. 6), which is no softmax. Scores are products with the items' own
    embeddings (eq. 8).

    As in the authors' code, the gates have biases, W_in and W_out have a bias each, and all weights are drawn from
    U(-1 / sqrt(dim), 1 / sqrt(dim)). Sessions are not padded: the graphs of a batch are one graph without edges between
    them, so the cost follows the number of clicks.

    An empty history is a session of one click on item 0.

    Args:
        num_items: rows of the item table, row 0 (padding, unknown) included.
        dim: width of an item vector.
        steps: rounds of the graph network.

    Shapes of `encode`: history [B, T] int64, right-padded with 0 -> [B, dim].
    """

    def __init__(self, *, num_items: int, dim: int = 100, steps: int = 1) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self.steps = steps
        self.items = RowTable(num_items, dim)
        self.edges_in = Linear(dim, dim)  # its bias is that of eq. 1, added after the mean
        self.edges_out = Linear(dim, dim)
        self.cell = nn.GRUCell(2 * dim, dim)
        self.query = Linear(dim, dim)  # W_1
        self.key = Linear(dim, dim)  # W_2
        self.energy = nn.Linear(dim, 1, bias=False)  # q
        self.merge = Linear(2 * dim, dim)  # W_3
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[N, dim], row 0 included; or those of `ids` [...] alone: [..., dim]."""
        return self.items.weight if ids is None else self.items(ids)

    def encode(self, history: Tensor) -> Tensor:
        graph = session_graphs(history)
        h = self.items(graph.items)  # [M, dim]
        for _ in range(self.steps):
            sent = nn.functional.linear(h, self.edges_in.weight), nn.functional.linear(h, self.edges_out.weight)
            a_in = _mean_of(sent[0], graph.sources, graph.in_starts) + self.edges_in.bias
            a_out = _mean_of(sent[1], graph.targets, graph.out_starts) + self.edges_out.bias
            h = self.cell(torch.cat([a_in, a_out], 1), h)
        clicks = h[graph.nodes]  # [C, dim]
        last = clicks[graph.last]  # [B, dim]
        alpha = self.energy(torch.sigmoid(self.query(last)[graph.rows] + self.key(clicks)))  # [C, 1]
        summed = torch.zeros_like(last).index_add(0, graph.rows, (alpha * clicks).to(last.dtype))  # [B, dim]
        return self.merge(torch.cat([summed, last], 1))


class Graphs(NamedTuple):
    """The sessions of a batch as one graph of M nodes and E edges, and their C clicks; all int64."""

    items: Tensor  # [M] the item of each node
    rows: Tensor  # [C] the session of each click
    nodes: Tensor  # [C] its node
    last: Tensor  # [B] the last click of each session
    sources: Tensor  # [E] where the edges come from that go into node 0, node 1, ...
    in_starts: Tensor  # [M] where a node's edges begin in `sources`
    targets: Tensor  # [E] where the edges go to that leave node 0, node 1, ...
    out_starts: Tensor  # [M]


def session_graphs(history: Tensor) -> Graphs:
    """The graphs of `history` [B, T] int64, right-padded with 0; an empty row is a click on item 0."""
    real = history > 0
    real[:, 0] = True
    rows = real.nonzero()[:, 0]  # [C]
    last = real.sum(1).cumsum(0) - 1
    width = int(history.max()) + 1
    keys, nodes = torch.unique(rows * width + history[real], return_inverse=True)
    size = len(keys)
    follows = rows[1:] == rows[:-1]
    edges = torch.unique(nodes[:-1][follows] * size + nodes[1:][follows])  # in order of where they come from
    source, target = edges // size, edges % size
    by_target = torch.argsort(target, stable=True)
    return Graphs(
        keys % width, rows, nodes, last, source[by_target], _starts(target, size), target, _starts(source, size)
    )  # fmt: skip


def _starts(values: Tensor, size: int) -> Tensor:
    """Where 0, 1, ..., size - 1 begin among the sorted `values`."""
    counts = torch.bincount(values, minlength=size)
    return counts.cumsum(0) - counts


def _mean_of(vectors: Tensor, ids: Tensor, starts: Tensor) -> Tensor:
    """[M, d] the mean of `vectors`[ids[starts[m] : starts[m + 1]]] for each m; 0 where there are none."""
    if not len(ids):
        return torch.zeros_like(vectors)
    return nn.functional.embedding_bag(ids, vectors, starts, mode="mean")
