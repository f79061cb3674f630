"""Number formats of the forward and backward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from paddlecore.errors import NonFiniteLoss

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """fp32: nothing; bf16, fp16: matrix products and convolutions in that type, weights and sums stay in float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])


class LossScaler:
    """Dynamic loss scaling for fp16 (Micikevicius et al., 2018, section 3.2).

    The loss is multiplied by `scale` before backward so that small gradients do not vanish; the step is left out, and the scale halved,
    when a gradient overflowed. The decision is made on the norm of the already reduced gradient, so it is the same on every
    rank. torch's GradScaler does the same for gradients in `.grad`; those of row tables are not there.
    """

    def __init__(
        self, device: torch.device, start: float = 2.0**16, interval: int = 2000, least: float = 2.0**-14
    ) -> None:
        self.scale = torch.tensor(start, device=device)
        self.interval, self.least = interval, least
        self.good_steps = 0

    def good(self, norm: Tensor | None) -> bool:
        """May this step be taken? Adjusts the scale for the next one.

        Raises:
            NonFiniteLoss: gradients overflow although the scale is as low as it gets.
        """
        if norm is not None and not bool(torch.isfinite(norm)):  # fp16 has to look: one host sync a step
            self.good_steps = 0
            self.scale = self.scale * 0.5
            if float(self.scale) < self.least:
                raise NonFiniteLoss("gradients overflow in fp16 at every loss scale; train.precision=bf16 has more range")
            return False
        self.good_steps += 1
        if self.good_steps % self.interval == 0:
            self.scale = self.scale * 2.0
        return True

    def state_dict(self) -> dict[str, float]:
        return {"scale": float(self.scale), "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = torch.full_like(self.scale, state["scale"])
        self.good_steps = int(state["good_steps"])
