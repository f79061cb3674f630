"""What each kind of recommendation problem optimises, measures and predicts."""

from __future__ import annotations

from paddlerec.tasks.candidates import Candidates
from paddlerec.tasks.ctr import CTR
from paddlerec.tasks.history_ctr import HistoryCTR
from paddlerec.tasks.next_item import NextItem
from paddlerec.tasks.retrieval import Retrieval
from paddlerec.tasks.session_parallel import SessionParallel
from paddlerec.tasks.tagging import Tagging
from paddlerec.tasks.view_matching import ViewMatching

__all__ = ["CTR", "Candidates", "HistoryCTR", "NextItem", "Retrieval", "SessionParallel", "Tagging", "ViewMatching"]
