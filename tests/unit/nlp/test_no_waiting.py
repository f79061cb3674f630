"""What a training step of language models does not do, so that a GPU is never waited for: look at a value."""

from __future__ import annotations

import pytest
import torch

from paddlecore import run
from paddlecore.data import to_device
from paddlecore.testing import tiny

RECIPES = (
    "textcnn_mr",
    "senta_bow_chnsenticorp",
    "senta_cnn_chnsenticorp",
    "senta_bilstm_chnsenticorp",
    "dssm_wikiqa",
    "cdssm_wikiqa",
    "arci_wikiqa",
    "simnet_gru_wikiqa",
    "simnet_bow_msrp",
    "lstm_lm_ptb_small",
    "transformer_multi30k",
)  # fmt: skip - the encoder of rnn_attention_multi30k is packed by lengths, which cuDNN takes from the host


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_step_looks_at_no_value(recipe: str) -> None:
    """Tensors of the device `meta` have none: what the host would wait for is an error there."""
    cfg = tiny(f"nlp/{recipe}")
    data = run._data(cfg)
    data.prepare()
    task, rows = run._task(cfg, data).to("meta"), data.rows("train")
    batch = to_device(rows.fetch(data.plan(rows).rows(0, 0), 0), torch.device("meta"))
    task(batch).loss_sum.backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
