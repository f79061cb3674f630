"""Data sets of recommendation, and own tables."""

from __future__ import annotations

from paddlerec.data.amazon import AmazonGamesData, AmazonS3RecData
from paddlerec.data.amazon_ctr import AmazonCtrData
from paddlerec.data.avazu import AvazuData
from paddlerec.data.candidates import CandidateData
from paddlerec.data.criteo import CriteoData
from paddlerec.data.ctr_toy import CtrToyData
from paddlerec.data.frappe import FrappeData
from paddlerec.data.gowalla import GowallaData
from paddlerec.data.histories import HistoryData
from paddlerec.data.interactions import InteractionData
from paddlerec.data.ml1m_ncf import ML1MNCFData
from paddlerec.data.ml1m_views import ML1MViewsData
from paddlerec.data.movielens import MovieLensData
from paddlerec.data.sessions import DigineticaData, SessionData, YoochooseData
from paddlerec.data.table import TableData
from paddlerec.data.tagspace import TagSpaceData
from paddlerec.data.word2vec import PTBSkipGramData, SkipGramData

__all__ = [
    "AmazonCtrData",
    "AmazonGamesData",
    "AmazonS3RecData",
    "AvazuData",
    "CandidateData",
    "CriteoData",
    "CtrToyData",
    "DigineticaData",
    "FrappeData",
    "GowallaData",
    "HistoryData",
    "InteractionData",
    "ML1MNCFData",
    "ML1MViewsData",
    "MovieLensData",
    "PTBSkipGramData",
    "SessionData",
    "SkipGramData",
    "TableData",
    "TagSpaceData",
    "YoochooseData",
]
