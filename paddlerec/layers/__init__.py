"""What several recommendation models share."""

from __future__ import annotations

from paddlerec.layers.ann import ApproximateIndex
from paddlerec.layers.dice import Dice
from paddlerec.layers.fields import FieldTable, check_dense, with_dense
from paddlerec.layers.history import mean_of_history
from paddlerec.layers.interaction import fm_pooling
from paddlerec.layers.mlp import mlp
from paddlerec.layers.softmax import softmax_loss
from paddlerec.layers.topk import rank_among, rank_of, top_k

__all__ = [
    "ApproximateIndex",
    "Dice",
    "FieldTable",
    "check_dense",
    "fm_pooling",
    "mean_of_history",
    "mlp",
    "rank_among",
    "rank_of",
    "softmax_loss",
    "top_k",
    "with_dense",
]
