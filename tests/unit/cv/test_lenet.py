"""LeNet against loops over pixels, and the parameter count of the paper's layer sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paddlecore.errors import DataError
from paddlecv.models import LeNet


def convolved(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [maps, H - 4, W - 4], by the definition."""
    maps, _, k, _ = weight.shape
    high, wide = image.shape[1] - k + 1, image.shape[2] - k + 1
    out = np.empty((maps, high, wide))
    for m in range(maps):
        for i in range(high):
            for j in range(wide):
                out[m, i, j] = bias[m] + (weight[m] * image[:, i : i + k, j : j + k]).sum()
    return out


def pooled(image: np.ndarray) -> np.ndarray:
    out = np.empty((image.shape[0], image.shape[1] // 2, image.shape[2] // 2))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            out[:, i, j] = image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_a_slow_transcription(channels: int) -> None:
    torch.manual_seed(0)
    model = LeNet(num_classes=4, in_channels=channels, dropout=0.3).eval()
    image = torch.randn(2, channels, 28, 28)
    w = [p.detach().double().numpy() for p in model.parameters()]
    expected = []
    for one in image.double().numpy():
        x = np.pad(one, ((0, 0), (2, 2), (2, 2)))
        x = pooled(np.maximum(convolved(x, w[0], w[1]), 0))
        x = pooled(np.maximum(convolved(x, w[2], w[3]), 0)).reshape(-1)
        x = np.maximum(w[4] @ x + w[5], 0)
        x = np.maximum(w[6] @ x + w[7], 0)
        expected.append(w[8] @ x + w[9])
    np.testing.assert_allclose(model(image).detach().numpy(), expected, atol=1e-5)


def test_parameter_count() -> None:
    # C1 156 and C5, F6 10 164 as in the paper; C3 sees all maps: 16 (6 * 25 + 1); the output is a linear layer
    sizes = [6 * 26, 16 * 151, 120 * 401, 84 * 121, 10 * 85]
    assert sum(p.numel() for p in LeNet(num_classes=10).parameters()) == sum(sizes) == 61_706


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, image = LeNet(num_classes=10, dropout=0.5), torch.randn(2, 1, 28, 28)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


def test_another_size_is_named() -> None:
    with pytest.raises(DataError, match=r"28 x 28 pixels, got \(42, 42\)"):
        LeNet(num_classes=10)(torch.zeros(1, 1, 42, 42))
