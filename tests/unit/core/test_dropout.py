"""Dropout with one random byte a value."""

from __future__ import annotations

import pytest
import torch

from paddlecore.dropout import Dropout


def test_dropout_drops_the_share_it_says_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = Dropout(0.3)
    x = torch.ones(1000, 1003)
    y = drop(x)
    share = round(0.3 * 256) / 256
    assert float((y == 0).float().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / x.numel()) ** 0.5)
    torch.testing.assert_close(y[y != 0].unique(), torch.tensor([1 / (1 - share)]))
    places = (y == 0).flatten()[: 1003 * 1000 // 8 * 8].view(-1, 8).float().mean(0)  # each byte of a word
    torch.testing.assert_close(places, torch.full((8,), share), atol=0.006, rtol=0)
    assert torch.equal(drop.eval()(x), x)
    x.requires_grad_()
    drop.train()(x).sum().backward()
    assert x.grad is not None and set(x.grad.unique().tolist()) == {0.0, y.max().item()}
