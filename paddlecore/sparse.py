"""Embedding tables whose gradient is (row ids, row gradients), and exact update rules for the rows that were touched.

A batch of 4096 rows with 26 fields touches at most 106 496 rows of a table. An ordinary gradient has the size of the table: at
10 M rows of 16 numbers it is 640 MB to fill and to sweep, every step. `RowTable` gathers rows as leaves of their own instead, so
what flows back is as large as the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowTable(nn.Module):
    """[rows, dim] embeddings, looked up by id.

    On its own it is an ordinary embedding with an ordinary gradient. After `adopt` (done by paddlecore.optim) lookups in training
    are remembered, and `take` gives their ids and gradients after backward; `weight.grad` is then not written.

    Args:
        rows: number of rows.
        dim: width of a row.
        init_std: standard deviation of the normal initialisation.
    """

    def __init__(self, rows: int, dim: int, *, init_std: float = 0.01) -> None:
        super().__init__()
        if rows < 1 or dim < 1:
            raise ValueError(f"a table needs at least one row and one column, got {rows} x {dim}")
        self.rows, self.dim = rows, dim
        self.weight = nn.Parameter(torch.empty(rows, dim).normal_(0.0, init_std))
        self.adopted = False
        self._lookups: list[tuple[Tensor, Tensor]] = []

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.dim}"

    def adopt(self) -> None:
        """From now on the engine updates this table, by rows."""
        self.adopted = True

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] int64 or int32 in 0..rows-1 -> [..., dim]."""
        if self.adopted and self.training and torch.is_grad_enabled() and self.weight.requires_grad:
            return self._remembered(ids)
        return gather(self.weight, ids)

    @torch.compiler.disable
    def _remembered(self, ids: Tensor) -> Tensor:
        rows = gather(self.weight.detach(), ids).requires_grad_()
        self._lookups.append((ids.reshape(-1), rows))
        return rows

    def take(self) -> tuple[Tensor, Tensor]:
        """Ids [n] int64 (with repeats) and gradients [n, dim] of all lookups since the last call."""
        pairs = [(ids, rows.grad.reshape(-1, self.dim)) for ids, rows in self._lookups if rows.grad is not None]
        self._lookups = []
        if not pairs:
            empty = torch.zeros(0, dtype=torch.int64, device=self.weight.device)
            return empty, self.weight.new_zeros(0, self.dim)
        if len(pairs) == 1:
            return pairs[0][0].long(), pairs[0][1]
        return torch.cat([ids for ids, _ in pairs]).long(), torch.cat([grads for _, grads in pairs])


def gather(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows of `weight` by `ids`: [..., dim]."""
    if weight.device.type == "cpu" and not weight.requires_grad:
        # an embedding bag of one id each reads rows about twice as fast as F.embedding on a CPU
        flat = ids.reshape(-1)
        offsets = torch.arange(len(flat), dtype=flat.dtype, device=flat.device)
        return F.embedding_bag(flat, weight, offsets, mode="sum").view(*ids.shape, weight.shape[1])
    return F.embedding(ids.long() if ids.dtype not in (torch.int32, torch.int64) else ids, weight)


def coalesce(ids: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Each id once, in ascending order, with the sum of its gradients. Sums run in the order of the batch."""
    unique, where = torch.unique(ids, return_inverse=True)
    return unique, grads.new_zeros(len(unique), grads.shape[1]).index_add_(0, where, grads)
