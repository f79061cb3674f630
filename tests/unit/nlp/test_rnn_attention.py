"""RNN with attention: each step against the equations written out in numpy; steps = the whole; reordering."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paddlenlp.models import RNNAttention

SOURCE = torch.tensor([[5, 6, 7, 3], [9, 3, 0, 0]])
TARGET = torch.tensor([[2, 8, 9, 10, 11], [2, 12, 4, 0, 0]])
KINDS = [("bahdanau", False), *((f"luong_{kind}", fed) for kind in ("general", "concat") for fed in (True, False))]


def model(attention: str, input_feeding: bool = True, cell: str = "gru", layers: int = 1, **more: bool) -> RNNAttention:
    torch.manual_seed(0)
    kind = {"attention": attention, "input_feeding": input_feeding, "cell": cell, "layers": layers, **more}
    net = RNNAttention(vocab_size=20, dim=6, **kind)  # type: ignore[arg-type]
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return net.eval().double()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(w: dict[str, np.ndarray], at: str, x: np.ndarray, h: np.ndarray, end: str = "") -> np.ndarray:
    r, z, n = np.split(w[f"{at}.weight_ih{end}"] @ x + w[f"{at}.bias_ih{end}"], 3)
    hr, hz, hn = np.split(w[f"{at}.weight_hh{end}"] @ h + w[f"{at}.bias_hh{end}"], 3)
    r, z = sigmoid(r + hr), sigmoid(z + hz)
    return (1 - z) * np.tanh(n + r * hn) + z * h


def lstm(
    w: dict[str, np.ndarray], at: str, x: np.ndarray, h: np.ndarray, c: np.ndarray, end: str = ""
) -> tuple[np.ndarray, ...]:
    gates = w[f"{at}.weight_ih{end}"] @ x + w[f"{at}.bias_ih{end}"] + w[f"{at}.weight_hh{end}"] @ h
    gates = gates + w[f"{at}.bias_hh{end}"]
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def slowly(net: RNNAttention, source: list[int], target: list[int]) -> np.ndarray:
    """Logits [T, V] of one pair for a model of one layer, by the equations."""
    w = {name: p.detach().numpy() for name, p in net.named_parameters()}
    words = w["source_embedding.weight"]
    given, output = (w.get(name, words) for name in ("target_embedding.weight", "output.weight"))  # else shared

    def cell(at: str, x: np.ndarray, state: tuple[np.ndarray, ...], end: str = "") -> tuple[np.ndarray, ...]:
        return (gru(w, at, x, state[0], end),) if net.cell == "gru" else lstm(w, at, x, *state, end)

    def empty() -> tuple[np.ndarray, ...]:
        return (np.zeros(6),) if net.cell == "gru" else (np.zeros(6), np.zeros(6))

    forward, backward = [], []
    for states, tokens, end in ((forward, source, "_l0"), (backward, source[::-1], "_l0_reverse")):
        state = empty()
        for token in tokens:
            state = cell("encoder", words[token], state, end)
            states.append(state[0])
    memory = [np.concatenate(pair) for pair in zip(forward, reversed(backward), strict=True)]
    start = np.tanh(w["bridge.0.weight"] @ np.concatenate([forward[-1], backward[-1]]) + w["bridge.0.bias"])
    state = (start, *empty()[1:])
    feed = np.zeros(6)

    def look(s: np.ndarray) -> np.ndarray:
        if net.kind == "luong_general":
            scores = np.array([s @ w["key.weight"] @ h for h in memory])
        else:
            both = [np.tanh(w["query.weight"] @ s + w["key.weight"] @ h) for h in memory]
            scores = np.array([float((w["score.weight"] @ b)[0]) for b in both])
        weights = np.exp(scores - scores.max())
        return sum(a * h for a, h in zip(weights / weights.sum(), memory, strict=True))

    logits = []
    for token in target:
        y = given[token]
        if net.kind == "bahdanau":
            c = look(state[0])
            state = cell("decoder.0", np.concatenate([y, c]), state)
            out = np.tanh(w["combine.weight"] @ np.concatenate([c, state[0], y]))
        else:
            state = cell("decoder.0", np.concatenate([y, feed]) if net.input_feeding else y, state)
            out = feed = np.tanh(w["combine.weight"] @ np.concatenate([look(state[0]), state[0]]))
        logits.append(output @ out)
    return np.stack(logits)


@pytest.mark.parametrize(("cell", "shared"), [("gru", True), ("gru", False), ("lstm", True)])
@pytest.mark.parametrize(("attention", "input_feeding"), KINDS)
def test_equals_the_equations(attention: str, input_feeding: bool, cell: str, shared: bool) -> None:
    net = model(attention, input_feeding, cell, shared=shared)
    with torch.no_grad():
        got = net(SOURCE, TARGET)
    np.testing.assert_allclose(got[0], slowly(net, [5, 6, 7, 3], [2, 8, 9, 10, 11]), atol=1e-6)
    np.testing.assert_allclose(got[1, :3], slowly(net, [9, 3], [2, 12, 4]), atol=1e-6)


def test_an_lstm_decoder_of_two_layers() -> None:
    net = model("luong_general", True, "lstm", 2)
    w = {name: p.detach().numpy() for name, p in net.named_parameters()}
    with torch.no_grad():
        state = net.start(SOURCE)
        before = [[t[1].numpy() for t in layer] for layer in state.hidden]
        _, state = net.step(torch.tensor([2, 2]), state)
    assert not before[0][1].any()  # the cell starts empty
    x = np.concatenate(
        [w["target_embedding.weight" if "target_embedding.weight" in w else "source_embedding.weight"][2]]
    )
    x = np.concatenate([x, np.zeros(6)])
    for i in range(2):
        h, c = lstm(w, f"decoder.{i}", x, *before[i])
        np.testing.assert_allclose(state.hidden[i][0][1], h, atol=1e-6)
        np.testing.assert_allclose(state.hidden[i][1][1], c, atol=1e-6)
        x = h


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("attention", "input_feeding"), KINDS)
def test_steps_are_the_whole_and_reordering_takes_all_along(attention: str, input_feeding: bool, cell: str) -> None:
    net = model(attention, input_feeding, cell, 2)
    with torch.no_grad():
        whole = net(SOURCE, TARGET)
        state = net.start(SOURCE, attention=True)
        for t in range(5):
            logits, state = net.step(TARGET[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(state.attention.sum(1), torch.ones(2))
            assert not state.attention[SOURCE == 0].any()
        state = net.start(SOURCE)
        _, state = net.step(torch.tensor([2, 2]), state)
        state = net.reorder(state, torch.tensor([[0, 0], [1, 1]]))
        _, state = net.step(torch.tensor([7, 8, 9, 10]), state)
        state = net.reorder(state, torch.tensor([[3, 2]]))  # the first sentence leaves
        logits, _ = net.step(torch.tensor([11, 12]), state)
        for got, given in zip(logits, ([2, 10, 11], [2, 9, 12]), strict=True):
            torch.testing.assert_close(got, net(SOURCE[1:], torch.tensor([given]))[0, -1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("cell", "rnn"), ("attention", "dot")])
def test_other_kinds_are_refused(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        RNNAttention(vocab_size=20, **{option: value})
