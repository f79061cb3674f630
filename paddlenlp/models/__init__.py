"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlenlp.models.arci import ARCI
from paddlenlp.models.cdssm import CDSSM
from paddlenlp.models.dssm import DSSM
from paddlenlp.models.lstm_lm import LSTMLM
from paddlenlp.models.rnn_attention import RNNAttention
from paddlenlp.models.senta import SentaBiLSTM, SentaBOW, SentaCNN, SentaGRU, SentaLSTM
from paddlenlp.models.simnet import SimNet
from paddlenlp.models.textcnn import TextCNN
from paddlenlp.models.transformer import Transformer

__all__ = [
    "LSTMLM",
    "ARCI",
    "CDSSM",
    "DSSM",
    "RNNAttention",
    "SentaBOW",
    "SentaBiLSTM",
    "SentaCNN",
    "SentaGRU",
    "SentaLSTM",
    "SimNet",
    "TextCNN",
    "Transformer",
]
