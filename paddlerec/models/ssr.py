"""SSR, sequence semantic retrieval: histories read at several rates, and items, in one space.

Song, Elkahky, He, 2016, "Multi-Rate Deep Learning for Temporal Recommendation", SIGIR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.sequence import last_state


class SSR(nn.Module):
    """Cosine of a user's vector and an item's, each the result of a network of its own (section 2, figure 2).

    The user's network has a long-term part, which knows no order, and temporal parts, which read the history at
    different rates; one layer merges them (MR-TDSSM). Here the long-term part is a layer over the mean of all items'
    vectors, the fast part a GRU over the items, and each slow part a GRU over the means of `rate` items that follow
    each other. (The paper's long-term input are features of the user, its rates days and weeks, its cells LSTMs;
    sessions have neither users nor days. GRUs are what the model of this name in PaddleRec has.) The item's network is
    one layer over its vector.

    A score is `scale` times the cosine: the smoothing factor of the softmax in DSSM (Huang et al., 2013, CIKM, eq. 5).

    An empty history is a history of one item 0.

    Args:
        num_items: rows of the item table, row 0 (padding, unknown) included.
        dim: width of vectors and states.
        rates: items in a step of each slow part.
        dropout: probability that a value of an item's vector is dropped where a history is read.
        scale: of the cosine.

    Shapes of `encode`: history [B, T] int64, right-padded with 0 -> [B, dim].
    """

    def __init__(
        self,
        *,
        num_items: int,
        dim: int = 100,
        rates: list[int] | tuple[int, ...] = (3,),
        dropout: float = 0.2,
        scale: float = 16.0,
    ) -> None:
        super().__init__()
        if any(rate < 2 for rate in rates):
            raise ValueError(f"rates must be 2 or more (the fast part has 1), got {list(rates)}")
        self.rates, self.scale = [1, *rates], scale
        self.items = RowTable(num_items, dim, init_std=dim**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.long_term = nn.Linear(dim, dim)
        self.temporal = nn.ModuleList(nn.GRU(dim, dim, batch_first=True) for _ in self.rates)
        self.user = nn.Linear((1 + len(self.rates)) * dim, dim)
        self.item = nn.Linear(dim, dim)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[N, dim] of length 1, row 0 included; or those of `ids` [...] alone: [..., dim]."""
        rows = self.items.weight if ids is None else self.items(ids)
        return nn.functional.normalize(torch.tanh(self.item(rows)).float(), dim=-1)

    def encode(self, history: Tensor) -> Tensor:
        length = (history > 0).sum(1).clamp(min=1)  # [B]
        vectors = self.dropout(self.items(history))  # [B, T, dim]
        parts = [torch.tanh(self.long_term(_means(vectors, length, history.shape[1])[:, 0]))]
        for rate, gru in zip(self.rates, self.temporal, strict=True):
            read = _means(vectors, length, rate)  # [B, ceil(T / rate), dim]
            steps = (length + rate - 1) // rate
            assert isinstance(gru, nn.GRU)
            parts.append(last_state(gru, read, steps))  # [B, dim]
        user = torch.tanh(self.user(torch.cat(parts, 1)))
        return self.scale * nn.functional.normalize(user.float())


def _means(vectors: Tensor, length: Tensor, rate: int) -> Tensor:
    """Means over each `rate` places that follow each other, the last ones over what there is: [B, T, d], [B] number of
    places that count -> [B, ceil(T / rate), d]; beyond the last, 0."""
    if rate == 1:
        return vectors
    width = vectors.shape[1]
    real = torch.arange(width, device=length.device) < length[:, None]  # [B, T]
    pad = -width % rate
    total = nn.functional.pad(vectors * real.unsqueeze(2), (0, 0, 0, pad)).unflatten(1, (-1, rate)).sum(2)
    count = nn.functional.pad(real, (0, pad)).unflatten(1, (-1, rate)).sum(2)
    return total / count.clamp(min=1).unsqueeze(2)
