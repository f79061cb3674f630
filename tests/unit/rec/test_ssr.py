"""SSR against a slow transcription, one history at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paddlerec.models import SSR

HISTORIES = [[3, 5, 3, 7], [4], [9, 8, 7, 9, 8, 6, 1], []]


def padded(histories: list[list[int]], width: int = 0) -> Tensor:
    width = max(width, *map(len, histories))
    return torch.tensor([h + [0] * (width - len(h)) for h in histories])


def model(**sizes: object) -> SSR:
    torch.manual_seed(0)
    return SSR(**{"num_items": 10, "dim": 6, "rates": [2, 3], "scale": 5.0, **sizes}).eval()  # type: ignore[arg-type]


def slow(ssr: SSR, history: list[int]) -> Tensor:
    """In float64, a step and a window at a time."""
    w = {name: p.detach().double() for name, p in ssr.named_parameters()}
    x = [w["items.weight"][i] for i in history]
    parts = [torch.tanh(w["long_term.weight"] @ (sum(x) / len(x)) + w["long_term.bias"])]
    for place, rate in enumerate(ssr.rates):
        gru = {name: w[f"temporal.{place}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        h = torch.zeros_like(x[0])
        for start in range(0, len(x), rate):
            window = x[start : start + rate]
            given = (gru["weight_ih"] @ (sum(window) / len(window)) + gru["bias_ih"]).chunk(3)
            kept = (gru["weight_hh"] @ h + gru["bias_hh"]).chunk(3)
            reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
            h = (1 - update) * torch.tanh(given[2] + reset * kept[2]) + update * h
        parts.append(h)
    user = torch.tanh(w["user.weight"] @ torch.cat(parts) + w["user.bias"])
    return ssr.scale * user / user.norm()


def test_against_a_slow_transcription() -> None:
    ssr = model()
    out = ssr.encode(padded(HISTORIES))
    torch.testing.assert_close(
        out.double(), torch.stack([slow(ssr, h or [0]) for h in HISTORIES]), rtol=1e-4, atol=1e-5
    )
    item = torch.tanh(ssr.items.weight[7] @ ssr.item.weight.T + ssr.item.bias)
    torch.testing.assert_close(ssr.item_vectors()[7], item / item.norm())


@pytest.mark.parametrize("rates", [[], [2], [4, 50]])
def test_padding_and_neighbours_in_the_batch_change_nothing(rates: list[int]) -> None:
    ssr = model(rates=rates)
    out = ssr.encode(padded(HISTORIES))
    torch.testing.assert_close(ssr.encode(padded(HISTORIES, 23)), out)
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(ssr.encode(torch.tensor([history or [0]]))[0], out[row])


def test_scores_are_scaled_cosines() -> None:
    ssr = model()
    scores = ssr.encode(padded(HISTORIES)) @ ssr.item_vectors().T
    assert float(scores.abs().max()) <= 5.0 + 1e-4


def test_a_rate_of_one_is_the_fast_part_already() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        model(rates=[1])
