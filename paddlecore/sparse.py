"""Embedding tables whose training cost follows the rows of a batch, not the rows of the table.

`RowTable` is an embedding. On its own it trains like `nn.Embedding`, with any optimiser. Once a `PhaseOptimizer` has
adopted it, a lookup no longer makes a gradient of the table's size: it keeps (row ids, gradient of those rows), and the
optimiser takes them from there (see `optim.py`). The functions below are the arithmetic on such pairs. None of them
allocates anything of the table's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class RowTable(nn.Module):
    """An embedding table, `weight` [rows, dim] float32, drawn from N(0, init_std^2).

    Shapes: ids [...] int32 or int64, each in 0..rows-1 -> [..., dim].
    """

    def __init__(self, rows: int, dim: int, *, init_std: float = 0.01) -> None:
        super().__init__()
        if rows < 1 or dim < 1:
            raise ValueError(f"a table needs at least one row and one column, got {rows} x {dim}")
        self.weight = nn.Parameter(torch.empty(rows, dim).normal_(0.0, init_std))
        self.adopted = False
        # ids [n] -> what has to be taken off their rows, [n, dim], or None if nothing; see `Fading`
        self.behind: Callable[[Tensor], Tensor | None] = _nothing
        self._lookups: list[tuple[Tensor, Tensor]] = []  # ([n] ids, [n, dim] the rows they gave) of this step

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)

    def adopt(self) -> None:
        """From now on, training lookups are kept for `take`, and autograd gives `weight` no gradient for them."""
        self.adopted = True
        # compiled models break their graph here; as a decorator this would load the compiler with every import
        self._recorded = torch.compiler.disable(self._recorded)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: no optimiser has adopted it."""
        own = {name: value for name, value in self.__dict__.items() if name != "_recorded"}  # bound to this one
        return {**own, "adopted": False, "behind": _nothing, "_lookups": []}

    def forward(self, ids: Tensor) -> Tensor:
        if self.adopted and self.training and self.weight.requires_grad and torch.is_grad_enabled():
            return self._recorded(ids)
        if self.weight.requires_grad and torch.is_grad_enabled():
            rows, behind = nn.functional.embedding(ids, self.weight), self.behind(ids.reshape(-1))
            return rows if behind is None else rows - behind.view_as(rows)
        return self.rows(ids.reshape(-1)).view(*ids.shape, self.dim)

    def _recorded(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        rows = self.rows(flat).requires_grad_()  # a leaf: backward stops here, at [n, dim]
        self._lookups.append((flat, rows))
        return rows.view(*ids.shape, self.dim)

    def rows(self, ids: Tensor) -> Tensor:
        """[n] -> [n, dim], as they stand at this step; no gradient."""
        rows, behind = gather(self.weight.detach(), ids), self.behind(ids)
        return rows if behind is None else rows.sub_(behind)

    def take(self) -> tuple[Tensor, Tensor]:
        """The gradient since the last call, as pairs: ids [n] and what each lookup received, [n, dim] float32.

        An id occurs as often as it was looked up, over all lookups and micro-batches, in that order. Lookups that no
        loss reached are left out; n may be 0.
        """
        pairs = [(ids, rows.grad) for ids, rows in self._lookups if rows.grad is not None]
        self._lookups.clear()
        if len(pairs) == 1:
            return pairs[0]
        if not pairs:
            return torch.empty(0, dtype=torch.int64, device=self.weight.device), self.weight.new_empty(0, self.dim)
        return torch.cat([ids for ids, _ in pairs]), torch.cat([grad for _, grad in pairs])

    @property
    def dim(self) -> int:
        return self.weight.shape[1]


def _nothing(ids: Tensor) -> None:
    """Rows without an optimiser are never behind."""


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """Rows `ids` [n] of `table` [R, d] -> [n, d]. An id that is not in the table is refused (on a GPU: by an assert).

    One id a bag: on a CPU torch's bag kernel prefetches and runs up to twice as fast as its index kernels.
    """
    if table.device.type != "cpu" or table.dtype != torch.float32:
        return nn.functional.embedding(ids, table)
    return nn.functional.embedding_bag(ids.unsqueeze(1), table, mode="sum")


def put_(table: Tensor, rows: Tensor, values: Tensor) -> None:
    """`table`[rows] = values, in place: [R, d], [u] int64 without repeats, [u, d].

    On a CPU whole rows are moved as single items of numpy: one thread of it is faster than two of torch's index_copy_,
    which goes through a row column by column.
    """
    plain = all(t.is_contiguous() and t.dtype == torch.float32 for t in (table, values))
    if table.device.type != "cpu" or not plain:
        table.index_copy_(0, rows, values)
        return
    item = np.dtype((np.void, table.element_size() * table.shape[1]))
    np.put(table.numpy().view(item), rows.numpy(), values.numpy().view(item))


def coalesce(ids: Tensor, grads: Tensor, *, size: int = 2**63) -> tuple[Tensor, Tensor]:
    """Add up the gradients of equal ids: ([n], [n, d]) -> ([u] int64 ascending without repeats, [u, d]).

    Each sum runs in the order of occurrence, whatever the number of threads, so it is reproducible to the bit. The size
    u has to be known on the host, so on a GPU this waits for the device.

    Args:
        ids: [n] int32 or int64, not negative.
        grads: [n, d].
        size: all ids lie below this. Below 2^31 they are sorted as int32, which is twice as fast.
    """
    if len(ids) == 0:
        return ids.long(), grads
    ordered, order = torch.sort(ids.int() if size <= 2**31 else ids.long(), stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    sums = nn.functional.embedding_bag(order, grads, starts, mode="sum")
    return ordered[starts].long(), sums


# Row rules. In all of them: weight [R, d] float32, changed in place; rows [u] int64 without repeats; grads [u, d]
# float32. A row that is not in `rows` is neither read nor written.


def sgd_(weight: Tensor, rows: Tensor, grads: Tensor, *, lr: float) -> None:
    """w <- w - lr g. The same as dense SGD without momentum: there, too, a row without a gradient stays."""
    put_(weight, rows, gather(weight, rows).add_(grads, alpha=-lr))


def adagrad_(weight: Tensor, squares: Tensor, rows: Tensor, grads: Tensor, *, lr: float, eps: float) -> None:
    """Row-wise Adagrad: s <- s + mean over columns of g^2; w <- w - lr g / (sqrt(s) + eps).

    Adagrad (Duchi, Hazan, Singer, 2011, JMLR 12, sec. 1.1, diagonal form) with one accumulator for a whole row, as
    FBGEMM's EXACT_ROWWISE_ADAGRAD (Khudia et al., 2021; Mudigere et al., 2022, ISCA, sec. 4.1.4) has it. A row without
    a gradient stays in dense Adagrad, too; with one column the two are the same.

    Args:
        squares: [R] float32, changed in place.
    """
    total = squares.index_select(0, rows).add_(grads.square().mean(1))  # [u]
    squares.index_copy_(0, rows, total)
    step = total.sqrt_().add_(eps).reciprocal_().mul_(-lr).unsqueeze(1)  # [u, 1]
    put_(weight, rows, gather(weight, rows).addcmul_(grads, step))


def adam_(
    weight: Tensor,
    first: Tensor,
    second: Tensor,
    last: Tensor,
    rows: Tensor,
    grads: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    fading: Fading | None = None,
) -> None:
    """Lazy Adam with decay of the moments for the steps that a row missed.

    Adam (Kingma and Ba, 2015, algorithm 1), where a row touched k steps after the last time does
    m <- b1^k m + (1 - b1) g;  v <- b2^k v + (1 - b2) g^2;  w <- w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    with t the number of steps of the table.

    So at each touch the moments are those that dense Adam has there for the same gradients. The one difference: dense
    Adam also moves a row in the k - 1 steps between, along its fading momentum, and this rule does so only with
    `fading`, all at once. With k = 1 throughout, the two are the same.

    Args:
        first: m, [R, d] float32, zeros at the start; changed in place.
        second: v, the same.
        last: [R] int32, step of the last touch, zeros at the start; changed in place.
        step: t, from 1.
        fading: the steps to t - 1. Step t is not added to it here.
    """
    b1, b2 = betas
    then = last.index_select(0, rows)
    missed = (step - then).double().unsqueeze(1)  # [u, 1] k
    last.index_fill_(0, rows, step)
    w, m, v = gather(weight, rows), gather(first, rows), gather(second, rows)
    if fading is not None:
        w.sub_(fading.move(m, v, then))
    m.mul_(_power(b1, missed)).add_(grads, alpha=1 - b1)
    v.mul_(_power(b2, missed)).addcmul_(grads, grads, value=1 - b2)
    put_(first, rows, m)
    put_(second, rows, v)
    scale = v.sqrt_().div_(math.sqrt(1 - b2**step)).add_(eps)
    put_(weight, rows, w.addcdiv_(m, scale, value=-lr / (1 - b1**step)))


class Fading:
    """How far dense Adam moves a row in the steps in which it has no gradient, all of them at once.

    A row with the moments m and v after its last touch, step a, is moved in step j = a + k by
    lr_j / (1 - b1^j) b1^k m / (sqrt(b2^k v / (1 - b2^j)) + eps), so over the steps to t by

        m sum_j p_j / (sqrt(v) + q_j)    with    p_j = lr_j sqrt(1 - b2^j) / (1 - b1^j) (b1 / sqrt(b2))^k
                                                 q_j = eps sqrt(1 - b2^j) b2^(-k / 2)

    While p_j counts, q_j hardly changes, so the sum is taken as P / (sqrt(v) + Q), with P = sum p_j and Q the mean of
    the q_j weighted by p_j. What is left out is of second order in the spread of q. At the usual betas it is at most
    2e-5 of the movement where sqrt(v) is ten times eps or more; below that 1e-4 of it for rows last touched in step 700
    or later, 2e-3 from step 100 on, and a hundredth and more in the first thirty steps, in which q still grows. P and Q
    depend on a alone, so a step costs a few hundred numbers to keep them up, whatever the size of the table.

    Args:
        step: t so far; no row was touched last before it.
        betas: b1 < sqrt(b2), without which momentum would not fade.
        device: of the table.
    """

    def __init__(self, step: int, *, betas: tuple[float, float], eps: float, device: torch.device) -> None:
        b1, b2 = betas
        if not 0 <= b1 < math.sqrt(b2):
            raise ValueError(f"betas={betas}: momentum fades only where 0 <= b1 < sqrt(b2)")
        self.start = self.step = step
        self.betas, self.eps = betas, eps
        length = 1 if b1 == 0 else math.ceil(math.log(1e-12) / math.log(b1 / math.sqrt(b2)))
        k = torch.arange(length, 0, -1, dtype=torch.float64, device=device)
        self._fades = torch.stack([(b1 / math.sqrt(b2)) ** k, (b1 / b2) ** k])  # [2, length] of p and p q
        self._sums = torch.zeros(2, 4 * length, dtype=torch.float64, device=device)  # [2, a - start] P and P Q

    def add(self, lr: float) -> None:
        """Step t + 1 is done, at this learning rate."""
        self.step += 1
        b1, b2 = self.betas
        end = self.step - self.start  # one past the last a that this step moves
        if end >= self._sums.shape[1]:
            self._sums = nn.functional.pad(self._sums, (0, end))
        now = math.sqrt(1 - b2**self.step)
        scale = lr * now / (1 - b1**self.step)
        n = min(end, self._fades.shape[1])
        self._sums[0, end - n : end].add_(self._fades[0, -n:], alpha=scale)
        self._sums[1, end - n : end].add_(self._fades[1, -n:], alpha=scale * self.eps * now)

    def move(self, first: Tensor, second: Tensor, last: Tensor) -> Tensor:
        """What is to be taken off rows with the moments `first`, `second` [n, d], touched last in steps `last` [n]."""
        p, pq = self._sums.index_select(1, last - self.start).unsqueeze(2)  # [n, 1] each
        q = (pq + 1e-30 * self.eps) / (p + 1e-30)  # eps where there were no steps, so that 0 / (0 + q) is 0
        return second.sqrt().add_(q.float()).reciprocal_().mul_(first).mul_(p.float())


def _power(base: float, exponents: Tensor) -> Tensor:
    """base^exponents as float32; exponents >= 1 in float64, since they may be large. Twice as fast as torch.pow."""
    return (exponents * (math.log(base) if base > 0 else -math.inf)).exp_().float()
