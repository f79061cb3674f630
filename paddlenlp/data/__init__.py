"""Data sets of language, and own text."""

from __future__ import annotations

from paddlenlp.data.chnsenticorp import ChnSentiCorpData
from paddlenlp.data.parallel import Multi30kData, ParallelData, TatoebaData
from paddlenlp.data.ptb import PTBData, RunningTextData
from paddlenlp.data.sentence_classification import MRData, SubjData, TextTableData
from paddlenlp.data.sst import SST2Data
from paddlenlp.data.text_pairs import MSRPData, TextPairData, WikiQAData
from paddlenlp.data.trec import TRECData

__all__ = [
    "PTBData",
    "RunningTextData",
    "ChnSentiCorpData",
    "MRData",
    "MSRPData",
    "Multi30kData",
    "ParallelData",
    "SST2Data",
    "SubjData",
    "TRECData",
    "TatoebaData",
    "TextPairData",
    "TextTableData",
    "WikiQAData",
]
