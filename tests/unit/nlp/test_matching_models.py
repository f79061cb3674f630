"""DSSM, CDSSM, ARC-I and SimNet against plain loops over their papers' equations; padding; texts of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from paddlenlp.models import ARCI, CDSSM, DSSM, SimNet

QUERY, DOCUMENT = [4, 7], [5, 1, 8, 2, 2, 9, 3]
WORDS = [[3, 4], [5], [6, 7, 3]]  # a text by letter trigrams

MODELS: dict[str, Callable[[], nn.Module]] = {
    "dssm": lambda: DSSM(vocab_size=12, hidden=[7, 6, 5]),
    "cdssm": lambda: CDSSM(vocab_size=12, maps=6, dim=5),
    "arci": lambda: ARCI(vocab_size=12, query_length=8, document_length=12, dim=5, maps=[6, 4], hidden=7),
    "arci overlap": lambda: ARCI(vocab_size=12, query_length=8, document_length=12, dim=5, overlap=True),
    **{
        f"simnet {encoder} {head}": lambda encoder=encoder, head=head: SimNet(
            vocab_size=12, encoder=encoder, head=head, dim=6, hidden=5, size=4
        )
        for encoder in ("bow", "cnn", "lstm", "gru")
        for head in ("cosine", "mlp")
    },
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def numbers(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in net.named_parameters()}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def padded(texts: list[list[int]], width: int = 0) -> torch.Tensor:
    width = max(width, *map(len, texts))
    return torch.tensor([text + [0] * (width - len(text)) for text in texts])


def test_dssm_equals_its_equations() -> None:
    net = made("dssm")
    w = numbers(net)

    def tower(terms: list[int]) -> np.ndarray:
        counts = np.bincount(terms, minlength=12).astype(float)  # the term vector, eq. 3
        x = np.tanh(w["terms.weight"].T @ counts + w["bias"])
        for i in (0, 1):
            x = np.tanh(w[f"layers.{i}.weight"] @ x + w[f"layers.{i}.bias"])
        return x

    expected = 10.0 * cosine(tower(QUERY), tower(DOCUMENT))  # eq. 4
    assert net(padded([QUERY]), padded([DOCUMENT])).item() == pytest.approx(expected, rel=1e-5)
    flat = [term for word in WORDS for term in word]  # words as bags of trigrams: one bag of all
    torch.testing.assert_close(net(padded([QUERY]), padded(WORDS)[None]), net(padded([QUERY]), padded([flat])))


def test_cdssm_equals_its_equations() -> None:
    net = made("cdssm")
    w = numbers(net)
    table = w["terms.weight"].reshape(12, 3, 6)

    def tower(words: list[list[int]]) -> np.ndarray:
        counts = [np.bincount(word, minlength=12).astype(float) for word in words]
        counts = [np.zeros(12), *counts, np.zeros(12)]
        # W_c l_t with l_t the three count vectors side by side (eq. 2), then the maximum (eq. 3) and W_s (eq. 4)
        h = [
            np.tanh(sum(np.einsum("vm,v->m", table[:, k], counts[t + k]) for k in range(3)) + w["bias"])
            for t in range(len(words))
        ]
        return np.tanh(w["output.weight"] @ np.max(h, 0) + w["output.bias"])

    document = [[5], [1, 8], [2, 2, 9], [3]]
    expected = 10.0 * cosine(tower(WORDS), tower(document))
    found = net(padded(WORDS)[None], padded(document)[None])
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_arci_equals_its_equations() -> None:
    net = made("arci")
    w = numbers(net)

    def sentence(tokens: list[int], length: int, name: str) -> np.ndarray:
        rows = [w["embedding.weight"][t] for t in tokens] + [np.zeros(5)] * (length - len(tokens))
        there = [True] * len(tokens) + [False] * (length - len(tokens))
        for layer in (0, 1):
            kernel, bias = w[f"{name}.{layer}.weight"], w[f"{name}.{layer}.bias"]
            none = np.zeros(kernel.shape[1])
            side, gates = [none, *rows, none], [False, *there, False]
            rows, open_gate = [], []
            for t in range(len(there)):  # eq. 2, with g(z) = 0 where all of the window is padding
                gate = any(gates[t : t + 3])
                value = bias + sum(kernel[:, :, k] @ side[t + k] for k in range(3))
                rows.append(np.maximum(value, 0) * gate)
                open_gate.append(gate)
            rows = [np.maximum(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]  # eq. 3
            there = [open_gate[i] or open_gate[i + 1] for i in range(0, len(open_gate) - 1, 2)]
        return np.stack(rows, 1).ravel()

    joined = np.concatenate([sentence(QUERY, 8, "query_layers"), sentence(DOCUMENT, 12, "document_layers")])
    hidden = np.tanh(w["hidden.weight"] @ joined + w["hidden.bias"])
    expected = float(w["output.weight"][0] @ hidden)
    assert net(padded([QUERY]), padded([DOCUMENT])).item() == pytest.approx(expected, rel=1e-4)


def test_arci_overlap_marks_the_words_that_both_have() -> None:
    net = made("arci overlap")
    with torch.no_grad():
        net.embedding.weight[2] += net.overlap  # word 2, marked by hand, in a pair where nothing is shared
    by_hand = net(padded([[4, 7]]), padded([[2, 3]]))
    with torch.no_grad():
        net.embedding.weight[2] -= net.overlap
        net.embedding.weight[7] = net.embedding.weight[2] - net.overlap
        net.embedding.weight[2] = net.embedding.weight[7]
    assert torch.isfinite(by_hand).all()
    without = made("arci overlap")
    without.overlap.data.zero_()
    same = made("arci overlap")
    pair = (padded([[4, 7]]), padded([[5, 3]]))
    torch.testing.assert_close(same(*pair), without(*pair))  # nothing shared, nothing marked
    pair = (padded([[4, 7]]), padded([[5, 7]]))
    assert not torch.allclose(same(*pair), without(*pair))
    same.unknown_id = 7  # which may stand for two words
    torch.testing.assert_close(same(*pair), without(*pair))


@pytest.mark.parametrize("head", ["cosine", "mlp"])
@pytest.mark.parametrize("encoder", ["bow", "cnn", "lstm", "gru"])
def test_simnet_equals_its_definition(encoder: str, head: str) -> None:
    net = made(f"simnet {encoder} {head}")
    w = numbers(net)

    def encoded(words: list[np.ndarray]) -> np.ndarray:
        if encoder == "bow":
            total = sum(words)
            return total / (1 + np.abs(total))  # softsign
        if encoder == "cnn":
            kernel, bias = w["encoder.filters.weight"], w["encoder.filters.bias"]
            side = [np.zeros(6), *words, np.zeros(6)]
            windows = [bias + sum(kernel[:, :, k] @ side[t + k] for k in range(3)) for t in range(len(words))]
            return np.max(np.tanh(windows), 0)
        wi, wh, bi, bh = (w[f"encoder.forwards.{p}_l0"] for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = np.zeros(5)
        for x in words:
            given, kept = wi @ x + bi, wh @ h + bh
            if encoder == "lstm":
                i, f, g, o = np.split(given + kept, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                (r, z, n), (r_kept, z_kept, n_kept) = np.split(given, 3), np.split(kept, 3)
                z = sigmoid(z + z_kept)
                h = (1 - z) * np.tanh(n + sigmoid(r + r_kept) * n_kept) + z * h
        return h  # after the last word

    def vector(tokens: list[int]) -> np.ndarray:
        return w["project.weight"] @ encoded([w["embedding.weight"][t] for t in tokens]) + w["project.bias"]

    u, v = vector(QUERY), vector(DOCUMENT)
    if head == "cosine":
        expected = 10.0 * cosine(u, v)
    else:
        both = np.concatenate([u, v, np.abs(u - v), u * v])
        hidden = np.tanh(w["compare.0.weight"] @ both + w["compare.0.bias"])
        expected = float((w["compare.2.weight"] @ hidden + w["compare.2.bias"])[0])
    assert net(padded([QUERY]), padded([DOCUMENT])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_scores_do_not_depend_on_padding(name: str) -> None:
    net = made(name)
    pairs = [(QUERY, DOCUMENT), ([3], [6]), ([5, 9, 2], [2])]
    alone = torch.cat([net(padded([q]), padded([d])) for q, d in pairs])
    for width in (7, 8, 15):
        together = net(padded([q for q, _ in pairs], width - 3), padded([d for _, d in pairs], width))
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_texts_of_every_kind_give_finite_scores_and_gradients(name: str) -> None:
    net = made(name)
    for text in ([0, 0], [1], [1] * 5, [1, 7] * 200):  # without tokens, one, all unknown, long
        for query, document in ((text, [3, 4]), ([3, 4], text), (text, text)):
            net.zero_grad()
            score = net(torch.tensor([query]), torch.tensor([document]))
            assert score.shape == (1,) and torch.isfinite(score).all()
            score.sum().backward()
            assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_refuses_sizes_without_meaning() -> None:
    with pytest.raises(ValueError, match="width must be odd"):
        CDSSM(vocab_size=5, width=2)
    with pytest.raises(ValueError, match="width must be odd"):
        ARCI(vocab_size=5, query_length=8, document_length=8, width=4)
    with pytest.raises(ValueError, match="at least 4 words, got query_length=3, document_length=8"):
        ARCI(vocab_size=5, query_length=3, document_length=8)
    with pytest.raises(ValueError, match="maps must have"):
        ARCI(vocab_size=5, query_length=8, document_length=8, maps=[])
    with pytest.raises(ValueError, match="hidden must have"):
        DSSM(vocab_size=5, hidden=[])
    with pytest.raises(ValueError, match="encoder must be"):
        SimNet(vocab_size=5, encoder="rnn")
    with pytest.raises(ValueError, match="pool must be last or max"):
        SimNet(vocab_size=5, encoder="bow", pool="mean")  # which does not look at it


def test_a_whole_number_may_stand_for_the_scale() -> None:
    """As `model.scale=20` is read."""
    assert float(SimNet(vocab_size=5, scale=20).scale.detach()) == 20.0
