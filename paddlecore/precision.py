"""Arithmetic of forward and backward: fp32, bf16 or fp16; weights, table rows and optimiser state stay float32."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paddlecore.errors import NonFiniteLoss

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SLOW = "train.precision={} on a processor without AVX-512: it is emulated, several times slower than fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products and convolutions inside run in `precision` (fp32, bf16 or fp16); operators that need the range,
    such as losses and norms, in float32. On a GPU and on a CPU alike; a CPU without AVX-512 has no instructions for it
    and is warned of once, for products there take several times as long as in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if emulated(precision, device):
        warnings.warn(_SLOW.format(precision), stacklevel=2)  # shown once for each place that calls
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def emulated(precision: str, device: torch.device) -> bool:
    """Whether the device has no instructions for products in `precision`."""
    slow = ("NO AVX", "DEFAULT", "AVX2")
    return precision != "fp32" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in slow


class LossScaler:
    """Dynamic loss scaling for fp16, whose smallest normal number is 6e-5 (Micikevicius et al., 2018, sec. 3.2).

    The trainer multiplies the loss by `scale` and divides the gradient by it. A step whose gradient is not finite is
    left out and the scale halved; after `interval` good steps it doubles. `good` is given the norm of the gradient that
    is already reduced over ranks, so all ranks decide alike without asking each other. It waits for the device.

    Args:
        device: where `scale` lives.
        initial: scale of the first step.
        interval: good steps before the scale doubles.
        floor: least scale. A loss that is a sum over a batch needs less than 1 when the batch is large.
    """

    def __init__(
        self, device: torch.device, *, initial: float = 2.0**16, interval: int = 2000, floor: float = 2.0**-16
    ) -> None:
        self.scale: Tensor = torch.tensor(initial, device=device)  # [] float32
        self.interval, self.floor = interval, floor
        self.good_steps = 0  # since the scale last changed

    def good(self, norm: Tensor | None, step: int) -> bool:
        """Whether to take the (0-based) step, from the norm [] of its unscaled gradient. Adapts the scale for the next.

        Raises:
            NonFiniteLoss: the gradient is not finite at the least scale either, so it is not overflow.
        """
        assert norm is not None
        if bool(torch.isfinite(norm)):
            self.good_steps += 1
            if self.good_steps == self.interval:
                self.scale, self.good_steps = self.scale * 2.0, 0
            return True
        if float(self.scale) <= self.floor:
            raise NonFiniteLoss(
                f"the gradient of step {step + 1} is not finite in fp16 even at a loss scale of {self.floor:g}; "
                "train.precision=bf16 or fp32 has the range, a lower optim.lr or train.clip_norm=1 may help"
            )
        self.scale, self.good_steps = (self.scale * 0.5).clamp(min=self.floor), 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"scale": float(self.scale), "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scale = torch.full_like(self.scale, state["scale"])
        self.good_steps = int(state["good_steps"])
