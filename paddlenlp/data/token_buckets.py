"""Batches of sentences of about one length, by tokens: little padding, and steps of about equal work."""

from __future__ import annotations

import numpy as np

from paddlecore.data import OfEpoch, Plan, mix


class TokenBuckets(Plan):
    """Shuffled batches of rows of similar length; a pure function of (seed, epoch, step), like every plan.

    Row lengths are put into buckets whose upper ends grow by a tenth. In each epoch the rows of a bucket are shuffled
    and cut into batches of as many rows as fit: rows x the bucket's upper end is at most `batch_tokens`, and there are
    at most `batch_size` rows. What is left of a bucket joins the next longer one, so that only the last batch can be
    small; if it is below 1/16 of a batch it joins the one before it, unless that would make it more than a quarter too
    large. Then the batches are shuffled. Only counts decide where batches end, so every epoch has the same number of
    steps.

    Args:
        lengths: [n] tokens of each row.
        batch_size: most rows of a batch.
        batch_tokens: most tokens of a batch, padding included; a row that alone has more is a batch of its own.
        seed: of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, batch_tokens: int, *, seed: int = 0) -> None:
        super().__init__(len(lengths), batch_size, seed=seed)
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        ends, longest = [1], max(int(lengths.max()), 1)
        while ends[-1] < longest:
            ends.append(max(ends[-1] + 1, int(ends[-1] * 1.1)))
        of = np.searchsorted(ends, lengths)  # [n]: the bucket of each row
        self._buckets = [np.flatnonzero(of == bucket) for bucket in range(len(ends))]
        self._sizes: list[int] = []  # rows of each batch, in the order of the buckets
        left = 0
        room = 1
        for end, bucket in zip(ends, self._buckets, strict=True):
            room = max(1, min(batch_size, batch_tokens // end))
            full, left = divmod(left + len(bucket), room)
            self._sizes += [room] * full
        fits = self._sizes and 4 * (self._sizes[-1] + left) * end <= 5 * batch_tokens  # not with many short rows
        if left and fits and 16 * left < room:
            self._sizes[-1] += left
        elif left:
            self._sizes.append(left)
        self._ends = np.cumsum([0, *self._sizes])
        self._epochs = OfEpoch(self._shuffled)

    def order(self, epoch: int) -> np.ndarray:
        """[size] the rows of an epoch by bucket, before the batches are shuffled."""
        return self._epochs(epoch)[0]

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """That order, and the batches [steps] in the order of their steps."""
        random = np.random.Generator(np.random.Philox(key=mix(self.seed, epoch)))
        order = np.concatenate([random.permutation(bucket) for bucket in self._buckets])
        return order, random.permutation(len(self._sizes))

    def steps(self, epoch: int) -> int:
        return len(self._sizes)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        order, batches = self._epochs(epoch)
        batch = batches[step]
        return order[self._ends[batch] : self._ends[batch + 1]].astype(np.int64)

    def count(self, epoch: int, step: int) -> int:
        return self._sizes[self._epochs(epoch)[1][step]]
