"""Autocast and loss scaling."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch import nn

from paddlecore.errors import NonFiniteLoss
from paddlecore.precision import LossScaler, autocast

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:train.precision")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_run_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    layer, x = nn.Linear(8, 4), torch.randn(5, 8)
    with autocast(precision, CPU):
        y = layer(x)
        loss = nn.functional.cross_entropy(y, torch.zeros(5, dtype=torch.int64))
    assert y.dtype == dtype and loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    assert torch.allclose(y.float(), layer(x), atol=0.05)


@pytest.mark.filterwarnings("always")
def test_emulation_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.warns(UserWarning, match="train.precision=bf16 on a processor without AVX-512"):
        autocast("bf16", CPU)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autocast("bf16", CPU)


def test_scale_halves_doubles_and_recovers() -> None:
    scaler = LossScaler(CPU, initial=8.0, interval=3)
    fine, bad = torch.tensor(1.0), torch.tensor(math.inf)
    taken = [scaler.good(n, 0) for n in (fine, fine, bad, fine, fine, fine, fine)]
    assert taken == [True, True, False, True, True, True, True]
    assert float(scaler.scale) == 8.0 / 2 * 2 and scaler.good_steps == 1  # the bad step began the count anew
    assert not scaler.good(torch.tensor(math.nan), 7) and float(scaler.scale) == 4.0


def test_at_the_floor_it_is_not_overflow() -> None:
    scaler = LossScaler(CPU, initial=4.0, floor=1.5)
    bad = torch.tensor(math.nan)
    assert [scaler.good(bad, 0), scaler.good(bad, 1)] == [False, False] and float(scaler.scale) == 1.5
    with pytest.raises(NonFiniteLoss, match=r"of step 3 is not .* loss scale of 1.5; train.precision=bf16"):
        scaler.good(bad, 2)


def test_state_is_json() -> None:
    scaler = LossScaler(CPU, interval=5)
    for norm in (1.0, math.inf, 1.0, 1.0):
        scaler.good(torch.tensor(norm), 0)
    again = LossScaler(CPU, interval=5)
    again.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert float(again.scale) == 2.0**15 and again.good_steps == 2
    assert again.scale.dtype == torch.float32


def test_scaling_saves_gradients_that_fp16_would_lose() -> None:
    """A gradient of 1e-8 lies below fp16's smallest number; scaled it comes through, to fp16's digits."""
    grads = []
    for scale in (1.0, 2.0**16):
        layer = nn.Linear(4, 1, bias=False)
        with autocast("fp16", CPU):
            y = layer(torch.ones(1, 4))
        (y.float() * 1e-8 * scale).sum().backward()  # the cast's backward is what loses it
        assert layer.weight.grad is not None
        grads.append(layer.weight.grad / scale)
    assert not grads[0].any()
    assert torch.allclose(grads[1], torch.full((1, 4), 1e-8), rtol=1e-3)
