"""Precision at 1, for rows with one right answer."""

from __future__ import annotations

from paddlecore.metric import Accuracy


class PrecisionAt1(Accuracy):
    """The share of rows whose best-scored tag is the right one: accuracy, by the name it has in tagging.

    States: two counts. Ties go to the tag of the lower number, as in `Accuracy`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.goals = {"p@1": "max"}
        self.signature = "p@1|one right tag a row"
