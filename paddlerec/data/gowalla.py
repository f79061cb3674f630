"""Gowalla check-ins (Cho, Myers, Leskovec, 2011, KDD) in the split of NGCF and LightGCN."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlecore.data import mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate, split_files
from paddlerec.data.interactions import InteractionData, Splits
from paddlerec.data.reader import check_gaps, lines, suffix

_USERS, _ITEMS = 29_858, 40_981

SOURCE = Source(
    name="Gowalla, NGCF/LightGCN split",
    folder="rec/gowalla-lightgcn",
    files=(
        File("train.txt.gz", "71a2faabd7e5eed1c9df325798a213695c293739970a47bed0a983355f6687e3", 1964982),
        File("test.txt.gz", "9db4414306dbc518d3b81b0239515497908ecd6de09df99c6a92ba171e75b902", 598630),
    ),
    licence="none stated; cite Cho, Myers, Leskovec, KDD 2011",
    homepage="https://snap.stanford.edu/data/loc-gowalla.html",
    manual="""
The split is that of NGCF and LightGCN (https://github.com/gusye1234/LightGCN-PyTorch, data/gowalla): train.txt and
test.txt with one user a line, `user item item ...`, numbers from 0 on. Give a folder that holds the two, also
as .gz, as data.source=<folder>.
""",
)


class GowallaData(InteractionData):
    """Places that people checked in at: 29,858 users, 40,981 items, 810,128 pairs to train and 217,242 to test.

    All items that a user does not have in train are ranked. The published split has no validation part; `valid_share`
    takes one out of train, with `split_seed`, for everything that is chosen. Published scores are of training on all of
    train, so a recipe trains with 0 once its settings are chosen, and its last checkpoint is scored.

    Ids are the numbers of the files plus 1; there are no names, and `encode` takes ids. Given weights keep their sizes,
    so data may have fewer users and items than these know, and not more. The lists have no order of time: a user's
    items are put into a random one, once for all, so a window of them says nothing.

    Args:
        valid_share: share of each user's training pairs that become validation; 0 = none, all are trained on.
        **options: see `InteractionData`, but nothing is cached; `source`: auto = the files under PADDLE_DATA
            (rec/gowalla-lightgcn), toy = generated, or a folder with train and test files of the same form.
    """

    def __init__(self, *, valid_share: float = 0.0, **options: Any) -> None:
        super().__init__(
            user="user", item="item", rating=None, time=None, columns=None, min_rating=None, split="random",
            test_share=0.2, valid_share=valid_share, cache=None, **options,
        )  # fmt: skip
        self._sizes = {"users": 1 + _USERS, "items": 1 + _ITEMS}
        self._given = False  # are these sizes those of weights?

    @property
    def spec(self) -> dict[str, Any]:
        return {"num_users": self._sizes["users"], "num_items": self._sizes["items"]}

    def _size(self, kind: str) -> int:
        return self._sizes[kind]

    def _id(self, kind: str, name: Any) -> int:
        text = str(name)
        return int(text) if text.isdecimal() and 1 <= int(text) < self._sizes[kind] else 0

    def _name(self, kind: str, number: int) -> str | int:
        return number

    def state(self) -> dict[str, Any]:
        return dict(self._sizes)

    def restore(self, state: dict[str, Any]) -> None:
        found = {k: int(v) for k, v in state.items() if k in self._sizes}
        self._sizes, self._given = self._sizes | found, bool(found)

    def _files(self) -> dict[str, Path]:
        if self.source == "auto":
            folder = locate(SOURCE)
            return {"train": folder / "train.txt.gz", "test": folder / "test.txt.gz"}
        return split_files(Path(self.source), suffix, ".txt, optionally with .gz")

    def _read_splits(self) -> tuple[Splits, None]:
        files = self._files()
        read = {split: self._read_lines(path) for split, path in files.items()}
        for kind, column in (("users", 0), ("items", 1)):
            numbers = np.concatenate([pairs[column] for pairs in read.values()])
            check_gaps(files["train"], kind, numbers)
            self._hold(kind, int(numbers.max()))
        random = np.random.Generator(np.random.Philox(key=mix(22)))
        order = random.permutation(len(read["train"][0]))
        read["train"] = (read["train"][0][order], read["train"][1][order])
        return read, None

    def _hold(self, kind: str, highest: int) -> None:
        """Make room for ids up to `highest`. Raises DataError: given weights have no row for it."""
        if not self._given:
            self._sizes[kind] = 1 + highest
        elif highest >= self._sizes[kind]:
            raise DataError(
                f"data.source={self.source}: {kind} have numbers up to {highest - 1}, and the given weights know those "
                f"up to {self._sizes[kind] - 2}: leave the others out, or train without init.weights"
            )

    def _read_lines(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of ids from lines `user item item ...`."""
        users: list[np.ndarray] = []
        items: list[np.ndarray] = []
        bad = partial(self.bad_rows.add, path)
        for number, line in lines(path, bad):
            try:
                row = np.array(line.split(), dtype=np.int64) + 1
                if len(row) == 0 or row.min() < 1 or row.max() >= 2**31:
                    raise ValueError
            except (ValueError, OverflowError):
                bad(number, f"expected a user and its items, numbers from 0 on; got {line.strip()!r:.60}")
                continue
            items.append(np.unique(row[1:]))
            users.append(np.full(len(items[-1]), row[0]))
        if not items or not sum(map(len, items)):
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        user, item = np.concatenate(users), np.concatenate(items)
        once = np.sort(np.unique(user * (1 + item.max()) + item, return_index=True)[1])  # a user may have several lines
        return user[once], item[once]

    def _toy(self) -> Splits:
        self._hold("users", 120)
        self._hold("items", 80)
        return super()._toy()
