"""What several recommendation models share."""

from __future__ import annotations

from paddlerec.layers.fields import FieldTable, with_dense
from paddlerec.layers.interaction import fm_pooling
from paddlerec.layers.mlp import mlp

__all__ = ["FieldTable", "fm_pooling", "mlp", "with_dense"]
