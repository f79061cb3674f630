"""Histories of users: what comes next? Own interaction files, split by leaving the last items out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import Plan, Rows, mix
from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlerec.data.negatives import Negatives
from paddlerec.data.reader import lines, suffix
from paddlerec.data.sessions import Log, PrefixRows, SessionData


class HistoryRows:
    """A user a row: the whole history, with a target at each place - the item after it.

    Batch: history [B, T] and target [B, T] int64, right-padded with 0, cut to the longest of the batch; places [M]
    int64, where targets are in the flat [B * T]; negatives [M, K] int64 of each where K > 0 are asked for, a function
    of (seed, epoch, user, place).

    Args:
        clicks: [n] ids of all users' items, one user after the other.
        starts: [rows] where each user's items begin.
        ends: [rows] where they end; at least two items.
        max_len: places that are kept, the latest ones.
        users: [rows] for `negatives`.
        negatives: what each user has not.
        count: K.
        seed: of the draws.
    """

    def __init__(
        self,
        clicks: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        max_len: int,
        users: np.ndarray,
        negatives: Negatives,
        count: int,
        seed: int,
    ) -> None:
        self.clicks, self.starts, self.ends = clicks.astype(np.int64), np.maximum(starts, ends - max_len - 1), ends
        self.max_len, self.users, self.negatives, self.count, self.seed = max_len, users, negatives, count, seed

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """[rows] places of each row."""
        return self.ends - self.starts - 1

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        starts, lengths = self.starts[rows, None], self.lengths[rows, None]  # [b, 1]
        width = int(lengths.max())
        place = np.arange(width)
        real = place < lengths  # [b, T]
        places = starts + np.minimum(place, lengths - 1)
        batch = {
            "history": torch.from_numpy(np.where(real, self.clicks[places], 0)),
            "target": torch.from_numpy(np.where(real, self.clicks[places + 1], 0)),
            "places": torch.from_numpy(np.flatnonzero(real)),
        }
        if self.count:
            row, place = np.nonzero(real)
            users = self.users[rows][row]
            draws = users * self.max_len + place
            drawn = self.negatives.draw(users, draws, self.count, seed=self.seed, epoch=epoch)
            batch["negatives"] = torch.from_numpy(drawn)
        return batch


class HeldOutRows:
    """The history before one item of each user, and that item, in order of the histories' length.

    Batch: that of `PrefixRows`, and negatives [B, n] int64, or, where n = 0, seen [B, S] int64, right-padded with 0:
    the items of the whole history but for the target, which are not to be ranked.
    """

    def __init__(
        self,
        clicks: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        max_len: int,
        users: np.ndarray,
        negatives: Negatives,
        count: int,
        seed: int,
    ) -> None:
        order = np.argsort(ends - starts, kind="stable")
        starts, ends = starts[order], ends[order]
        self.prefixes = PrefixRows(clicks, starts, ends, clicks[ends], max_len)
        self.whole = PrefixRows(clicks, starts, ends, clicks[ends], int((ends - starts).max(initial=1)))
        self.users, self.negatives, self.count, self.seed = users[order], negatives, count, seed

    def __len__(self) -> int:
        return len(self.users)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        batch = self.prefixes.fetch(rows, epoch)
        if self.count:
            users = self.users[rows]
            drawn = self.negatives.draw(users, users, self.count, seed=self.seed)
            return {**batch, "negatives": torch.from_numpy(drawn)}
        seen = self.whole.fetch(rows, epoch)["history"]
        return {**batch, "seen": seen.masked_fill(seen == batch["target"][:, None], 0)}


class SortedSteps(Plan):
    """Random steps, the rows of each in order of length.

    Pieces of a step (`train.accumulate`, ranks) then hold rows of about the same length, so little of them is padding.
    Whole steps of one length would need no pieces, but steps count alike: a target of a short history would weigh many
    times as much as one of a long history.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, *, seed: int) -> None:
        super().__init__(len(lengths), batch_size, seed=seed)
        self.lengths = lengths

    def rows(self, epoch: int, step: int) -> np.ndarray:
        rows = super().rows(epoch, step)
        return rows[np.argsort(self.lengths[rows], kind="stable")]


class HistoryData(SessionData):
    """Next-item examples from users' histories, by leaving out: a user's last item is tested, the one before it
    validates, the rest trains. Users with fewer than three items only train, those with one not at all.

    `source` is one file:

    - `.txt` (also `.gz`): lines of a user and one or more items, parted by blanks. A user's lines follow each other
      in time, others may stand between them: `user item` once for each, or the whole history in one line.
    - `.tsv`, `.csv` (also `.gz`) or `.parquet`: one interaction a row, with columns of user, item and time. They are
      put in order of time; equal times keep the file's order. MovieLens' `ratings.dat` and `u.data` as they are.

    Ids: items are 1..N, most frequent in the file first; `num_items` = N + 1. Id 0 is padding. Items that are too rare
    are left out of histories. An item may be known from others' last items only: its vector is then as it was drawn.

    A row is bad if it lacks a user or an item, has another number of columns than the header, a time that is neither a
    number nor a date, or is not UTF-8.

    Batch: see `HistoryRows` in training and `HeldOutRows` in evaluation. `encode` gives history, and
    seen [1, S], all known items of it: they are not recommended, as they are not ranked in evaluation.

    Args:
        max_len: items of a history that are kept, the latest ones.
        min_count: items with fewer interactions are left out.
        user: column of the user, in files of columns.
        item: column of the item.
        time: column of the time, numbers or dates.
        columns: names of all columns, for files of columns without a header line.
        negatives: items drawn for each training target among those that are not in the user's training history.
        eval_negatives: items drawn for each evaluated target among those that are not in the user's history, once for
            all, which it is ranked among; 0 = it is ranked among all items but those of the history before it.
        cache: folder of prepared columns; auto = one in the user's cache folder, and none for files below 32 MB
            together; null = none: files are read at each start.
        **common: see `DataModule`.
    """

    repeats = False
    vocabulary_of = "interactions of these users"

    def __init__(
        self,
        *,
        max_len: int = 50,
        min_count: int = 1,
        user: str = "user",
        item: str = "item",
        time: str = "time",
        columns: list[str] | None = None,
        negatives: int = 0,
        eval_negatives: int = 0,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(
            batches="prefixes", samples=0, alpha=0.0, max_len=max_len, min_count=min_count, session=user, item=item,
            time=time, columns=columns, valid_share=0.0, test_share=0.0, split="random", split_seed=1, cache=cache,
            **common,
        )  # fmt: skip
        if negatives < 0 or eval_negatives < 0:
            raise ValueError(f"negatives must not be fewer than 0, got {negatives}, {eval_negatives}")
        self.negatives, self.eval_negatives = negatives, eval_negatives

    def prepare(self) -> None:
        """Read the file, number the items, or find that it was done before; lay out the rows.

        Raises:
            DataError: a file or row that cannot be used, by file and line; too few items to learn from.
        """
        clicks = self._prepared()["train"]
        user = np.repeat(np.arange(len(clicks.offsets) - 1), np.diff(clicks.offsets))[clicks.ids > 0]
        ids = clicks.ids[clicks.ids > 0]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(clicks.offsets) - 1))])
        starts, lengths = offsets[:-1], np.diff(offsets)
        train_ends = offsets[1:] - np.where(lengths >= 3, 2, 0)
        training = np.arange(len(ids)) < train_ends[user]
        users = {
            "train": np.flatnonzero(train_ends - starts >= 2),
            **dict.fromkeys(("valid", "test"), np.flatnonzero(lengths >= 3)),
        }
        if not len(users["train"]):
            raise DataError("no user has two items to train on: with three or more, the last two are held out")
        if not len(users["test"]):
            raise DataError("no user has three items, so nothing is left to validate and test on")
        num_items = 1 + len(self._items)
        own = Negatives(user[training], ids[training], len(lengths), num_items)
        everything = Negatives(user, ids, len(lengths), num_items)
        chosen = users["train"]
        self._rows = {
            "train": HistoryRows(
                ids, starts[chosen], train_ends[chosen], self.max_len, chosen, own, self.negatives, mix(self.seed, 3)
            )
        }  # fmt: skip
        for number, split in ((1, "valid"), (2, "test")):
            chosen = users[split]
            self._rows[split] = HeldOutRows(
                ids, starts[chosen], offsets[1:][chosen] - (3 - number), self.max_len, chosen, everything,
                self.eval_negatives, mix(20, number),
            )  # fmt: skip
        self._counts["all"] = {
            "users": len(lengths),
            "interactions": len(ids),
            "left_out": len(clicks.ids) - len(ids),
            "users_tested": len(users["test"]),
            "users_without_training": int((train_ends - starts < 2).sum()),
            "longest": int(lengths.max()),
        }

    def unknown_share(self) -> float:
        counts = self._counts["all"]
        return counts["left_out"] / max(counts["left_out"] + counts["interactions"], 1)

    def plan(self, rows: Rows) -> Plan:
        assert isinstance(rows, HistoryRows)
        return SortedSteps(rows.lengths, self.batch_size, seed=self.seed)

    def _files(self) -> dict[str, Path]:
        return {"all": self._file()}

    def _file(self) -> Path:
        path = Path(self.source)
        if self.source != "auto" and not path.exists():
            raise DataError(f"data.source={self.source}: there is no such file")
        if not path.is_file() or suffix(path) is None:
            raise DataError(f"data.source={self.source} must be .txt, .tsv, .csv (also .gz), .parquet, .dat or .data")
        return path

    def _read_lines(self, path: Path) -> Log:
        """A user and items a line."""
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        of: list[int] = []
        codes: list[int] = []
        bad = partial(self.bad_rows.add, path)
        for number, line in lines(path, bad):
            names = line.split()
            if len(names) < 2:
                bad(number, f"expected a user and items parted by blanks; got {line.strip()!r:.60}")
                continue
            of += [users.setdefault(names[0], len(users))] * (len(names) - 1)
            codes += [items.setdefault(name, len(items)) for name in names[1:]]
        order = np.argsort(np.array(of, np.int64), kind="stable")
        counts = np.bincount(np.array(of, np.int64), minlength=len(users))
        return Log(np.array(codes, np.int32)[order], list(items), np.concatenate([[0], np.cumsum(counts)]), True)
