"""Training batches of texts of about the same length, so that little of a batch is padding."""

from __future__ import annotations

import numpy as np

from paddlecore.data import Plan, mix


class LengthBuckets(Plan):
    """Batches of `batch_size` rows of like length, in random order.

    The shuffled rows of an epoch are taken in windows of `window` batches. Within a window the rows are sorted by
    length (equal lengths stay in shuffled order) and cut into batches, and then the batches of the whole epoch are
    shuffled. So which rows meet differs from epoch to epoch, and all of it is a pure function of (seed, epoch, step).
    The rows that make no full batch come last, as in any plan.

    Args:
        lengths: [size] int, of each row.
        batch_size: rows of one optimiser step.
        window: batches that are sorted together: more = less padding, and batches that are less mixed.
        seed: of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, *, window: int = 50, seed: int = 0) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        super().__init__(len(lengths), batch_size, seed=seed)
        self.lengths, self.window = lengths, window

    def shuffled(self, epoch: int) -> np.ndarray:
        order = super().shuffled(epoch)
        whole = self.size // self.batch_size * self.batch_size
        span = self.window * self.batch_size
        for start in range(0, whole, span):
            part = order[start : min(start + span, whole)]
            part[:] = part[np.argsort(self.lengths[part], kind="stable")]
        batches = order[:whole].reshape(-1, self.batch_size)
        np.random.Generator(np.random.Philox(key=mix(self.seed, epoch, 1))).shuffle(batches)
        return order


def padding_share(lengths: np.ndarray, plan: Plan) -> float:
    """The share of padding in the batches of the plan's first epoch, each padded to its longest row."""
    slots = sum(plan.count(0, s) * int(lengths[plan.rows(0, s)].max()) for s in range(plan.steps(0)))
    return 1.0 - float(lengths.sum()) / slots
