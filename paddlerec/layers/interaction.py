"""Interactions between fields."""

from __future__ import annotations

from torch import Tensor


def fm_pooling(total: Tensor, squares: Tensor) -> Tensor:
    """The second-order term of a factorisation machine from two sums over its fields.

    Rendle, 2010, "Factorization Machines", ICDM, lemma 3.1: sum_{i<j} <v_i, v_j> x_i x_j =
    1/2 sum_k ((sum_i v_ik x_i)^2 - sum_i (v_ik x_i)^2), which costs O(fields) instead of O(fields^2).

    Args:
        total: [B, dim] the sum over fields of v_i x_i.
        squares: [B] the sum over fields and dimensions of (v_i x_i)^2.

    Returns:
        [B].
    """
    return 0.5 * (total.square().sum(-1) - squares)
