"""DIN: what a user did, weighed by what it has to do with the item at hand.

Zhou, Zhu, Song, Fan, Zhu, Ma, Yan, Jin, Li, Gai, 2018, "Deep Interest Network for Click-Through Rate Prediction", KDD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlecore.linear import Linear
from paddlerec.layers import Dice, FieldTable


class DIN(nn.Module):
    """logit = MLP [user(item); item], with user(item) = sum_j a(e_j, e_item) e_j over the history (eq. 3).

    An item is the embedding of its id and that of its category, side by side: e. The activation unit a is a small
    network over [e_j, e_item, e_j - e_item, e_j * e_item], with one linear output and no softmax, so that the strength
    of an interest is kept (section 4.3). It sees the places that hold an item only: padding changes neither the sum nor
    the statistics of Dice. An empty history gives user = 0, and item 0 is an item never seen, which does not count in a
    history.

    `pooling=softmax` takes the softmax of a over the history as weights, as the authors' program for the Amazon data
    does (with a divided by the root of e's width): it starts as the mean, which few data bear better. `pooling=mean` is
    that mean: the network without attention.

    Section 5.1's regulariser touches the rows of a batch only; that is `optim.tables_weight_decay` with
    `optim.tables_decay_rows=batch` (without the paper's division by an id's number of occurrences).

    Args:
        num_items: rows of the item table, 0 included.
        num_categories: the same of categories.
        dim: width of each embedding; e has 2 dim.
        attention: widths of the activation unit's layers.
        hidden: widths of the MLP's layers.
        pooling: attention (eq. 3), softmax or mean.
        init_std: of the embeddings.

    Shapes: history, history_category [B, T] int64, padded with 0; item, category [B] int64; places [n] int64, where in
    the flat [B * T] the history holds items (None = they are looked for, which waits for a GPU) -> logit [B].
    """

    def __init__(
        self,
        *,
        num_items: int,
        num_categories: int,
        dim: int = 16,
        attention: Sequence[int] = (36,),
        hidden: Sequence[int] = (200, 80),
        pooling: str = "attention",
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        if pooling not in ("attention", "softmax", "mean"):
            raise ValueError(f"pooling must be attention, softmax or mean, got {pooling!r}")
        self.fields = FieldTable([num_items, num_categories], dim, init_std=init_std)
        self.unit = _network([8 * dim, *attention]) if pooling != "mean" else None
        self.softmax = pooling == "softmax"
        self.mlp = _network([4 * dim, *hidden])

    def forward(
        self, history: Tensor, history_category: Tensor, item: Tensor, category: Tensor, places: Tensor | None = None
    ) -> Tensor:
        e_item = self.fields(torch.stack([item, category], 1)).flatten(1)  # [B, 2 dim]
        inside = history != 0  # [B, T]
        if places is None:
            places = inside.flatten().nonzero()[:, 0]
        row = places // history.shape[1]  # [n] the row of each place that holds an item
        ids = torch.stack([history.flatten()[places], history_category.flatten()[places]], 1)  # [n, 2]
        e = self.fields(ids).flatten(1)  # [n, 2 dim]
        if self.unit is not None:
            query = e_item[row]  # [n, 2 dim]
            weight = self.unit(torch.cat([e, query, e - query, e * query], 1))  # [n, 1]
            if self.softmax:
                score = weight.new_full((history.numel(),), -torch.inf).index_copy(0, places, weight.squeeze(1))
                weight = score.view_as(history).softmax(1).flatten()[places].unsqueeze(1)
        else:
            weight = (1.0 / inside.sum(1))[row].unsqueeze(1)
        user = torch.zeros_like(e_item).index_add(0, row, weight * e)  # [B, 2 dim]
        return self.mlp(torch.cat([user, e_item], 1)).squeeze(1)


def _network(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with Dice between them, and one linear output: [n, sizes[0]] -> [n, 1]."""
    layers: list[nn.Module] = []
    for wide, narrow in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [Linear(wide, narrow), Dice(narrow)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
