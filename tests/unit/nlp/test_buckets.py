"""Batches of like length: every row once, a function of (seed, epoch, step), and little padding."""

from __future__ import annotations

import numpy as np
import pytest

from paddlecore.data import Plan
from paddlenlp.data.buckets import LengthBuckets, padding_share

LENGTHS = np.random.Generator(np.random.Philox(key=1)).geometric(0.05, 1003)


def batches(plan: Plan, epoch: int) -> list[list[int]]:
    return [plan.rows(epoch, step).tolist() for step in range(plan.steps(epoch))]


@pytest.mark.parametrize("size", [1003, 1000, 64, 33, 7])
def test_every_row_once_in_batches_of_the_size_asked_for(size: int) -> None:
    plan = LengthBuckets(LENGTHS[:size], 32, window=5, seed=3)
    for epoch in (0, 1):
        found = batches(plan, epoch)
        assert sorted(row for batch in found for row in batch) == list(range(size))
        assert [len(batch) for batch in found] == [plan.count(epoch, s) for s in range(len(found))]
        assert all(len(batch) == 32 for batch in found[:-1])


def test_a_batch_is_a_function_of_seed_epoch_and_step() -> None:
    plan = LengthBuckets(LENGTHS, 32, window=5, seed=3)
    first = {epoch: batches(plan, epoch) for epoch in (0, 1, 5)}
    again = LengthBuckets(LENGTHS, 32, window=5, seed=3)
    for epoch, step in ((5, 7), (0, 30), (1, 2), (0, 0)):  # in any order, from any point on
        assert again.rows(epoch, step).tolist() == first[epoch][step]
    assert first[0] != first[1] != first[5]
    assert batches(LengthBuckets(LENGTHS, 32, window=5, seed=4), 0) != first[0]


def test_padding_falls_with_the_window_and_batches_stay_mixed() -> None:
    shares = [padding_share(LENGTHS, plan) for plan in (Plan(1003, 32), LengthBuckets(LENGTHS, 32, window=30))]
    assert shares[0] > 0.6 and shares[1] < 0.25
    plan = LengthBuckets(LENGTHS, 32, window=30, seed=1)
    middle = [float(LENGTHS[batch].mean()) for batch in batches(plan, 0)[:30]]
    assert abs(np.corrcoef(middle, np.arange(30))[0, 1]) < 0.5  # not from short to long
    assert set(batches(plan, 0)[0]) not in [set(batch) for batch in batches(plan, 1)]


def test_padding_share_by_hand() -> None:
    assert padding_share(np.array([1, 3, 2, 2]), Plan(4, 2, shuffle=False)) == 1 - 8 / 10


def test_refuses_a_window_below_one() -> None:
    with pytest.raises(ValueError, match="window must be at least 1"):
        LengthBuckets(LENGTHS, 32, window=0)
