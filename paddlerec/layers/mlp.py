"""A stack of fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from paddlecore.linear import Linear


def mlp(sizes: Sequence[int], *, dropout: float = 0.0, batch_norm: bool = False) -> nn.Sequential:
    """Linear - batch norm (if asked for) - ReLU - dropout for each step of `sizes`: [B, sizes[0]] -> [B, sizes[-1]].

    The order, and Glorot normal weights with zero biases, are those of the BARS benchmark (Zhu et al., SIGIR 2022),
    whose published scores the recipes are held against.
    """
    layers: list[nn.Module] = []
    for wide, narrow in zip(sizes[:-1], sizes[1:], strict=True):
        # batch norm takes away the mean, and a bias with it: its gradient would be rounding errors that Adam magnifies
        linear = Linear(wide, narrow, bias=not batch_norm)
        nn.init.xavier_normal_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        layers.append(linear)
        if batch_norm:
            layers.append(nn.BatchNorm1d(narrow))
        layers.append(nn.ReLU(inplace=True))  # neither layer before it needs its own output for its gradient
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
