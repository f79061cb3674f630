"""Multi-view SimNet: several views of a user and several of an item, mapped to one space.

Elkahky, Song, He, 2015, "A Multi-View Deep Learning Approach for Cross Domain User Modeling in Recommendation Systems",
WWW; with the bag-of-words, convolutional and recurrent encoders of SimNet for the single views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.sequence import SequenceEncoder


class Tower(nn.Module):
    """Several views of one thing -> a point of the common space.

    A view is a sequence of ids: it has an embedding table and an encoder of its own. The encoded views side by side go
    through tanh layers, as in DSSM.

    Shapes: {view: [..., T_view] int64, padded on the right with 0} -> [..., hidden[-1]].
    """

    def __init__(
        self, views: Mapping[str, int], encoders: Mapping[str, str], dim: int, hidden: Sequence[int], init_std: float
    ) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: RowTable(size, dim, init_std=init_std) for name, size in views.items()})
        self.encoders = nn.ModuleDict({name: SequenceEncoder(encoders.get(name, "bow"), dim) for name in views})
        sizes = [len(views) * dim, *hidden]
        layers = [(nn.Linear(a, b), nn.Tanh()) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        self.layers = nn.Sequential(*(part for pair in layers for part in pair))

    def forward(self, views: Mapping[str, Tensor]) -> Tensor:
        encoded = []
        for name, table in self.tables.items():
            ids = views[name]  # [..., T]
            flat = ids.reshape(-1, ids.shape[-1]) if ids.numel() else ids.new_zeros(ids.shape[:-1].numel(), 0)
            one = self.encoders[name](table(flat), flat != 0)  # [M, dim]
            encoded.append(one.reshape(*ids.shape[:-1], -1))
        return self.layers(torch.cat(encoded, -1))


class MultiViewSimNet(nn.Module):
    """Score = cosine of the user's and the item's point in the common space.

    The paper has one view of the user and one for each domain of items; here both sides may have several, as SimNet
    has them.

    Args:
        user_views: ids of each view of a user, 0 (padding, unknown) included, e.g. {"history": 3707, "profile": 31}.
        item_views: the same of an item.
        encoders: bow, cnn or gru for views by name; bow for those not named.
        dim: width of the embeddings and of an encoded view.
        hidden: widths of the layers to the common space, the same for both sides.
        init_std: of the embeddings.

    Shapes: user {view: [B, T] int64}, item {view: [B, C, T] int64}, padded on the right with 0 -> score [B, C].
    """

    def __init__(
        self,
        *,
        user_views: Mapping[str, int],
        item_views: Mapping[str, int],
        encoders: Mapping[str, str] | None = None,
        dim: int = 32,
        hidden: Sequence[int] = (64, 32),
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        encoders = dict(encoders or {})
        if unknown := [name for name in encoders if name not in {**user_views, **item_views}]:
            raise ValueError(f"encoders names {unknown[0]!r}; the views are {', '.join({**user_views, **item_views})}")
        if not hidden:
            raise ValueError("hidden needs a width: both sides meet in a space of the last layer's")
        self.user = Tower(user_views, encoders, dim, hidden, init_std)
        self.item = Tower(item_views, encoders, dim, hidden, init_std)

    def forward(self, user: Mapping[str, Tensor], item: Mapping[str, Tensor]) -> Tensor:
        return nn.functional.cosine_similarity(self.user(user).unsqueeze(1), self.item(item), dim=2)
