"""Drawn items: never the user's own, even by chi-square, a function of (seed, epoch, row) alone."""

from __future__ import annotations

import numpy as np
import pytest

from paddlerec.data.negatives import Negatives, Popularity, among, distinct

USERS = np.array([1, 1, 1, 2, 4, 4, 4, 4, 1])
ITEMS = np.array([1, 3, 4, 6, 2, 3, 4, 5, 3])  # of 1..6; (1, 3) is there twice; users 0 and 3 had nothing


def missing(user: int) -> list[int]:
    return [i for i in range(1, 7) if i not in ITEMS[USERS == user]]


def chi_square(counts: np.ndarray, weights: np.ndarray) -> float:
    """Standardised: about normal with mean 0 and deviation 1 where the law holds."""
    expected = counts.sum() * weights / weights.sum()
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("size", [0, 1, 300])
def test_distinct_values_and_which_of_others_are_among_them(size: int) -> None:
    random = np.random.default_rng(size)
    values, others = random.integers(0, 200, size), random.integers(-5, 210, 100)
    assert np.array_equal(distinct(values), np.unique(values))
    assert np.array_equal(among(others, distinct(values)), np.isin(others, values))


def test_each_unseen_item_and_no_other_evenly() -> None:
    negatives = Negatives(USERS, ITEMS, 5, 7)
    for user in (0, 1, 2, 3, 4):
        free = missing(user)
        assert negatives.count(np.array([user])).tolist() == [len(free)]
        drawn = negatives.draw(np.full(3000, user), np.arange(3000), 2, seed=7)
        counts = np.bincount(drawn.ravel(), minlength=7)
        assert counts[free].sum() == 6000
        assert chi_square(counts[free], np.ones(len(free))) < 4


def test_many_users_of_a_long_tail_against_sets() -> None:
    random = np.random.default_rng(0)
    users, items = random.integers(0, 50, 2000), 1 + (random.random(2000) ** 3 * 99).astype(np.int64)
    negatives = Negatives(users, items, 50, 100)
    drawn = negatives.draw(np.arange(50), np.arange(50), 4000, seed=1)
    score = []
    for user in range(50):
        free = sorted(set(range(1, 100)) - set(items[users == user].tolist()))
        counts = np.bincount(drawn[user], minlength=100)
        assert counts[free].sum() == 4000
        score.append(chi_square(counts[free], np.ones(len(free))))
    assert abs(np.mean(score)) * 50**0.5 < 4


def test_a_user_who_has_had_everything_gets_none() -> None:
    negatives = Negatives(np.array([1, 1, 2]), np.array([1, 2, 2]), 3, 3)
    drawn = negatives.draw(np.array([1, 0, 2, 1]), np.arange(4), 5, seed=3)
    assert not drawn[[0, 3]].any() and set(drawn[1].tolist()) <= {1, 2} and drawn[2].tolist() == [1] * 5
    assert not Negatives(np.array([0]), np.array([1]), 1, 2).draw(np.zeros(2, int), np.arange(2), 3, seed=1).any()
    assert negatives.draw(np.array([], int), np.array([], int), 4, seed=3).shape == (0, 4)


def test_draws_are_a_function_of_seed_epoch_and_row() -> None:
    negatives = Negatives(np.array([0, 1]), np.array([500, 7]), 2, 1000)
    users, rows = np.array([0, 1, 1, 0]), np.array([10, 11, 12, 13])
    whole = negatives.draw(users, rows, 8, seed=5, epoch=2)
    np.testing.assert_array_equal(negatives.draw(users[[2, 0]], rows[[2, 0]], 8, seed=5, epoch=2), whole[[2, 0]])
    for other in ({"seed": 6, "epoch": 2}, {"seed": 5, "epoch": 3}):
        assert (negatives.draw(users, rows, 8, **other) != whole).mean() > 0.9
    assert (negatives.draw(users, rows + 4, 8, seed=5, epoch=2) != whole).mean() > 0.9


def test_many_items_are_drawn_evenly_too() -> None:
    """Of 3 * 2^23 items 2^24 random numbers would leave a third out: one of each three that follow each other."""
    many = 3 << 23
    drawn = Negatives(np.array([0]), np.array([many]), 2, many + 1).draw(np.ones(3000, int), np.arange(3000), 2, seed=1)
    assert 1 <= drawn.min() and drawn.max() <= many
    assert chi_square(np.bincount(drawn.ravel() % 3, minlength=3), np.ones(3)) < 4
    assert chi_square(np.bincount(drawn.ravel() * 8 // (many + 1), minlength=8), np.ones(8)) < 4


def test_distinct_items_each_once_and_0_where_there_are_no_more() -> None:
    negatives = Negatives(USERS, ITEMS, 5, 7)
    found = negatives.distinct(np.array([1, 4]), 5, seed=1)
    assert sorted(found[0, :3]) == missing(1) and sorted(found[1, :2]) == missing(4)
    assert not found[0, 3:].any() and not found[1, 2:].any()
    full = Negatives(np.array([1, 1]), np.array([1, 2]), 2, 3)
    assert full.distinct(np.array([1]), 2, seed=1).tolist() == [[0, 0]]
    first = np.concatenate([negatives.distinct(np.array([0]), 2, seed=seed)[0] for seed in range(1500)])
    assert chi_square(np.bincount(first, minlength=7)[1:], np.ones(6)) < 4


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_popularity_to_the_power_alpha(alpha: float) -> None:
    counts = np.array([9, 40, 0, 3, 1, 17, 0])
    popularity = Popularity(counts, alpha)
    weight = np.array([0.0, *(counts[1:].astype(float) ** alpha)])
    np.testing.assert_allclose(popularity.share, weight / weight.sum())
    drawn = popularity.draw(30_000, seed=4)
    assert (np.diff(drawn) >= 0).all()
    found, there = np.bincount(drawn, minlength=7), weight > 0
    assert not found[~there].any() and chi_square(found[there], weight[there]) < 4
    np.testing.assert_array_equal(popularity.draw(30_000, seed=4), drawn)
    assert (popularity.draw(30_000, seed=5) != drawn).any() and popularity.draw(0, seed=1).shape == (0,)
