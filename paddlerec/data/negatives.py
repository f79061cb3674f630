"""Items drawn as negatives: evenly among those that a user has not had, or by popularity for a whole step."""

from __future__ import annotations

import numpy as np

from paddlecore.data import mix, ranges, uniform

_MANY = 1 << 20  # items that one of 2^24 random numbers cannot choose from evenly


def distinct(values: np.ndarray) -> np.ndarray:
    """Of integers [n] each once, ascending: `np.unique`, which hashes, and takes twenty times as long for millions."""
    ascending = np.sort(values)
    return ascending[np.concatenate([[True], ascending[1:] != ascending[:-1]])] if len(values) else ascending


def among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which of `values` [n] are in `ascending` [m]: [n] bool. (`np.isin` goes by `np.unique`.)"""
    if not len(ascending):
        return np.zeros(len(values), bool)
    return ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values


def hits(rows: np.ndarray, items: np.ndarray, candidates: np.ndarray, num_items: int) -> np.ndarray:
    """[2, h] int64: `rows` [n] again, and the places among the `candidates` [C] where their `items` [n] stand."""
    order = np.argsort(candidates, kind="stable")  # the same items stand together
    count = np.bincount(candidates, minlength=num_items)
    first = np.cumsum(count) - count
    there = np.flatnonzero(count[items])
    begin = first[items[there]]
    of, place = ranges(begin, begin + count[items[there]])
    return np.stack([rows[there[of]], order[place]])


class Negatives:
    """Draws evenly from the items that each user has not had: exact, without a loop or a second try.

    Of a user's items in order, h_0 < h_1 < ..., all of them in 1..N, h_j - 1 - j unseen ones lie below h_j. So the k-th
    unseen item (from 0) is k + 1 + #{j: h_j - 1 - j <= k}, and one binary search over all users' (user, h_j - 1 - j)
    finds it.

    Memory: 8 bytes a pair and 8 a user.

    Args:
        users: [n] int, the user of each pair.
        items: [n] int, 1..num_items - 1; a pair may occur more than once.
        num_users: users are 0..num_users - 1.
        num_items: N + 1; item 0 is padding and never drawn.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> None:
        self.num_items = num_items
        pairs = distinct(users.astype(np.int64) * num_items + items)
        user, item = np.divmod(pairs, num_items)
        self.starts = np.searchsorted(user, np.arange(num_users + 1))
        self.keys = user * num_items + item - 1 - (np.arange(len(pairs)) - self.starts[user])

    def count(self, users: np.ndarray) -> np.ndarray:
        """[b] how many items each of `users` has not had."""
        return self.num_items - 1 - (self.starts[users + 1] - self.starts[users])

    def draw(self, users: np.ndarray, rows: np.ndarray, draws: int, *, seed: int, epoch: int = 0) -> np.ndarray:
        """[b, draws] int64, with replacement, for `users` [b]: a function of (seed, epoch, row), `rows` [b].

        0 where a user has had every item. An item's probability is even to 2^-24 of them all; from a million items on,
        to 2^-48.
        """
        count = self.count(users)[:, None]
        chance = uniform(seed, epoch, rows, draws)  # 24 bits
        if self.num_items > _MANY:
            chance = chance + 2.0**-24 * uniform(mix(seed, 2), epoch, rows, draws).astype(np.float64)
        items = self._unseen(users, (chance * count).astype(np.int64))
        if len(count) and not count.all():
            items[count[:, 0] == 0] = 0
        return items

    def distinct(self, users: np.ndarray, draws: int, *, seed: int) -> np.ndarray:
        """[b, draws] int64, without replacement, for `users` [b]: a function of (seed, users); 0 where there are no
        more. A loop over users, for what is drawn once."""
        random = np.random.Generator(np.random.Philox(key=mix(seed, 1)))
        found = np.zeros((len(users), draws), np.int64)
        for place, count in enumerate(self.count(users).tolist()):
            chosen = random.permutation(count)[:draws]
            found[place, : len(chosen)] = self._unseen(users[place : place + 1], chosen[None])[0]
        return found

    def _unseen(self, users: np.ndarray, place: np.ndarray) -> np.ndarray:
        """[b, m] the k-th unseen item of each user, `place` [b, m] of k."""
        wanted = users[:, None] * np.int64(self.num_items) + place
        order = np.argsort(users)  # a user's keys lie together, and stay in the cache from one search to the next
        found = np.empty_like(wanted)
        found[order] = np.searchsorted(self.keys, wanted[order], side="right")
        return place + 1 + found - self.starts[users][:, None]


class Popularity:
    """Draws items in proportion to count^alpha, whoever the user is.

    Attributes:
        share: [N] float64, the probability of each item.

    Args:
        counts: [N] how often each item occurs; item 0 is padding and never drawn.
        alpha: 1 draws them as they occur, 0 all alike, those that do not occur, too.
    """

    def __init__(self, counts: np.ndarray, alpha: float) -> None:
        weight = counts.astype(np.float64) ** alpha
        weight[0] = 0.0
        self.upto = np.cumsum(weight)
        self.share = weight / self.upto[-1]
        self.last = int(np.flatnonzero(weight)[-1])

    def draw(self, draws: int, *, seed: int) -> np.ndarray:
        """[draws] int64, with replacement, ascending: a function of `seed`."""
        chance = np.random.Generator(np.random.Philox(key=seed)).random(draws)
        chance.sort()  # the search runs through neighbouring places, and later the table through neighbouring rows
        return np.minimum(np.searchsorted(self.upto, chance * self.upto[-1], side="right"), self.last)
