"""SASRec: self-attention over the items of a history.

Kang and McAuley, 2018, "Self-Attentive Sequential Recommendation", ICDM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlecore.dropout import Dropout
from paddlecore.linear import Linear
from paddlecore.sparse import RowTable


class SASRec(nn.Module):
    """Embeddings of items and places (eq. 1), blocks of attention and a point-wise network (eq. 2-5), and a score with
    the items' own embeddings (eq. 6).

    Around each of a block's two halves stands x + dropout(g(layer norm(x))) (section III-E); a last layer norm follows
    the blocks. The authors' code, which published scores are those of, adds g's result to the normalised input in place
    of the input, and drops weights of the attention in place of what it reads: `form="code"`. (It also takes keys and
    values of the input before its norm; here they are of the normalised one in either form.) In either, as in that
    code, item embeddings are multiplied by sqrt(dim) where they are read (not where they are scored with), the heads'
    results are not projected, and embeddings are dropped out too.

    Places count from the end: the paper pads on the left, so the latest item always stands at the last place. Each
    state depends on its item, those before it and how many come after it, but not on which these are; the padding on
    the right changes nothing.

    An empty history is a history of one item 0. Of one longer than `max_len` the latest items count.

    Args:
        num_items: rows of the item table, row 0 (padding, unknown) included.
        max_len: places, n.
        dim: width of a state, d.
        blocks: number of blocks.
        heads: of the attention; divides dim.
        dropout: probability that a value is dropped.
        form: of a block: `paper` or `code`, see above.

    Shapes: history [B, T] int64, right-padded with 0 -> states [B, T, dim], those of padding without meaning.
    """

    of_each_place = True  # so each place of a history can have a target of its own

    def __init__(
        self,
        *,
        num_items: int,
        max_len: int = 50,
        dim: int = 50,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.5,
        form: str = "paper",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} must divide dim={dim}")
        if form not in ("paper", "code"):
            raise ValueError(f"form must be paper or code, got {form!r}")
        self.max_len = max_len
        self.items = RowTable(num_items, dim, init_std=0.02)  # small: what a rare item starts with stays in its score
        self.places = nn.Embedding(max_len, dim)
        nn.init.normal_(self.places.weight, std=0.02)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, form) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, eps=1e-8)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[N, dim], row 0 included; or those of `ids` [...] alone: [..., dim]."""
        return self.items.weight if ids is None else self.items(ids)

    def forward(self, history: Tensor) -> Tensor:
        if history.shape[1] > self.max_len:
            raise ValueError(f"a training history has {history.shape[1]} items, more than max_len={self.max_len}")
        length = (history > 0).sum(1, keepdim=True)  # [B, 1]
        place = (self.max_len - length + torch.arange(history.shape[1], device=history.device)).clamp(
            max=self.max_len - 1
        )
        scale = self.items.dim**0.5
        x = self.dropout(self.items(history) * scale + self.places(place))  # [B, T, d]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def encode(self, history: Tensor) -> Tensor:
        """The state of each history's last item: [B, T] of any T -> [B, dim]."""
        history = latest(history, self.max_len)
        last = ((history > 0).sum(1) - 1).clamp(min=0)
        return self.forward(history)[torch.arange(len(history), device=history.device), last]


class Block(nn.Module):
    """x + dropout(attention(norm(x))), then the same with the point-wise network (eq. 2-5): [B, T, d] -> [B, T, d].

    In the form `code`, norm(x) stands instead of the first x as well, and dropout is within the attention.

    Attention is causal, and padding stands on the right, so no state of an item ever looks at padding.
    """

    def __init__(self, dim: int, heads: int, dropout: float, form: str) -> None:
        super().__init__()
        self.heads, self.code = heads, form == "code"
        self.attention_norm = nn.LayerNorm(dim, eps=1e-8)
        self.queries = Linear(dim, dim)
        self.keys = Linear(dim, dim, bias=False)  # it would add the same to all energies, which softmax takes away
        self.values = Linear(dim, dim)
        self.network_norm = nn.LayerNorm(dim, eps=1e-8)
        self.network = nn.Sequential(Linear(dim, dim), nn.ReLU(), Dropout(dropout), Linear(dim, dim), Dropout(dropout))
        self.dropout = Dropout(dropout)
        for part in (self.queries, self.keys, self.values, *self.network):
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        parts = (self.queries(normed), self.keys(normed), self.values(normed))
        queries, keys, values = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)  # [B, heads, T, ...]
        dropped = self.dropout.p if self.code and self.training else 0.0
        read = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, dropout_p=dropped)
        read = read.transpose(1, 2).flatten(2)
        if self.code:
            x = self.network_norm(normed + read)
            return x + self.network(x)
        x = x + self.dropout(read)
        return x + self.network(self.network_norm(x))


def latest(history: Tensor, count: int) -> Tensor:
    """The last `count` items of each history: [B, T] right-padded with 0 -> [B, at most count], the same."""
    if history.shape[1] <= count:
        return history
    start = ((history > 0).sum(1, keepdim=True) - count).clamp(min=0)  # [B, 1]
    return history.gather(1, start + torch.arange(count, device=history.device))
