"""Exact full ranking by inner products, in memory that does not grow with the number of users or items.

The score of item i for a query q is <q, item_i> + bias_i. Item 0 is padding: it has no rank and is never returned.
Equal scores go to the lower id, so that a ranking is one ranking on every machine; a score that is NaN counts as -inf.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_SCORES = 1 << 21  # scores held at a time: 8 MiB, which stay in the cache from one pass over them to the next
_GROUP = 32  # items that send one maximum ahead
_WHOLE = 1 << 16  # items that are scored in one piece
_CHUNK = 1 << 13  # of more items, those that are scored at a time
UNRANKED = torch.iinfo(torch.int64).max  # the place of what cannot be ranked: behind any k, however few items there are


def top_k(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    seen: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The `k` best items of each query, best first.

    Memory beyond arguments and result: about 8 MiB (64 on a GPU), the scores of some queries and `chunk` items. From
    the second chunk on, only what beats a query's k-th score so far is looked at.

    Args:
        queries: [B, d] float.
        items: [N, d] float; row 0 is padding.
        k: at least 1.
        bias: [N] float, added to the scores of each query.
        seen: [B, S] int64, items that a query may not be given, padded with 0, in any order.
        chunk: items scored at a time; None = all of up to 65 536, of more 8192, whose scores for 256 queries stay in
            a cache.

    Returns:
        scores [B, k] float32 and ids [B, k] int64; where fewer than k items are left, -inf and id 0.
    """
    chunk = _check(queries, items, bias, seen, chunk)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    scores = queries.new_full((len(queries), k), -torch.inf, dtype=torch.float32)
    ids = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for rows, start, block in _blocks(queries, items, bias, seen, chunk):
        some, values, places = _better(block, scores[rows, -1:], k)
        if not len(some):
            continue
        some += rows.start
        # earlier chunks have lower ids, so a stable sort keeps equal scores in order of their ids
        both = torch.cat([scores[some], values], 1)
        order = both.argsort(stable=True, dim=1, descending=True)[:, :k]
        scores[some] = both.gather(1, order)
        ids[some] = torch.cat([ids[some], places + start], 1).gather(1, order)
    return scores, ids.masked_fill_(scores == -torch.inf, 0)


def rank_of(
    queries: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    seen: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The place of one item in the ranking of each query, from 0: below k exactly where `top_k` returns it.

    With more than `chunk` items everything is scored twice, since a target's score has to come from the very product
    that it is compared with: another shape of the same product rounds differently, and would break ties by chance.

    Args:
        queries: [B, d] float.
        items: [N, d] float; row 0 is padding.
        target: [B] int64, 0..N-1.
        bias, seen, chunk: see `top_k`.

    Returns:
        [B] int64: how many other items, not seen, score higher, or equal with a lower id. `UNRANKED` where the target
        cannot be ranked: it is 0, it is among the seen ones, or its score is NaN.
    """
    chunk = _check(queries, items, bias, seen, chunk)
    if target.shape != (len(queries),):
        raise ValueError(f"target must be [{len(queries)}], got {list(target.shape)}")
    if len(target) and not 0 <= int(target.min()) <= int(target.max()) < len(items):
        raise ValueError(f"targets must be in 0..{len(items) - 1}, got {int(target.min())}..{int(target.max())}")
    own = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
    ahead = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    once = len(items) <= chunk

    def look_up(rows: slice, start: int, block: Tensor) -> Tensor:
        place = target[rows, None] - start  # [b, 1]
        inside = (place >= 0) & (place < block.shape[1])
        score = block.gather(1, place.clamp(0, block.shape[1] - 1))
        own[rows] = torch.where(inside, score, own[rows, None]).squeeze(1)
        return place

    if not once:
        for rows, start, block in _blocks(queries, items, bias, seen, chunk):
            look_up(rows, start, block)
    for rows, start, block in _blocks(queries, items, bias, seen, chunk):
        place = look_up(rows, start, block) if once else target[rows, None] - start
        score = own[rows, None]
        ahead[rows] += (block > score).sum(1)
        # most scores stand alone, so places are looked at only where one does not
        inside = ((place >= 0) & (place < block.shape[1])).squeeze(1)
        (some,) = ((block == score).sum(1) > inside.int()).nonzero(as_tuple=True)
        if len(some):
            tied = (block[some] == score[some]) & (torch.arange(block.shape[1], device=block.device) < place[some])
            ahead[rows].index_add_(0, some, tied.sum(1))
    return ahead.masked_fill_(~(own > -torch.inf), UNRANKED)


def rank_among(queries: Tensor, items: Tensor, target: Tensor, others: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """The place of one item among it and some others, from 0; for protocols that rank against given negatives.

    Args:
        queries: [B, d] float.
        items: [N, d] float; row 0 is padding.
        target: [B] int64, 0..N-1.
        others: [B, S] int64, padded with 0. One that is the target itself does not count.
        bias: [N] float, added to the scores of each query.

    Returns:
        [B] int64: how many of the others score higher, or equal with a lower id. `UNRANKED` where the target is 0 or
        its score is NaN.
    """
    _check(queries, items, bias, others, 1)
    ids = torch.cat([target[:, None], others], 1)  # [B, 1 + S]
    # one product for target and others: another shape of it would round differently, and break ties by chance
    scores = torch.bmm(items[ids].float(), queries.float().unsqueeze(2)).squeeze(2)
    if bias is not None:
        scores += bias[ids]
    own, other = scores[:, :1], scores[:, 1:]
    ahead = (other > own) | ((other == own) & (others < target[:, None]))
    rank = (ahead & (others > 0) & (others != target[:, None])).sum(1)
    return rank.masked_fill_((target == 0) | own.squeeze(1).isnan(), UNRANKED)


def _check(queries: Tensor, items: Tensor, bias: Tensor | None, seen: Tensor | None, chunk: int | None) -> int:
    """The chunk to take."""
    if queries.dim() != 2 or items.dim() != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries [B, d] and items [N, d] do not fit: {list(queries.shape)}, {list(items.shape)}")
    if bias is not None and bias.shape != (len(items),):
        raise ValueError(f"bias must be [{len(items)}], got {list(bias.shape)}")
    if seen is not None and (seen.dim() != 2 or len(seen) != len(queries)):
        raise ValueError(f"seen must be [{len(queries)}, S], got {list(seen.shape)}")
    if chunk is None:
        return _WHOLE if len(items) <= _WHOLE else _CHUNK
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    return chunk


def _blocks(
    queries: Tensor, items: Tensor, bias: Tensor | None, seen: Tensor | None, chunk: int
) -> Iterator[tuple[slice, int, Tensor]]:
    """(rows of the queries, first item, their scores [b, n] float32, -inf for item 0 and what was seen)."""
    chunk = min(chunk, max(len(items), 1))
    height = max(1, (1 if queries.device.type == "cpu" else 8) * _SCORES // chunk)
    buffer = queries.new_empty(min(height, len(queries)) * chunk, dtype=torch.float32)
    for first in range(0, len(queries), height):
        rows = slice(first, min(first + height, len(queries)))
        query = queries[rows].float()
        hidden = None if seen is None else seen[rows]
        for start in range(0, len(items), chunk):
            part = items[start : start + chunk].float()
            block = buffer[: len(query) * len(part)].view(len(query), len(part))  # one buffer: fresh pages cost more
            torch.mm(query, part.t(), out=block)
            if bias is not None:
                block += bias[start : start + chunk]
            if hidden is not None:
                row, column = ((hidden >= start) & (hidden < start + len(part))).nonzero(as_tuple=True)
                block[row, hidden[row, column] - start] = -torch.inf
            if start == 0:
                block[:, 0] = -torch.inf
            yield rows, start, block


def _better(block: Tensor, edge: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row what may be among the `k` largest, where those so far end at `edge` [b, 1]: [b, n] -> the rows that
    have something, [r] int64, and its values [r, at most k] and places [r, the same], ties to the left.

    A value that equals the edge comes too late. Groups are those of `_best`: where few reach above the edge, the others
    need not be looked at.
    """
    groups = block.shape[1] // _GROUP
    every = torch.arange(len(block), device=block.device)
    if groups * _GROUP != block.shape[1] or groups < 2 * k:
        return every, *_best(block, min(k, block.shape[1]))
    grouped = block.view(len(block), _GROUP, groups)
    row, group = (~(grouped.amax(1) <= edge)).nonzero(as_tuple=True)  # a maximum that is NaN hides the others
    counts = torch.bincount(row, minlength=len(block))
    width = int(counts.max())
    if width > k:
        return every, *_best(block, k)
    (some,) = counts.nonzero(as_tuple=True)
    slot = torch.arange(len(row), device=block.device) - (counts.cumsum(0) - counts)[row]
    at = ((counts > 0).cumsum(0) - 1)[row], slot
    values = block.new_full((len(some), width, _GROUP), -torch.inf)
    places = torch.zeros(len(some), width, _GROUP, dtype=torch.int64, device=block.device)
    values[at] = grouped[row, :, group]
    places[at] = group.unsqueeze(1) + torch.arange(0, block.shape[1], groups, device=block.device)
    return some, *_select(values.flatten(1), places.flatten(1), min(k, width * _GROUP))


def _best(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of each row, ties to the left: [b, n] -> values [b, k], places [b, k]. k is at most n.

    Items are looked at in groups. The k largest lie in the k groups with the largest maxima, so one pass of maxima
    stands in for a selection among all n. `topk` promises nothing about ties; a row in which more than k items reach
    the k-th value is selected again by counting.
    """
    groups = block.shape[1] // _GROUP
    if groups < 2 * k:
        return _select(block, None, k)
    whole = groups * _GROUP
    maxima = block[:, :whole].view(len(block), _GROUP, groups).amax(1)  # [b, groups]: group g is g, g + groups, ...
    chosen = maxima.topk(k, 1).indices  # [b, k]
    places = (chosen.unsqueeze(1) + torch.arange(0, whole, groups, device=block.device).unsqueeze(1)).flatten(1)
    rest = torch.arange(whole, block.shape[1], device=block.device).expand(len(block), -1)
    places = torch.cat([places, rest], 1)  # [b, 32 k + rest]
    values, where = _select(block.gather(1, places), places, k)
    # complete unless a group that was not chosen reaches the k-th value, too
    again = ((maxima >= values[:, -1:]).sum(1) > k) | maxima.isnan().any(1)
    if again.any():
        values[again], where[again] = _select(block[again], None, k)
    return values, where


def _select(values: Tensor, places: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """As `_best`, where column j stands for the item `places` [b, n] says (None: for item j)."""
    values = values.masked_fill(values.isnan(), -torch.inf)
    if places is None:
        places = torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    best, where = values.topk(k, 1)
    last = best[:, -1:]
    tied = (values >= last).sum(1) > k
    where = places.gather(1, where)
    if tied.any():
        ids, order = places[tied].sort(1)
        own, edge = values[tied].gather(1, order), last[tied]
        level = own == edge
        room = k - (own > edge).sum(1, keepdim=True)
        keep = (own > edge) | (level & (level.cumsum(1) <= room))  # exactly k in each row
        best[tied], where[tied] = own[keep].view(-1, k), ids[keep].view(-1, k)
    where, order = where.sort(1)
    best, order = best.gather(1, order).sort(stable=True, dim=1, descending=True)
    return best, where.gather(1, order)
