"""TextCNN against loops over windows; padding, short texts, and the bound on the last layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paddlenlp.models import TextCNN

SIZES = {"vocab_size": 30, "num_classes": 3, "dim": 5, "widths": (2, 3, 4), "maps": 6}


def model(**options: object) -> TextCNN:
    torch.manual_seed(0)
    return TextCNN(**{**SIZES, **options}).eval()  # type: ignore[arg-type]


def slowly(net: TextCNN, tokens: list[int]) -> np.ndarray:
    """Scores of one text, by the definition: every window with at least one token, zeros beyond the ends."""
    w = {name: p.detach().double().numpy() for name, p in net.named_parameters()}
    words = [w["embedding.weight"][token] for token in tokens]
    features = []
    for i, width in enumerate(SIZES["widths"]):  # type: ignore[call-overload]
        kernel, bias = w[f"convolutions.{i}.weight"], w[f"convolutions.{i}.bias"]  # [maps, dim, width], [maps]
        beyond = [np.zeros(5)] * (width - 1)
        padded = beyond + words + beyond
        for m in range(6):
            values = []
            for start in range(len(words) + width - 1):
                values.append(bias[m] + sum(kernel[m, :, k] @ padded[start + k] for k in range(width)))
            features.append(max(0.0, *values))
    rows = [row * min(1.0, 3.0 / np.linalg.norm(row)) for row in w["output.weight"]]
    return np.stack(rows) @ features + w["output.bias"]


@pytest.mark.parametrize("tokens", [[7], [3, 9], [5, 1, 8, 2, 2, 29, 14]])
def test_equals_a_slow_transcription(tokens: list[int]) -> None:
    net = model()
    with torch.no_grad():
        net.output.weight[1] *= 40  # beyond the bound
    found = net(torch.tensor([tokens])).detach().numpy()[0]
    np.testing.assert_allclose(found, slowly(net, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_do_not_depend_on_padding(sign: float) -> None:
    """Also where every real window scores below one of padding alone, so that it would win the maximum."""
    net = model()
    with torch.no_grad():
        for convolution in net.convolutions:
            convolution.weight.mul_(0).sub_(sign)
            convolution.bias.fill_(5.0)
        net.embedding.weight[1:].abs_()
    texts = [[4], [8, 2], [5, 1, 8, 2, 2, 29, 14]]
    alone = [net(torch.tensor([text]))[0] for text in texts]
    for width in (7, 8, 20):
        batch = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        torch.testing.assert_close(net(batch), torch.stack(alone), rtol=1e-6, atol=1e-6)


def test_gradients_do_not_depend_on_padding() -> None:
    grads = []
    for width in (3, 11):
        net = model()
        net(torch.tensor([[6, 7, 8] + [0] * (width - 3)])).square().sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-5, atol=1e-7)
    assert not grads[1]["embedding.weight"][0].any()  # the vector of padding stays zero


def test_a_text_without_tokens_gives_finite_scores() -> None:
    net = model()
    scores = net(torch.zeros(1, 6, dtype=torch.int64))
    assert torch.isfinite(scores).all()


def test_weights_of_a_class_are_bounded() -> None:
    net, tokens = model(), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        net.output.weight.copy_(10 * torch.nn.functional.normalize(net.output.weight, dim=1))
    long = net(tokens) - net.output.bias
    with torch.no_grad():
        net.output.weight.mul_(3.0 / 10.0)
    torch.testing.assert_close(long, net(tokens) - net.output.bias)  # only the direction counted
    free = model(max_norm=None)
    free.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(tokens), free(tokens))  # within the bound nothing is changed
    free.output.weight.data.mul_(10)
    torch.testing.assert_close(10 * (net(tokens) - net.output.bias), free(tokens) - free.output.bias)


def test_sizes_without_meaning_are_refused() -> None:
    for options in ({"widths": []}, {"widths": [3, 0]}, *({"max_norm": x} for x in (0.0, -1.0, math.nan))):
        with pytest.raises(ValueError, match=next(iter(options))):
            TextCNN(vocab_size=5, num_classes=2, **options)  # type: ignore[arg-type]


def test_parameter_count() -> None:
    """Words x 300; for each width h, 100 filters of 300 h weights and a bias; 2 classes x 300 features and a bias."""
    net = TextCNN(vocab_size=1000, num_classes=2)
    assert sum(p.numel() for p in net.parameters()) == 1000 * 300 + 100 * (300 * 12 + 3) + 2 * 301
    weight = net.embedding.weight.detach()
    assert not weight[0].any() and weight.min() >= -0.25 and weight.max() <= 0.25 and weight.std() > 0.14
