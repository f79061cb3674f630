"""Click-through rate of an item after a history."""

from __future__ import annotations

from torch import Tensor, nn

from paddlecore.errors import ConfigError
from paddlecore.task import Batch
from paddlerec.tasks.ctr import CTR


class HistoryCTR(CTR):
    """Binary cross-entropy of one logit a row; AUC over all rows, and within each user.

    Batch: history, history_category [B, T] int64, padded on the right with 0; optional places [n] int64, where in the
    flat [B * T] the history holds items; item, category, user [B] int64; label [B] float32, 0 or 1.
    Prediction: score [B] the logit, probability [B].

    Args:
        model: maps (history, history_category, item, category, places or None) to logits [B].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, gauc=True)

    def logit(self, batch: Batch) -> Tensor:
        names = ("history", "history_category", "item", "category")
        if missing := [name for name in names if name not in batch]:
            raise ConfigError(
                f"HistoryCTR needs {', '.join(missing)} in a batch, as AmazonCtrData gives it; a table with a column "
                "of histories goes with paddlerec.tasks.CTR and paddlerec.models.DeepCTR"
            )
        return self.model(*(batch[name] for name in names), batch.get("places")).float()
