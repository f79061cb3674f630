"""Encoders of texts and the Senta networks: against plain loops over steps; padding, and texts of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paddlenlp.layers import BagOfWords, Convolution, Recurrent, text_lengths, word_vectors
from paddlenlp.models import SentaBiLSTM, SentaBOW, SentaCNN, SentaGRU, SentaLSTM

SENTA = [SentaBOW, SentaCNN, SentaLSTM, SentaGRU, SentaBiLSTM]
TEXTS = [[4], [8, 2], [5, 1, 8, 2, 2, 9, 3]]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_states(words: np.ndarray, cell: nn.Module) -> list[np.ndarray]:
    """Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000."""
    wi, wh, bi, bh = (p.detach().double().numpy() for p in cell.parameters())
    h = c = np.zeros(wh.shape[1])
    states = []
    for x in words:
        i, f, g, o = np.split(wi @ x + bi + wh @ h + bh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return states


def gru_states(words: np.ndarray, cell: nn.Module) -> list[np.ndarray]:
    """Cho et al., 2014, the reset gate after the matrix product, as torch has it."""
    wi, wh, bi, bh = (p.detach().double().numpy() for p in cell.parameters())
    h = np.zeros(wh.shape[1])
    states = []
    for x in words:
        (ri, zi, ni), (rh, zh, nh) = np.split(wi @ x + bi, 3), np.split(wh @ h + bh, 3)
        z = sigmoid(zi + zh)
        h = (1 - z) * np.tanh(ni + sigmoid(ri + rh) * nh) + z * h
        states.append(h)
    return states


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("pool", ["last", "max"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_recurrent_encoders_equal_a_loop_over_steps(kind: str, pool: str, both_ways: bool) -> None:
    torch.manual_seed(0)
    net = Recurrent(kind=kind, dim=5, hidden=4, pool=pool, both_ways=both_ways)
    lengths = torch.tensor([3, 1, 6])
    words = torch.randn(3, 6, 5) * (torch.arange(6) < lengths[:, None])[:, :, None]
    found = net(words, lengths).detach().numpy()
    assert found.shape == (3, net.size)
    states_of = lstm_states if kind == "lstm" else gru_states
    for row, length in enumerate(lengths.tolist()):
        text = words[row, :length].double().numpy()
        expected = []
        for order, cell in ((1, net.forwards), (-1, net.backwards))[: 1 + both_ways]:
            states = states_of(text[::order], cell)
            expected.append(states[-1] if pool == "last" else np.max(states, 0))
        np.testing.assert_allclose(found[row], np.concatenate(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_convolution_equals_a_loop_over_windows(width: int) -> None:
    torch.manual_seed(0)
    net = Convolution(dim=4, maps=6, width=width)
    lengths = torch.tensor([5, 1, 2])
    words = torch.randn(3, 5, 4) * (torch.arange(5) < lengths[:, None])[:, :, None]
    found = net(words, lengths).detach().numpy()
    kernel, bias = (p.detach().double().numpy() for p in net.filters.parameters())  # [6, 4, width], [6]
    left = (width - 1) // 2
    for row, length in enumerate(lengths.tolist()):
        text = [np.zeros(4)] * left + list(words[row, :length].double().numpy()) + [np.zeros(4)] * width
        windows = [sum(kernel[:, :, k] @ text[t + k] for k in range(width)) + bias for t in range(length)]
        np.testing.assert_allclose(found[row], np.max(np.tanh(windows), 0), rtol=1e-5, atol=1e-6)


def test_bag_of_words_is_a_sum() -> None:
    words = torch.randn(2, 3, 4)
    torch.testing.assert_close(BagOfWords(dim=4)(words, torch.tensor([3, 3])), words[:, 0] + words[:, 1] + words[:, 2])


def test_lengths_and_word_vectors() -> None:
    tokens = torch.tensor([[3, 0, 4, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert text_lengths(tokens, 0).tolist() == [3, 0, 4]
    table = word_vectors(100, 8, 0, 0.2)
    assert not table.weight[0].any() and 0.19 < float(table.weight.detach().abs().max()) <= 0.2


def test_bow_equals_its_definition() -> None:
    torch.manual_seed(0)
    net = SentaBOW(vocab_size=12, num_classes=3, dim=5, hidden=7, hidden2=6)
    w = {name: p.detach().double().numpy() for name, p in net.named_parameters()}
    x = np.tanh(sum(w["embedding.weight"][t] for t in TEXTS[2]))
    for i in (0, 1):
        x = np.tanh(w[f"hidden.{i}.weight"] @ x + w[f"hidden.{i}.bias"])
    expected = w["output.weight"] @ x + w["output.bias"]
    np.testing.assert_allclose(net(torch.tensor(TEXTS[2:])).detach().numpy()[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", SENTA)
def test_scores_and_gradients_do_not_depend_on_padding(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = model(vocab_size=12, num_classes=3).eval()
    alone = torch.stack([net(torch.tensor([text]))[0] for text in TEXTS])
    grads = []
    for width in (7, 8, 20):
        net.zero_grad()
        scores = net(torch.tensor([text + [0] * (width - len(text)) for text in TEXTS]))
        torch.testing.assert_close(scores, alone, rtol=1e-5, atol=1e-6)
        scores.square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[2][name], rtol=1e-4, atol=1e-6)
    assert not grads[2]["embedding.weight"][0].any()  # the vector of padding stays zero


@pytest.mark.parametrize("model", SENTA)
def test_texts_of_every_kind_give_finite_scores(model: type[nn.Module]) -> None:
    net = model(vocab_size=12, num_classes=2)
    for text in ([0, 0, 0], [1], [1] * 6, [1, 7] * 400):  # without tokens, one, all unknown, long
        scores = net(torch.tensor([text]))
        assert scores.shape == (1, 2) and torch.isfinite(scores).all()
        net.zero_grad()
        scores.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_senta_sizes() -> None:
    """Parameters beside the word vectors, by hand."""

    def count(net: nn.Module) -> int:
        return sum(p.numel() for name, p in net.named_parameters() if not name.startswith("embedding"))

    sizes = {"vocab_size": 12, "num_classes": 2}
    head = 128 * 96 + 96 + 96 * 2 + 2
    assert count(SentaBOW(**sizes)) == 128 * 128 + 128 + head
    assert count(SentaCNN(**sizes)) == 3 * 128 * 128 + 128 + head
    assert count(SentaLSTM(**sizes)) == 4 * (128 * 256 + 2 * 128) + head
    assert count(SentaGRU(**sizes)) == 3 * (128 * 256 + 2 * 128) + head
    assert count(SentaBiLSTM(**sizes)) == 8 * (128 * 256 + 2 * 128) + head + 128 * 96


def test_refuses_kinds_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="kind must be lstm or gru"):
        Recurrent(kind="rnn", dim=2, hidden=2)
    with pytest.raises(ValueError, match="pool last or max"):
        Recurrent(kind="gru", dim=2, hidden=2, pool="mean")
    with pytest.raises(ValueError, match="width must be at least 1"):
        Convolution(dim=2, maps=2, width=0)
