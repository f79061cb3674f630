"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlerec.models.dcn import DCN
from paddlerec.models.dcn_v2 import DCNv2
from paddlerec.models.deepctr import DeepCTR
from paddlerec.models.deepfm import DeepFM
from paddlerec.models.fm import FM
from paddlerec.models.gru4rec import GRU4Rec
from paddlerec.models.lr import LR
from paddlerec.models.neumf import NeuMF
from paddlerec.models.srgnn import SRGNN
from paddlerec.models.tagspace import TagSpace
from paddlerec.models.wide_deep import WideDeep
from paddlerec.models.xdeepfm import XDeepFM

__all__ = [
    "DCN",
    "DCNv2",
    "DeepCTR",
    "DeepFM",
    "FM",
    "GRU4Rec",
    "LR",
    "NeuMF",
    "SRGNN",
    "TagSpace",
    "WideDeep",
    "XDeepFM",
]
