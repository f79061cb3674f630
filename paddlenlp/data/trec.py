"""TREC: what kind of answer does a question ask for?"""

from __future__ import annotations

from typing import ClassVar

from paddlecore.sources import File, Source, published
from paddlenlp.data.sentence_classification import COPY, TextTableData, _Texts, folds

TREC = Source(
    name="TREC (question types, six classes)",
    folder="nlp/english_sentence_classification",
    files=(
        File.at(COPY, "TREC.train.all", "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e", 292_402),
        File.at(COPY, "TREC.test.all", "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566", 19_479),
    ),
    licence="free for research; cite Li and Roth, 2002, COLING",
    homepage="https://cogcomp.seas.upenn.edu/Data/QA/QC/",
    manual="Get data/TREC.{train,test}.all from https://github.com/harvardnlp/sent-conv-torch (one row a line).",
)


class TRECData(TextTableData):
    """5 452 questions for training and 500 for testing, of six kinds (Li and Roth, 2002, "Learning Question
    Classifiers", COLING).

    Of the training rows, every tenth of each class, in a fixed random order that no seed changes, selects the
    checkpoint and is not trained on.

    `source`: auto = nlp/english_sentence_classification under PADDLE_DATA, or fetched; toy = generated sentences; or
    own files, as in `TextTableData`.
    """

    published_labels: ClassVar[dict[str, str]] = {
        "0": "description", "1": "entity", "2": "abbreviation", "3": "human", "4": "location", "5": "number",
    }  # fmt: skip
    made_up = ("Who wrote the first dictionary?", "How far is the moon?", "Where do swallows spend the winter?")

    def _read_splits(self) -> dict[str, _Texts]:
        if self.source != "auto":
            return super()._read_splits()
        files = published(TREC)
        self._paths = list(files.values())
        rows = self._read(files["TREC.train.all"], "latin-1")
        parts = folds(rows.labels, 0)  # fold 0 of ten is held out; no further part is needed
        train, held = [*parts["train"], *parts["valid"]], parts["test"]
        return {
            "train": rows.take(sorted(train)),
            "valid": rows.take(held),
            "test": self._read(files["TREC.test.all"], "latin-1"),
        }
