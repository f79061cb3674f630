"""Metrics of recommendation: rankings and probabilities, exact over ranks."""

from __future__ import annotations

from paddlerec.metrics.auc import AUC, auc
from paddlerec.metrics.gauc import GAUC
from paddlerec.metrics.logloss import LogLoss
from paddlerec.metrics.order_rate import OrderRate
from paddlerec.metrics.precision import PrecisionAt1
from paddlerec.metrics.ranking import Ranking

__all__ = ["AUC", "GAUC", "LogLoss", "OrderRate", "PrecisionAt1", "Ranking", "auc"]
