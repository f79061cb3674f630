"""Items that a user has not had, drawn evenly: exact, and without a loop or a second try."""

from __future__ import annotations

import numpy as np

from paddlecore.errors import DataError


class Unseen:
    """Draws from the items that each user has not had.

    Of a user's items in order, h_0 < h_1 < ..., all of them in 1..N, h_j - 1 - j unseen ones lie below h_j. So the k-th
    unseen item (from 0) is k + 1 + #{j: h_j - 1 - j <= k}, and one binary search over all users' (user, h_j - 1 - j)
    finds it.

    Memory: 8 bytes a pair.

    Args:
        users: [n] int, the user of each pair.
        items: [n] int, 1..num_items - 1; a pair may occur more than once.
        num_users: users are 0..num_users - 1.
        num_items: N + 1; item 0 is padding and never drawn.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> None:
        self.num_items = num_items
        pairs = np.unique(users.astype(np.int64) * num_items + items)
        user, item = np.divmod(pairs, num_items)
        self.starts = np.searchsorted(user, np.arange(num_users + 1))
        self.keys = user * num_items + item - 1 - (np.arange(len(pairs)) - self.starts[user])

    def count(self, users: np.ndarray) -> np.ndarray:
        """[b] how many items each of `users` has not had."""
        return self.num_items - 1 - (self.starts[users + 1] - self.starts[users])

    def draw(self, users: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """An unseen item for each number of `chance` [b, m] in [0, 1): [b, m] int64, with replacement.

        With float32 numbers of 24 bits an item's probability is even to 2^-24 of them all.

        Raises:
            DataError: a user has had every item.
        """
        counts = self.count(users)
        if len(users) and counts.min() < 1:
            raise DataError(f"user {users[counts.argmin()]} has had every item: there is none to draw as a negative")
        place = (chance * counts[:, None]).astype(np.int64)  # [b, m] k
        wanted = (users[:, None] * np.int64(self.num_items) + place).ravel()
        order = np.argsort(wanted)  # in order, a search finds the keys of the last one in the cache: twice as fast
        found = np.empty_like(wanted)
        found[order] = np.searchsorted(self.keys, wanted[order], side="right")
        return place + 1 + found.reshape(place.shape) - self.starts[users][:, None]
