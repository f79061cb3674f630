"""The models: plain modules with keyword-only sizes."""

from __future__ import annotations

from paddlerec.models.dcn import DCN
from paddlerec.models.dcn_v2 import DCNv2
from paddlerec.models.deepctr import DeepCTR
from paddlerec.models.deepfm import DeepFM
from paddlerec.models.din import DIN
from paddlerec.models.fm import FM
from paddlerec.models.gru4rec import GRU4Rec
from paddlerec.models.item2vec import Item2Vec
from paddlerec.models.lightgcn import LightGCN
from paddlerec.models.lr import LR
from paddlerec.models.mf import MF
from paddlerec.models.multiview_simnet import MultiViewSimNet
from paddlerec.models.neumf import NeuMF
from paddlerec.models.popularity import Popularity
from paddlerec.models.sasrec import SASRec
from paddlerec.models.srgnn import SRGNN
from paddlerec.models.ssr import SSR
from paddlerec.models.tagspace import TagSpace
from paddlerec.models.two_tower import TwoTower
from paddlerec.models.wide_deep import WideDeep
from paddlerec.models.word2vec import Word2Vec
from paddlerec.models.xdeepfm import XDeepFM

__all__ = [
    "DCN",
    "DCNv2",
    "DIN",
    "DeepCTR",
    "DeepFM",
    "FM",
    "GRU4Rec",
    "Item2Vec",
    "LR",
    "LightGCN",
    "MF",
    "MultiViewSimNet",
    "NeuMF",
    "Popularity",
    "SASRec",
    "SRGNN",
    "SSR",
    "TagSpace",
    "TwoTower",
    "WideDeep",
    "Word2Vec",
    "XDeepFM",
]
