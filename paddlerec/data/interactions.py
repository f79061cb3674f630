"""Who took what: pairs of user and item, for models that retrieve items. Own logs, and MovieLens files as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix, ranges, uniform
from paddlecore.errors import DataError
from paddlecore.sources import split_files
from paddlecore.task import Batch
from paddlerec.data import cache
from paddlerec.data.negatives import Negatives, Popularity, among, hits
from paddlerec.data.reader import Times, converted, from_json, is_name, movielens, named, numbered, numbers, suffix

if TYPE_CHECKING:
    import pyarrow as pa

Splits = dict[str, tuple[np.ndarray, np.ndarray]]  # users and items of each split's pairs, or of "all" yet to be split
Names = tuple[list[str], list[str]]  # of users and of items


class Lists:
    """Items of each user, one user after the other, in the order given.

    Attributes:
        starts: [users + 1] int64, where each user's items begin in `items`; user 0 (unknown) has none.
        items: [n] int32.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_users: int) -> None:
        order = np.argsort(users, kind="stable")
        self.items = items[order].astype(np.int32)
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])

    def users(self) -> np.ndarray:
        """[n] int64: whose each item is."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def padded(self, users: np.ndarray, longest: int | None = None) -> np.ndarray:
        """Items of `users` [b] as [b, T >= 1] int64, padded with 0 on the right; of more than `longest` the last."""
        ends = self.starts[users + 1]
        starts = self.starts[users] if longest is None else np.maximum(self.starts[users], ends - longest)
        places = starts[:, None] + np.arange(max(int((ends - starts).max(initial=0)), 1))
        taken = np.take(self.items, np.minimum(places, len(self.items) - 1)) if len(self.items) else places
        return np.where(places < ends[:, None], taken, 0).astype(np.int64)


class Steps(Plan):
    """A plan whose row numbers tell the epoch and the place in it: epoch * size + position.

    Rows that are sampled for a whole step, whatever piece of it is fetched, are found from that (see `PairRows`).
    """

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size, shuffle=False)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        return super().rows(epoch, step) + epoch * self.size


class PairRows:
    """Training pairs, and all that is drawn for them. A row is epoch * n + position in that epoch's order (`Steps`).

    Batch of b rows:
        user, item: [b] int64.
        negative: [b, negatives] int64, uniform over the items that the user does not have in train; 0 if there is none.
        candidates: [C] int64, the same for all pieces of a step: the first `in_batch` positives of the step, then
            `sampled` items drawn in proportion to (times in train)^alpha, ascending. (Yang et al., 2020, "Mixed
            Negative Sampling for Learning Two-tower Neural Networks in Recommendations", WWW companion.)
        candidates_log_q [C], item_log_q [b]: float32, log of the share of candidates that are this item, expected.
        hits: [2, h] int64, rows of the batch, ascending, and places of candidates that are no negatives of theirs: the
            row's own item, with `drop_known` all items that its user has in train.
        history: [b, T] int64, up to `train_history` other items of the user: a window of them at a random place.
        edges: [2, n] int64, users and items of all pairs; the same in every batch, and no tensor but an array: it is
            not sent to the device with each.

    What is not asked for (0, false) is left out. Everything is a function of (seed, row), candidates of (seed, step).
    """

    def __init__(
        self,
        lists: Lists,
        num_items: int,
        batch_size: int,
        seed: int,
        *,
        negatives: int = 0,
        in_batch: int = 0,
        sampled: int = 0,
        alpha: float = 0.75,
        drop_known: bool = False,
        train_history: int = 0,
        graph: bool = False,
    ) -> None:
        self.lists, self.num_items, self.batch_size, self.seed = lists, num_items, batch_size, seed
        self.negatives, self.in_batch, self.sampled = negatives, in_batch, sampled
        self.drop_known, self.train_history = drop_known, train_history
        self.users = lists.users().astype(np.int32)
        self.plan = Plan(len(self.users), batch_size, seed=seed)
        self.unseen = Negatives(self.users, lists.items, len(lists.starts) - 1, num_items) if negatives else None
        counts = np.bincount(lists.items, minlength=num_items).astype(np.float64)
        self.popularity = Popularity(counts, alpha)
        taken = min(in_batch, batch_size, len(self.users))
        share = taken * counts / counts.sum() + sampled * self.popularity.share
        with np.errstate(divide="ignore"):
            self.log_q = np.log(share / max(taken + sampled, 1)).astype(np.float32)
        self.edges = np.stack([self.users, lists.items]).astype(np.int64) if graph else None

    def __len__(self) -> int:
        return len(self.users)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        epoch, first = divmod(int(rows[0]), len(self))
        positions = rows - epoch * len(self)
        chosen = self.plan.order(epoch)[positions]
        user, item = self.users[chosen].astype(np.int64), self.lists.items[chosen].astype(np.int64)
        batch = {"user": user, "item": item}
        if self.unseen is not None:
            seed = mix(self.seed, 2)
            batch["negative"] = self.unseen.draw(user, positions, self.negatives, seed=seed, epoch=epoch)
        if self.in_batch or self.sampled:
            step = min(first // self.batch_size, self.plan.steps(epoch) - 1)
            batch["candidates"] = self.candidates(epoch, step)
            batch["candidates_log_q"] = self.log_q[batch["candidates"]]
            batch["item_log_q"] = self.log_q[item]
            if self.drop_known:
                batch["hits"] = self._known(user, batch["candidates"])
            else:
                batch["hits"] = hits(np.arange(len(item)), item, batch["candidates"], self.num_items)
        if self.train_history:
            batch["history"] = self._histories(user, chosen, positions, epoch)
        made: Batch = {name: torch.from_numpy(value) for name, value in batch.items()}
        return made if self.edges is None else made | {"edges": self.edges}

    def _known(self, user: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The hits of rows of `user` [b]: all that each has in train. Looked up once a user; those of many items have
        many rows."""
        users, which = np.unique(user, return_inverse=True)
        of, place = ranges(self.lists.starts[users], self.lists.starts[users + 1])
        found, where = hits(of, self.lists.items[place], candidates, self.num_items)
        ends = np.searchsorted(found, np.arange(len(users) + 1))
        rows, place = ranges(ends[which], ends[which + 1])
        return np.stack([rows, where[place]])

    def candidates(self, epoch: int, step: int) -> np.ndarray:
        """[C] int64."""
        own = self.lists.items[self.plan.rows(epoch, step)[: self.in_batch]].astype(np.int64)
        drawn = self.popularity.draw(self.sampled, seed=mix(self.seed, epoch, step, 1))
        return np.concatenate([own, drawn])

    def _histories(self, user: np.ndarray, chosen: np.ndarray, positions: np.ndarray, epoch: int) -> np.ndarray:
        start = self.lists.starts[user]
        others = self.lists.starts[user + 1] - start - 1  # [b]
        width = max(min(self.train_history, int(others.max())), 1)
        first = (uniform(mix(self.seed, 3), epoch, positions, 1)[:, 0] * others).astype(np.int64)
        steps = np.arange(width)
        place = (first[:, None] + steps) % np.maximum(others, 1)[:, None]
        place += place >= (chosen - start)[:, None]  # skips the pair's own item
        items = self.lists.items[np.minimum(start[:, None] + place, len(self) - 1)]
        return np.where(steps < others[:, None], items, 0).astype(np.int64)


class UserRows:
    """Users with something to find, for evaluation.

    Batch of b users: user [b] int64; seen [b, S] int64, the items they had before, padded with 0; history [b, T], the
    last `max_history` of these; relevant [b, R] int64, the items to find, padded with 0 (as are those that are not in
    train); num_relevant [b] int64, how many there are, the unknown ones too; edges as in `PairRows`.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, seen: Lists, max_history: int, edges: np.ndarray | None = None
    ) -> None:
        self.relevant, self.seen = Lists(users, items, len(seen.starts) - 1), seen
        self.max_history, self.edges = max_history, edges
        self.chosen = np.flatnonzero(np.diff(self.relevant.starts))

    def __len__(self) -> int:
        return len(self.chosen)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        user = self.chosen[rows]
        batch = {
            "user": user,
            "seen": self.seen.padded(user),
            "history": self.seen.padded(user, self.max_history),
            "relevant": self.relevant.padded(user),
            "num_relevant": np.diff(self.relevant.starts)[user],
        }
        made: Batch = {name: torch.from_numpy(value) for name, value in batch.items()}
        return made if self.edges is None else made | {"edges": self.edges}


class InteractionData(DataModule):
    """Pairs of user and item from your own files; whether they were rated, watched or bought makes no difference.

    `source` is one file, which is split, or a folder with train, test, optionally valid files: `.tsv`, `.csv`, `.txt`
    (with a header line, or with `columns`; also `.gz`), `.parquet`, or as MovieLens has them `.dat` (parted by ::)
    and `.data` (tabs), whose columns are user, item, rating, time.

    One file is split for each user by itself: `random` takes `test_share` of the pairs, but never the last one left;
    `last` takes the latest pair (by `time`, else the last in the file) of each user who has two. Validation is then
    taken out of train in the same way, unless there is a valid file or `valid_share` is 0. A pair that stands in a file
    twice counts once.

    Ids: users are 1..U and items 1..N, most frequent in train first; `num_users` = U + 1, `num_items` = N + 1; 0 is
    padding and unknown. In validation and test, users who are not in train are left out, and so are pairs that the user
    had before, which are not ranked; items that are not in train count as missed. Given weights have users and items of
    their own: pairs of others are not trained on. `describe` says how many of all these there are.

    A row is bad if it has another number of columns than the header, an empty user or item, a rating that is no number,
    a time that is neither a number nor a date (see `Times`), or is not UTF-8.

    Args:
        user, item: columns of the pair.
        rating: column of a rating, for `min_rating`.
        time: column that orders a user's pairs, numbers or dates; None = the order of the file.
        columns: names of all columns, for text files without a header line.
        min_rating: pairs rated lower are left out.
        split: random or last, where `source` is one file.
        test_share: of each user's pairs, for a random split.
        valid_share: of each user's training pairs; 0 = no validation.
        split_seed: of both; the run's seed does not change them.
        negatives, in_batch, sampled, alpha, drop_known, train_history, graph: what a training batch brings; see
            `PairRows`.
        max_history: items of a user that evaluation and `encode` give to a user tower, the latest ones.
        cache: folder of prepared columns; auto = one in the user's cache folder, and none for files below 32 MB
            together; null = none: files are read at each start.
        **common: see `DataModule`.
    """

    def __init__(
        self,
        *,
        user: str = "user",
        item: str = "item",
        rating: str | None = None,
        time: str | None = None,
        columns: list[str] | None = None,
        min_rating: float | None = None,
        split: str = "random",
        test_share: float = 0.2,
        valid_share: float = 0.1,
        split_seed: int = 1,
        negatives: int = 0,
        in_batch: int = 0,
        sampled: int = 0,
        alpha: float = 0.75,
        drop_known: bool = False,
        train_history: int = 0,
        max_history: int = 200,
        graph: bool = False,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if split not in ("random", "last"):
            raise ValueError(f"data.split must be random or last, got {split!r}")
        if not (0 <= valid_share < 1 and 0 <= test_share < 1):
            raise ValueError(f"data.valid_share={valid_share} and data.test_share={test_share} must be in [0, 1)")
        if min(negatives, in_batch, sampled, train_history, alpha) < 0 or max_history < 1:
            raise ValueError("data.negatives, in_batch, sampled, train_history and alpha must not be negative")
        if min_rating is not None and rating is None:
            raise ValueError("data.min_rating needs data.rating, the column of the ratings")
        self.user, self.item, self.rating, self.time, self.columns = user, item, rating, time, columns
        self.min_rating, self.split, self.test_share, self.valid_share = min_rating, split, test_share, valid_share
        self.split_seed, self.max_history, self.graph, self.cache = split_seed, max_history, graph, cache
        self.drawn: dict[str, Any] = {"negatives": negatives, "in_batch": in_batch, "sampled": sampled, "alpha": alpha}
        self.drawn |= {"drop_known": drop_known, "train_history": train_history}
        self._names: dict[str, list[str]] = {}  # of users and items in train; id = 1 + place
        self._ids: dict[str, dict[str, int]] = {}  # once `encode` needs them
        self._rows: dict[str, Rows] = {}
        self._seen: Lists | None = None  # all pairs but those of test
        self._counts: dict[str, dict[str, int]] = {}

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "num_users": self._size("users"),
            "num_items": self._size("items"),
            "labels": ["", *self._names["items"]],
        }

    def _size(self, kind: str) -> int:
        if kind not in self._names:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        return 1 + len(self._names[kind])

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def plan(self, rows: Rows) -> Plan:
        return Steps(len(rows), self.batch_size)

    def state(self) -> dict[str, Any]:
        return dict(self._names)

    def restore(self, state: dict[str, Any]) -> None:
        self._names = {kind: list(state[kind]) for kind in ("users", "items") if kind in state}
        self._ids = {}

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "splits": self._counts,
        }

    def examples(self) -> list[Any]:
        """Made up of the vocabulary: histories of somebody's data do not belong into a file of weights."""
        size = self._size("items") - 1
        user, items = self._name("users", 1), [self._name("items", 1 + 7 * k % size) for k in range(3)]
        return [{"history": items}, {"user": user, "history": items[:1]}, {"history": []}]

    def encode(self, raw: Any) -> Batch:
        """A user's name; a list of items, oldest first; or {"user": ..., "history": [...]}; also as JSON text.

        Items of the history are not recommended again. For a user alone the history is looked up in the data, which
        have to be at hand; {"user": ..., "history": []} does without. Unknown items are left out, an unknown user is
        one without a row of its own; both may be nothing at all.

        Raises:
            DataError: something else, or a user whom neither the weights nor the data know.
        """
        given = raw
        if isinstance(raw, str) and raw.lstrip()[:1] in ("{", "["):
            given = from_json(raw)
        if isinstance(given, list):
            given = {"history": given}
        elif is_name(given):
            given = {"user": given}
        if not isinstance(given, dict) or not given or not set(given) <= {"user", "history"}:
            raise DataError(f'expected a user, a list of items, or {{"user": ..., "history": [...]}}; got {raw!r:.80}')
        name = given.get("user")
        if name is not None and not is_name(name):
            raise DataError(f"user must be a name or a number, got {name!r:.80}")
        user = 0 if name is None else self._id("users", name)
        if "history" in given:
            history = given["history"]
            if not isinstance(history, list) or not all(map(is_name, history)):
                raise DataError(f"history must be a list of items, each a name or a number; got {history!r:.80}")
            items = [i for i in (self._id("items", x) for x in history) if i]
        else:
            if not user:
                raise DataError(f"user {name!r} is not known; give a history")
            if self._seen is None:
                self.prepare()
            assert self._seen is not None
            items = [i for i in self._seen.padded(np.array([user]))[0].tolist() if i]
        return {
            "user": torch.tensor([user]),
            "history": torch.tensor([items[-self.max_history :] or [0]]),
            "seen": torch.tensor([items or [0]]),
        }

    def _id(self, kind: str, name: Any) -> int:
        """The id of a user or an item; 0 if it is unknown."""
        if not self._ids:
            self._ids = {k: {n: 1 + place for place, n in enumerate(names)} for k, names in self._names.items()}
        return self._ids[kind].get(str(name), 0)

    def _name(self, kind: str, number: int) -> str | int:
        return self._names[kind][number - 1]

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """Read, number and split everything, or find that it was done before.

        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        read = self._prepared()
        num_users, num_items = self._size("users"), self._size("items")
        train = Lists(*read["train"], num_users)
        rows = PairRows(train, num_items, self.batch_size, self.seed, graph=self.graph, **self.drawn)
        self._rows, self._seen = {"train": rows}, train
        for split in ("valid", "test"):
            if split in read:
                users, items = read[split]
                known = users > 0
                had = among(users * num_items + items, np.sort(self._seen.users() * num_items + self._seen.items))
                self._counts[split] = {
                    "pairs": len(users),
                    "of_unknown_users": int((~known).sum()),
                    "of_unknown_items": int((items[known] == 0).sum()),
                    "had_before": int(had.sum()),
                }
                users, items = users[known & ~had], items[known & ~had]
                self._rows[split] = UserRows(users, items, self._seen, self.max_history, rows.edges)
            if split == "valid" and split in read:  # what was held out for validation is known by the time of the test
                both = [np.concatenate(parts) for parts in zip(read["train"], read["valid"], strict=True)]
                good = (both[0] > 0) & (both[1] > 0)
                self._seen = Lists(both[0][good], both[1][good], num_users)
        self.splits = tuple(split for split in ("train", "valid", "test") if split in self._rows)
        self._counts["train"] = {
            "pairs": len(rows), "users": num_users - 1, "items": num_items - 1, **self._counts.get("train", {})
        }  # fmt: skip

    def _prepared(self) -> Splits:
        """The pairs of each split by id, read now or kept from another time: then as memory maps."""
        files = {} if self.source == "toy" else self._files()
        self._paths = list(files.values())
        folder = cache.folder_for(self.cache, self._paths) if files else None
        if folder is None:
            self._counts, read = self._made()
            return read
        options: list[Any] = [self.user, self.item, self.rating, self.time, self.columns, self.min_rating]
        options += [self.split, self.test_share, self.valid_share, self.split_seed]
        made, found = cache.kept(self, folder, files, options, self._names, self._fill)
        self._names, self._counts = made["learned"], made["counts"]
        return {split: (columns["users"], columns["items"]) for split, columns in found.items()}

    def _fill(self, folder: Path) -> dict[str, Any]:
        counts, read = self._made()
        cache.write(folder, {split: {"users": users, "items": items} for split, (users, items) in read.items()})
        return {"learned": self._names, "counts": counts}

    def _made(self) -> tuple[dict[str, dict[str, int]], Splits]:
        """What was counted by split, and the pairs of each split that has some."""
        read, names = (self._toy(), None) if self.source == "toy" else self._read_splits()
        if "all" in read:
            read["train"], read["test"] = self._divided(*read.pop("all"), self.test_share, 0)
        if "valid" not in read and self.valid_share:
            read["train"], read["valid"] = self._divided(*read["train"], self.valid_share, 1)
        counts = {}
        if names is not None:
            pairs = len(read["train"][0])
            read = self._numbered(read, names)
            counts["train"] = {"left_out": pairs - len(read["train"][0])}
        read = {split: pairs for split, pairs in read.items() if len(pairs[0])}
        if "train" not in read:
            raise DataError("the train split is empty")
        return counts, read

    def _divided(
        self, users: np.ndarray, items: np.ndarray, share: float, stream: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Pairs in two, each user's by themselves."""
        count = np.bincount(users)
        if self.split == "last":
            key, taken = -np.arange(len(users), dtype=np.float64), np.minimum(count - 1, 1)
        else:
            key = np.random.Generator(np.random.Philox(key=mix(self.split_seed, stream))).random(len(users))
            taken = np.minimum(np.floor(share * count + 0.5).astype(np.int64), count - 1)
        order = np.lexsort((key, users))
        place = np.arange(len(users)) - (np.cumsum(count) - count)[users[order]]  # within the user, by `key`
        held = np.zeros(len(users), bool)
        held[order] = place < taken[users[order]]
        return (users[~held], items[~held]), (users[held], items[held])

    def _read_splits(self) -> tuple[Splits, Names | None]:
        """Users and items of each split, each pair once, in order of time; and, where they are no ids yet, the names of
        users and of items by number."""
        files = self._files()
        places: tuple[dict[str, int], dict[str, int]] = ({}, {})
        read = {split: self._read(path, places) for split, path in files.items()}
        return read, (list(places[0]), list(places[1]))

    def _numbered(self, read: Splits, names: Names) -> Splits:
        """The same by id. What is held out has no part in the vocabulary, nor in the order of the ids, which ties are
        broken by."""
        if not self._names:
            for kind, known, codes in zip(("users", "items"), names, read["train"], strict=True):
                there, first, counts = np.unique(codes, return_index=True, return_counts=True)
                order = there[np.lexsort((first, -counts))]  # among equals, the one that comes first
                self._names[kind] = [known[i] for i in order]
        ids = [
            np.array([self._id(kind, name) for name in known], np.int64)
            for kind, known in zip(("users", "items"), names, strict=True)
        ]
        found = {split: (ids[0][users], ids[1][items]) for split, (users, items) in read.items()}
        users, items = found["train"]
        good = (users > 0) & (items > 0)  # restored vocabularies may lack some
        if len(good) and not good.any():
            raise DataError("the given weights know no user or no item of any pair in train; train without them")
        return {**found, "train": (users[good], items[good])}

    def _files(self) -> dict[str, Path]:
        """The file of each split, or {"all": file} of one that is yet to be split."""
        if self.source == "auto":
            raise DataError("data.source: give the path of your interactions, or toy for generated ones")
        source = Path(self.source)
        if source.is_file():
            return {"all": source}
        return split_files(source, suffix, ".txt, .tsv, .csv (optionally with .gz), .parquet, .dat or .data")

    def _read(self, path: Path, places: tuple[dict[str, int], dict[str, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of users and items, each pair once, in order of time; `places` has those of names, and gets more."""
        wanted = [name for name in (self.user, self.item, self.rating, self.time) if name is not None]
        times = Times(self.time or "")

        def convert(table: pa.Table) -> tuple[np.ndarray, ...]:
            found = [named(table[name], name) for name in (self.user, self.item)]
            when = times.read(table[self.time]) if self.time else np.zeros(table.num_rows)
            rated = numbers(table[self.rating], self.rating) if self.rating else np.zeros(table.num_rows)
            return *map(numbered, found, places), when, rated

        bad = partial(self.bad_rows.add, path)
        chunks = list(converted(path, wanted, convert, bad, self.columns or movielens(path)))
        if not chunks:
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        users, items, when, rated = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        if self.min_rating is not None:
            good = rated >= self.min_rating
            if not good.any():
                raise DataError(f"{path}: no rating is data.min_rating={self.min_rating} or more")
            users, items, when = users[good], items[good], when[good]
        order = np.argsort(when, kind="stable")
        _, first = np.unique(users[order] * len(places[1]) + items[order], return_index=True)
        order = order[np.sort(first)]
        return users[order], items[order]

    def _toy(self) -> Splits:
        """120 users of four tastes, 80 items; each user has 5 to 14 items, mostly of one taste."""
        random = np.random.Generator(np.random.Philox(key=mix(21)))
        users, items = [], []
        for user in range(1, 121):
            chance = np.where(np.arange(80) % 4 == user % 4, 1.0, 0.05) * (np.arange(80) + 5.0) ** -0.5
            taken = random.choice(80, size=int(random.integers(5, 15)), replace=False, p=chance / chance.sum())
            users.append(np.full(len(taken), user))
            items.append(1 + taken)
        if not self._names:
            self._names = {"users": [f"u{i}" for i in range(1, 121)], "items": [f"i{i}" for i in range(1, 81)]}
        return {"all": (np.concatenate(users), np.concatenate(items))}
