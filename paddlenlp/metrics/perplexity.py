"""Perplexity: exp of the mean negative log-likelihood of a token."""

from __future__ import annotations

import math

from paddlecore.metric import Mean


class Perplexity(Mean):
    """exp(sum of -log P(token) / tokens): `update` is given that sum, natural logarithm. States: two numbers.

    Args:
        unit: what is counted, for the signature, e.g. `piece` or `word`.
        name: of the number.
    """

    def __init__(self, unit: str = "piece", name: str = "perplexity") -> None:
        super().__init__(name)
        self.signature = f"{name}|per {unit}, end token included"

    def compute(self) -> dict[str, float]:
        """Infinite where the mean is too large for a float."""
        means = super().compute()
        return {name: math.exp(mean) if not mean > 700 else math.inf for name, mean in means.items()}
