"""MovieLens-1M as He et al. split it: one latest film of each user among 99 others; no ratings (Harper, Konstan, 2015,
ACM TiiS 5)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from paddlecore.data import ArrayRows, DataModule, Rows, mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate
from paddlecore.task import Batch
from paddlerec.data.negatives import Negatives, among, distinct
from paddlerec.data.reader import (
    BadValue,
    check_gaps,
    converted,
    find_file,
    from_json,
    is_whole,
    lines,
    numbers,
    row,
)

if TYPE_CHECKING:
    import pyarrow as pa

_BY_HAND = """
The licence does not let us pass these files on.
train.tsv.gz: lines `user<TAB>item`, both numbered from 0 in order of their first appearance, of all ratings of
MovieLens-1M (https://grouplens.org/datasets/movielens/1m/) but the test pairs.
test.negative.gz: ml-1m.test.negative of https://github.com/hexiangnan/neural_collaborative_filtering, in gzip.
A folder with a train.tsv and a test.negative in these forms can be given as data.source=<folder>.
"""
SOURCE = Source(
    name="MovieLens-1M, the split of Neural Collaborative Filtering",
    folder="rec/ml-1m-ncf",
    files=(
        File("train.tsv.gz", "414bc192813c2e5db1302c9b0730fcabc6d26bbc5fdf2ce3b4918c76e002d2f1", 2_485_648),
        File("test.negative.gz", "593efd18c323aac9ee3215a13bbbc310b7440f7e200caf38232aaab95b18fc59", 1_206_569),
    ),
    licence="research, no commercial use, no redistribution without permission; cite doi:10.1145/2827872",
    homepage="https://grouplens.org/datasets/movielens/1m/",
    manual=_BY_HAND,
)


class Pairs(NamedTuple):
    """Users and items are numbered from 1."""

    users: np.ndarray  # [n] int64, ascending
    items: np.ndarray  # [n] int64
    test_users: np.ndarray  # [m] int64
    test_items: np.ndarray  # [m, 1 + C] int64: the test item, then the negatives; filled up with 0


class NCFRows:
    """`1 + negatives` rows a positive pair: the pair itself with label 1, then pairs of the same user and an item drawn
    evenly from those that the user has not had (0 if there is none), with label 0.

    Row r belongs to pair r // (1 + negatives). What is drawn is a function of (seed, epoch, row) alone: other negatives
    in each epoch, and the same after a resume. A batch is user [b] int64, item [b] int64, label [b] float32.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, unseen: Negatives, *, negatives: int, seed: int) -> None:
        self.users, self.items, self.unseen, self.each, self.seed = users, items, unseen, 1 + negatives, seed

    def __len__(self) -> int:
        return len(self.users) * self.each

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        pair, place = np.divmod(rows, self.each)
        user, item = np.take(self.users, pair), np.take(self.items, pair)
        drawn = np.flatnonzero(place)
        item[drawn] = self.unseen.draw(user[drawn], rows[drawn], 1, seed=self.seed, epoch=epoch)[:, 0]
        label = (place == 0).astype(np.float32)
        return {"user": torch.from_numpy(user), "item": torch.from_numpy(item), "label": torch.from_numpy(label)}


class ML1MNCFData(DataModule):
    """994 169 pairs of 6 040 users and 3 706 films; the test item of each user stands among 99 given negatives.

    The protocol of He et al. (2017, "Neural Collaborative Filtering", section 4.1), from its files. For validation one
    random training pair of each user (of those with two or more) is held out and put among 99 items that the user has
    no training pair with, drawn without replacement; the published files have no times, so it is not the latest. A pair
    that stands in the file twice counts once.
    Training negatives are drawn again in each epoch, evenly from the items that the user has no training pair with, as
    in the authors' program: the held-out and the test item are among them, for training knows neither.

    In 156 places of the published negatives the test item itself is given as a negative. Such a place is left as it is
    here; who ranks has to say how it counts.

    `source`: auto = the files under PADDLE_DATA (rec/ml-1m-ncf); toy = generated, 60 users and 40 items; or a folder
    with train.tsv (`user<TAB>item` from 0) and test.negative (`(user,item)<TAB>item<TAB>...`), each also .gz. A line
    of another form is bad and named, and so is a test row whose pair is in train; a test row may have any number of
    negatives.

    Batch: in training see `NCFRows`; else user [B] int64 and candidates [B, 1 + C] int64, the held-out item first, then
    the negatives, filled up with 0. Users and items count from 1; 0 is an unknown one.

    Args:
        negatives: negatives for each training pair.
        valid_negatives: negatives of a validation row.
        split_seed: of the held-out pairs and their negatives; the run's seed does not change them.
        **common: see `DataModule`.
    """

    def __init__(self, *, negatives: int = 4, valid_negatives: int = 99, split_seed: int = 1, **common: Any) -> None:
        super().__init__(**common)
        if negatives < 0 or valid_negatives < 1:
            raise ValueError(
                f"data.negatives must be at least 0, data.valid_negatives 1; got {negatives}, {valid_negatives}"
            )
        self.negatives, self.valid_negatives, self.split_seed = negatives, valid_negatives, split_seed
        self.num_users = self.num_items = 0  # ids, 0 included
        self._rows: dict[str, Rows] = {}

    @property
    def spec(self) -> dict[str, Any]:
        if not self.num_users:
            raise DataError("sizes are not known yet: prepare() reads the data, restore() takes a state")
        return {"num_users": self.num_users, "num_items": self.num_items}

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return self.spec  # numbers only: nothing of the data may travel with the weights

    def restore(self, state: dict[str, Any]) -> None:
        self.num_users, self.num_items = state.get("num_users", 0), state.get("num_items", 0)

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or line that cannot be used, by file and line; or more users or items than the given
                weights know.
        """
        pairs = self._pairs()
        users = 1 + int(max(pairs.users.max(), pairs.test_users.max()))
        items = 1 + int(max(pairs.items.max(), pairs.test_items.max()))
        if self.num_users and (users > self.num_users or items > self.num_items):
            raise DataError(
                f"the data have {users - 1} users and {items - 1} items, the given weights know "
                f"{self.num_users - 1} and {self.num_items - 1}: train without init.weights"
            )
        self.num_users, self.num_items = self.num_users or users, self.num_items or items
        self._keep(pairs, held_out(pairs.users, self.split_seed))

    def _keep(self, pairs: Pairs, held: np.ndarray) -> None:
        """Make the rows of each split; `held` [n] bool: is a pair for validation?"""
        users, items = pairs.users[~held], pairs.items[~held]
        everything = Negatives(pairs.users, pairs.items, self.num_users, self.num_items)
        negatives = everything.distinct(pairs.users[held], self.valid_negatives, seed=self.split_seed)
        unseen = Negatives(users, items, self.num_users, self.num_items)
        candidates = np.concatenate([pairs.items[held][:, None], negatives], 1)
        self._rows = {
            "train": NCFRows(users, items, unseen, negatives=self.negatives, seed=self.seed),
            "valid": ArrayRows({"user": pairs.users[held], "candidates": candidates}),
            "test": ArrayRows({"user": pairs.test_users, "candidates": pairs.test_items}),
        }

    def _pairs(self) -> Pairs:
        if self.source == "toy":
            return _toy()
        if self.source == "auto":
            folder = locate(SOURCE)
            self._paths = [folder / file.name for file in SOURCE.files]
        else:
            self._paths = [find_file(Path(self.source), name) for name in ("train.tsv", "test.negative")]
        train, test = self._paths
        pairs = self._read_train(train)
        users, items, at = self._read_test(test)
        check_gaps(train, "users", np.concatenate([pairs[:, 0], users]))
        check_gaps(train, "items", np.concatenate([pairs[:, 1], items.ravel()]))
        width = 1 + max(pairs[:, 1].max(), items.max())
        # each pair once, or its twin would train where it is held out; by user, then item: the order says nothing
        keys = distinct(pairs[:, 0] * width + pairs[:, 1])
        trained = among(users * width + items[:, 0], keys)
        for line in at[trained].tolist():
            self.bad_rows.add(test, line, f"the pair stands in {train.name}, too, so it would be trained on")
        if trained.all():
            raise DataError(f"{test}: it has no rows that can be used")
        return Pairs(*np.divmod(keys, width), users[~trained], items[~trained])

    def _read_train(self, path: Path) -> np.ndarray:
        def convert(table: pa.Table) -> np.ndarray:
            columns = np.stack([numbers(table[name], name) for name in ("user", "item")], 1)
            wrong = (columns < 0) | (columns >= 2**31) | (columns != np.floor(columns))
            if wrong.any():
                raise BadValue(f"users and items are whole numbers from 0, got {columns[wrong][0]:g}")
            return 1 + columns.astype(np.int64)

        names = ["user", "item"]
        found = list(converted(path, names, convert, partial(self.bad_rows.add, path), names))
        if not sum(map(len, found)):
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        return np.concatenate(found)

    def _read_test(self, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users [m] and items [m, 1 + C] as in `Pairs`, and their lines [m]."""
        users, rows, at, bad = [], [], [], partial(self.bad_rows.add, path)
        for number, line in lines(path, bad):
            if not line.strip():
                continue
            if not re.fullmatch(r"\(\d{1,9},\d{1,9}\)(\t\d{1,9})*\s*", line):
                bad(number, f"expected `(user,item)<TAB>item<TAB>...`, got {line.strip()!r:.60}")
                continue
            user, *items = (1 + int(n) for n in re.findall(r"\d+", line))
            users.append(user)
            rows.append(items)
            at.append(number)
        if not rows:
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        width = max(map(len, rows))
        return np.array(users), np.array([items + [0] * (width - len(items)) for items in rows]), np.array(at)

    # ------------------------------------------------------------------------------------------------ raw input

    def encode(self, raw: Any) -> Batch:
        """{"user": 7, "items": [3, 1, 4]}, as a dict or JSON text: a user, and the items to rank; without any, all of
        them. Both count from 1, as in the files plus one; an unknown user gets id 0, unknown items are not ranked."""
        raw = from_json(raw)
        given = row({"items": [], **raw} if isinstance(raw, dict) else raw, ["user", "items"])
        items = list(range(1, self.num_items)) if given["items"] == [] else given["items"]
        if not is_whole(given["user"]) or not isinstance(items, list) or not all(map(is_whole, items)):
            raise DataError(f"user must be a whole number, and items a list of such; got {raw!r:.80}")
        user = given["user"] if 0 < given["user"] < self.num_users else 0
        known = [item if 0 < item < self.num_items else 0 for item in items]
        return {"user": torch.tensor([user]), "candidates": torch.tensor([known])}

    def examples(self) -> list[Any]:
        """Numbers that stand for nobody's history: the licence does not let rows of the data travel."""
        return [
            {"user": 1, "items": [1, 2, 3, 5, 8, 13, 21, 34]},
            {"user": 2, "items": [4, 7, 11, 18, 29]},
            {"user": 3},
        ]


def held_out(users: np.ndarray, seed: int) -> np.ndarray:
    """[n] bool: one random pair of each user who has two or more; `users` [n] ascending."""
    starts, counts = np.unique(users, return_index=True, return_counts=True)[1:]
    chance = np.random.Generator(np.random.Philox(key=mix(seed, 0))).random(len(starts))
    held = np.zeros(len(users), dtype=bool)
    held[(starts + (chance * counts).astype(np.int64))[counts > 1]] = True
    return held


def _toy() -> Pairs:
    """60 users of 4 tastes, 40 items of 4 kinds: three of four pairs are of the user's own kind."""
    random = np.random.Generator(np.random.Philox(key=mix(5)))
    users, items, test_users, test_items = [], [], [], []
    for user in range(1, 61):
        own = 1 + 10 * (user % 4) + random.permutation(10)
        had = np.concatenate([own[:5], 1 + random.permutation(40)[:2]])
        had = np.unique(had[had != own[5]])
        users += [user] * len(had)
        items += had.tolist()
        others = np.setdiff1d(np.arange(1, 41), [*had, own[5]])
        test_users.append(user)
        test_items.append([own[5], *random.permutation(others)[:20]])
    return Pairs(np.array(users), np.array(items), np.array(test_users), np.array(test_items))
