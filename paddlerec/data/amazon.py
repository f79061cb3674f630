"""Amazon reviews: what did the user buy next? (He and McAuley, 2016, WWW; McAuley et al., 2015, SIGIR)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddlecore.sources import File, Source, published
from paddlerec.data import amazon_files
from paddlerec.data.histories import HistoryData
from paddlerec.data.sessions import Numbered

_COPY = "https://raw.githubusercontent.com/kang205/SASRec/641c378fcfac265ea8d1e5fe51d4d53eb892d1b4/data/{}"
_CATEGORIES = {"beauty": "Beauty.txt", "toys": "Toys_and_Games.txt"}


class _Published(Numbered, HistoryData):
    """A published file. `source`: auto = the file under PADDLE_DATA; toy = generated; or a file of that form."""

    SOURCE: Source
    name: str

    def __init__(self, *, max_len: int = 50, negatives: int = 0, eval_negatives: int = 0, **common: Any) -> None:
        super().__init__(
            max_len=max_len, min_count=1, user="user", item="item", time="time", columns=None,
            negatives=negatives, eval_negatives=eval_negatives, **common,
        )  # fmt: skip

    def _file(self) -> Path:
        if self.source != "auto":
            return super()._file()
        return published(self.SOURCE)[self.name]


class AmazonGamesData(_Published):
    """Video games, as SASRec's authors cut them: 31,013 users, 23,715 items, 287,107 actions.

    Their protocol (Kang and McAuley, 2018, ICDM, section IV-B): of the 30,901 users with three or more actions the last
    one is tested, the one before it validates; it is ranked among 100 items that the user never had. Here these are
    drawn once for all.

    Items have their numbers as ids; input and what travels with the weights: see `Numbered`.

    Args:
        max_len: actions of a history that are kept, the latest ones.
        negatives: items drawn for each training target.
        eval_negatives: items that a target is ranked among; 0 = all but those of the history.
        **common: see `DataModule`.
    """

    SOURCE = Source(
        name="Amazon video games (SASRec)",
        folder="rec/amazon-games-sasrec",
        files=(
            File.at(_COPY, "Video.txt", "b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651", 3_187_124),
        ),
        licence=amazon_files.SOURCE.licence,
        homepage=amazon_files.SOURCE.homepage,
        manual="Get data/Video.txt of https://github.com/kang205/SASRec, packed with gzip or not.",
    )
    name = "Video.txt"

    def __init__(self, *, max_len: int = 50, negatives: int = 1, eval_negatives: int = 100, **common: Any) -> None:
        super().__init__(max_len=max_len, negatives=negatives, eval_negatives=eval_negatives, **common)


class AmazonS3RecData(_Published):
    """Beauty (22,363 users, 12,101 items, 198,502 actions) or toys and games (19,412, 11,924, 167,597): users and items
    with five or more actions each, as cut by S3-Rec (Zhou et al., 2020, CIKM).

    Its protocol (section 5.1.2): a user's last action is tested, the one before it validates; each is ranked among all
    items that are not in the history before it.

    Items have their numbers as ids; input and what travels with the weights: see `Numbered`.

    Args:
        category: `beauty` or `toys`.
        max_len: actions of a history that are kept, the latest ones.
        negatives: items drawn for each training target.
        eval_negatives: items that a target is ranked among; 0 = all but those of the history.
        **common: see `DataModule`.
    """

    SOURCE = amazon_files.SOURCE

    def __init__(
        self,
        *,
        category: str = "beauty",
        max_len: int = 50,
        negatives: int = 0,
        eval_negatives: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(max_len=max_len, negatives=negatives, eval_negatives=eval_negatives, **common)
        if category not in _CATEGORIES:
            raise ValueError(f"data.category must be {' or '.join(_CATEGORIES)}, got {category!r}")
        self.name = _CATEGORIES[category]
