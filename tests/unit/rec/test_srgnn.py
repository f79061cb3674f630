"""SR-GNN against a slow transcription of its equations, one session at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paddlerec.models import SRGNN

HISTORIES = [[3, 5, 3, 5, 7], [4], [2, 2, 2], [9, 8, 7, 9, 8, 6], []]


def padded(histories: list[list[int]], width: int = 0) -> Tensor:
    width = max(width, *map(len, histories))
    return torch.tensor([h + [0] * (width - len(h)) for h in histories])


def slow(model: SRGNN, history: list[int]) -> Tensor:
    """Equations 1 to 7, with the authors' matrices A_in and A_out, in float64."""
    weight = {name: p.detach().double() for name, p in model.named_parameters()}
    nodes = sorted(set(history))
    n = len(nodes)
    link = torch.zeros(n, n, dtype=torch.float64)
    for a, b in zip(history, history[1:], strict=False):
        link[nodes.index(a), nodes.index(b)] = 1.0
    a_in = (link / link.sum(0, keepdim=True).clamp(min=1)).T  # row i: the nodes before i
    a_out = link / link.sum(1, keepdim=True).clamp(min=1)  # row i: the nodes after i
    v = weight["items.weight"][nodes]
    for _ in range(model.steps):
        a = torch.cat(
            [
                a_in @ (v @ weight["edges_in.weight"].T) + weight["edges_in.bias"],
                a_out @ (v @ weight["edges_out.weight"].T) + weight["edges_out.bias"],
            ],
            1,
        )
        reset_a, update_a, new_a = (a @ weight["cell.weight_ih"].T + weight["cell.bias_ih"]).chunk(3, 1)
        reset_v, update_v, new_v = (v @ weight["cell.weight_hh"].T + weight["cell.bias_hh"]).chunk(3, 1)
        z, r = torch.sigmoid(update_a + update_v), torch.sigmoid(reset_a + reset_v)
        candidate = torch.tanh(new_a + r * new_v)
        v = (1 - z) * candidate + z * v
    clicks = v[[nodes.index(i) for i in history]]
    last = clicks[-1]
    total = torch.zeros_like(last)
    for click in clicks:
        inner = torch.sigmoid(
            weight["query.weight"] @ last + weight["query.bias"] + weight["key.weight"] @ click + weight["key.bias"]
        )
        total = total + (weight["energy.weight"][0] @ inner) * click
    return weight["merge.weight"] @ torch.cat([total, last]) + weight["merge.bias"]


def test_against_a_slow_transcription() -> None:
    torch.manual_seed(0)
    for steps in (0, 1, 2):
        model = SRGNN(num_items=10, dim=6, steps=steps)
        out = model.encode(padded(HISTORIES))
        expected = torch.stack([slow(model, h or [0]) for h in HISTORIES])
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_padding_and_neighbours_in_the_batch_change_nothing() -> None:
    torch.manual_seed(0)
    model = SRGNN(num_items=10, dim=6)
    out = model.encode(padded(HISTORIES))
    torch.testing.assert_close(model.encode(padded(HISTORIES, 40)), out)
    for row, history in enumerate(HISTORIES):
        alone = model.encode(torch.tensor([history or [0]]))
        torch.testing.assert_close(alone[0], out[row])
    torch.testing.assert_close(model.encode(padded([[], [], [4]]))[2], out[1])  # nothing but one-click sessions


def test_weights_are_drawn_as_the_authors_draw_them() -> None:
    torch.manual_seed(0)
    for name, parameter in SRGNN(num_items=500, dim=25).named_parameters():
        assert float(parameter.detach().abs().max()) <= 0.2, name
        if parameter.numel() > 100:
            assert abs(float(parameter.detach().std()) - 0.2 / 3**0.5) < 0.01, name


def test_every_parameter_gets_a_gradient() -> None:
    model = SRGNN(num_items=10, dim=6)
    nn.functional.cross_entropy(
        model.encode(padded(HISTORIES)) @ model.item_vectors().T, torch.tensor([1, 2, 3, 4, 5])
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
