"""Sessions of clicks: what comes next? Own logs and texts, YooChoose and Diginetica in the split of SR-GNN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate, split_files
from paddlecore.task import Batch
from paddlerec.data import cache
from paddlerec.data.reader import (
    Times,
    converted,
    from_json,
    is_name,
    is_whole,
    lines,
    movielens,
    named,
    numbered,
    suffix,
)
from paddlerec.data.session_parallel import SessionPlan, SessionStreams

if TYPE_CHECKING:
    import pyarrow as pa

_TOY_ITEMS, _TOY_NEXT = 60, 3  # items of the generated sessions; how many may follow each of them


class PrefixRows:
    """A prefix of a session and the click after it, one a row; prefixes are slices, expanded when they are fetched.

    Batch: history [B, T] int64, right-padded with 0, cut to the longest of the batch; target [B] int64.

    Args:
        clicks: [n] int32 ids of all sessions, one after the other.
        starts: [rows] where each row's session begins in `clicks`.
        ends: [rows] where its history ends; the same as its start if it has none.
        targets: [rows] int32; 0 = an item that was never seen in training.
        max_len: clicks of a history that are kept, the latest ones.
    """

    def __init__(
        self, clicks: np.ndarray, starts: np.ndarray, ends: np.ndarray, targets: np.ndarray, max_len: int
    ) -> None:
        # a last 0, so that a slice that begins at the end of the clicks has something to read
        self.clicks = np.append(clicks, 0).astype(np.int64)
        self.starts, self.ends, self.targets = np.maximum(starts, ends - max_len), ends, targets

    def __len__(self) -> int:
        return len(self.targets)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        starts, ends = self.starts[rows, None], self.ends[rows, None]  # [b, 1]
        places = starts + np.arange(max(int((ends - starts).max()), 1))  # [b, T]
        history = np.where(places < ends, self.clicks[np.minimum(places, ends)], 0)
        return {
            "history": torch.from_numpy(history),
            "target": torch.from_numpy(self.targets[rows].astype(np.int64)),
        }

    def by_length(self) -> PrefixRows:
        """The same rows, short histories first, so that a batch in this order has little padding."""
        order = np.argsort(self.ends - self.starts, kind="stable")
        self.starts, self.ends, self.targets = self.starts[order], self.ends[order], self.targets[order]
        return self


class Log(NamedTuple):
    """Sessions as they stand in a file, in order of time."""

    codes: np.ndarray  # [clicks] int32, places in `names`
    names: list[str]  # items, each once
    offsets: np.ndarray  # [sessions + 1] int64
    whole: bool  # every click but the first is a target; else only the last: prefixes that were expanded before

    def take(self, chosen: np.ndarray) -> Log:
        """The sessions `chosen` [s]."""
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return self._replace(codes=self.codes[places], offsets=offsets)


class Clicks(NamedTuple):
    """Sessions by id."""

    ids: np.ndarray  # [clicks] int32; 0 = unknown
    offsets: np.ndarray  # [sessions + 1] int64
    whole: bool  # see `Log`


class SessionData(DataModule):
    """Next-item examples from your own sessions.

    `source` is a folder with a train file and optionally valid and test files, or one file, which is split by sessions:

    - `.tsv`, `.csv` (also `.gz`) or `.parquet`: one click a row, with columns of session, item and time, as GRU4Rec
      reads them; with `columns`, files without a header, as `yoochoose-clicks.dat`. Clicks are put in order of time
      within a session; equal times keep the file's order.
    - `.txt` (also `.gz`): one session a line, item names parted by blanks. A line with a tab is a history and, after
      the tab, its target: one example, not expanded (for test files that come expanded; not for `batches=parallel`).

    All prefixes of a training session are examples: a session of n clicks gives n - 1. Where there is no valid file,
    `valid_share` of the training sessions become validation, see `split`; a session's prefixes stay together. Their
    items are in the vocabulary all the same.

    Ids: items are 1..N, most frequent in the train file first; `num_items` = N + 1. Id 0 is padding. An item that is
    not in the train file (or too rare there) is left out of histories, which may so become empty; as a target it has
    id 0, is evaluated and counts as a miss. `describe` says how many there are.

    A row is bad if it has another number of columns than the header, an empty session or item, a time that is neither a
    number nor a date (see `Times`), or is not UTF-8; a line of text, if it is empty or has more than one tab. Sessions
    of one click give no example; `describe` counts them.

    Batch: see `PrefixRows`; with `batches=parallel` that of training is of `SessionStreams`, where `batch_size` is the
    number of sessions side by side. Evaluation rows are prefixes in either case, in order of their length.

    Args:
        batches: prefixes = each training example on its own; parallel = a click of each of many sessions a step.
        samples: parallel: items drawn for each step, beside the targets of the other sessions.
        alpha: parallel: they are drawn by count^alpha.
        max_len: clicks of a history that are kept, the latest ones.
        min_count: items with fewer clicks in the train file are unknown.
        session: column of the session, in files of clicks.
        item: column of the item.
        time: column of the time, numbers or dates.
        columns: names of all columns, for files of clicks without a header line; without it `.dat` parted by :: and
            `.data` have MovieLens' user, item, rating, time.
        valid_share: share of the training sessions that become validation where there is no valid file; 0 = none.
        test_share: share of all sessions that become test where `source` is one file; 0 = none.
        split: random, or last: the sessions of each share are those that begin last, so that nothing is learned from
            the future (of lines of text, the last lines).
        split_seed: of a random split; the run's seed does not change it.
        cache: folder of prepared columns; auto = one in the user's cache folder, and none for files below 32 MB
            together; null = none: files are read at each start.
        **common: see `DataModule`.
    """

    repeats = True  # may an item of the history be recommended?

    vocabulary_state = "items"
    vocabulary_of = "clicks of these sessions"

    def __init__(
        self,
        *,
        batches: str = "prefixes",
        samples: int = 2048,
        alpha: float = 0.5,
        max_len: int = 50,
        min_count: int = 1,
        session: str = "SessionId",
        item: str = "ItemId",
        time: str = "Time",
        columns: list[str] | None = None,
        valid_share: float = 0.1,
        test_share: float = 0.1,
        split: str = "random",
        split_seed: int = 1,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if split not in ("random", "last"):
            raise ValueError(f"data.split must be random or last, got {split!r}")
        if max_len < 1 or min_count < 1:
            raise ValueError(f"data.max_len and data.min_count must be at least 1, got {max_len}, {min_count}")
        if min(valid_share, test_share) < 0 or valid_share + test_share >= 1:
            raise ValueError(f"data.valid_share={valid_share} and data.test_share={test_share} leave nothing to learn")
        if batches not in ("prefixes", "parallel") or samples < 0:
            raise ValueError(
                f"data.batches must be prefixes or parallel, and data.samples not negative, got {batches!r}"
            )
        self.batches, self.samples, self.alpha = batches, samples, alpha
        self.max_len, self.min_count, self.columns, self.wanted = max_len, min_count, columns, (session, item, time)
        self.valid_share, self.test_share, self.split, self.split_seed = valid_share, test_share, split, split_seed
        self.cache = cache
        self._items: list[str] = []  # names; id = 1 + place
        self._ids: dict[str, int] = {}  # once `encode` needs them
        self._rows: dict[str, Rows] = {}
        self._counts: dict[str, dict[str, int]] = {}  # by split, for describe

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        if not self._items:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        sizes = {"num_items": 1 + len(self._items), "max_len": self.max_len, "labels": ["", *self._items]}
        return sizes | ({"slots": self.batch_size} if self.batches == "parallel" else {})

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def plan(self, rows: Rows) -> Plan:
        return SessionPlan(rows) if isinstance(rows, SessionStreams) else super().plan(rows)

    def vocabulary(self) -> list[str]:
        return ["", *self._items]

    def unknown_share(self) -> float:
        counts = self._counts["train"]
        return counts["unknown_clicks"] / max(counts["clicks"], 1)

    def state(self) -> dict[str, Any]:
        return self._learned()

    def restore(self, state: dict[str, Any]) -> None:
        self._learn(state)

    def _learned(self) -> dict[str, Any]:
        return {"items": self._items}

    def _learn(self, found: dict[str, Any]) -> None:
        """Take over what `_learned` gave."""
        self._items, self._ids = list(found.get("items", [])), {}

    def examples(self) -> list[list[str]]:
        """Made up of the vocabulary: sessions of somebody's data do not belong into a file of weights."""
        return [[self._items[(7 * k + j) % len(self._items)] for j in range(k)] for k in (1, 2, 3)]

    def encode(self, raw: Any) -> Batch:
        """A session so far, as a list of item names or JSON text of one, oldest click first, e.g. ["a12", "b7"].

        Unknown items are left out, of more than `max_len` the latest are kept; an empty history is allowed.
        """
        given = from_json(raw)
        if not isinstance(given, list) or not all(map(is_name, given)):
            raise DataError(f"expected a list of items, oldest first; got {raw!r:.80}")
        return self._encoded([i for i in map(self._id, given) if i])

    def _encoded(self, known: list[int]) -> Batch:
        """A history of ids, oldest first, and, where items do not come back, what is not to be recommended."""
        batch = {"history": torch.tensor([known[-self.max_len :] or [0]])}
        return batch if self.repeats else {**batch, "seen": torch.tensor([known or [0]])}

    def _id(self, item: str | int) -> int:
        """The id of an item by its name; 0 if it is unknown."""
        if not self._ids:
            self._ids = {name: 1 + place for place, name in enumerate(self._items)}
        return self._ids.get(str(item), 0)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "splits": self._counts,
        }

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """Read the files, number the items, or find that it was done before; lay out the rows.

        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        read = self._prepared()
        self.splits = tuple(split for split in ("train", "valid", "test") if split in read)
        self._rows = {split: self._laid_out(split, read[split]) for split in self.splits}
        if not len(self._rows["train"]):
            raise DataError("the train split has no session of two known items, so there is nothing to learn")

    def _prepared(self) -> dict[str, Clicks]:
        """The sessions of each split, read now or kept from another time: then as memory maps."""
        files = {} if self.source == "toy" else self._files()
        self._paths = list(files.values())
        folder = cache.folder_for(self.cache, self._paths) if files else None
        if folder is None:
            return self._made()
        restored = self._learned() if self._items else None
        made, found = cache.kept(self, folder, files, self._options(), restored, self._fill)
        self._learn(made["learned"])
        return {split: Clicks(**columns, whole=made["whole"][split]) for split, columns in found.items()}

    def _options(self) -> list[Any]:
        """Those that decide what `_made` and `_learned` give."""
        division = [self.valid_share, self.test_share, self.split, self.split_seed]
        return [self.wanted, self.columns, self.min_count, division]

    def _fill(self, folder: Path) -> dict[str, Any]:
        made = self._made()
        cache.write(folder, {split: {"ids": found.ids, "offsets": found.offsets} for split, found in made.items()})
        return {"learned": self._learned(), "whole": {split: found.whole for split, found in made.items()}}

    def _made(self) -> dict[str, Clicks]:
        read = self._toy() if self.source == "toy" else self._read_splits()
        if not self._items:
            self._items = self._vocabulary(read["train"])
        # the vocabulary is that of the whole train file, so this comes after it
        if "valid" not in read and self.valid_share:
            share = self.valid_share / (1.0 - (self.test_share if "all" in read else 0.0))
            read["train"], read["valid"] = self._divided(read["train"], share, 0)
        read.pop("all", None)
        return {split: Clicks(self._numbered(log), log.offsets, log.whole) for split, log in read.items()}

    def _read_splits(self) -> dict[str, Log]:
        read = {split: self._read(path) for split, path in self._files().items()}
        if "all" in read:
            read["train"] = read["all"]
            if self.test_share:
                read["train"], read["test"] = self._divided(read["all"], self.test_share, 1)
        return read

    def _files(self) -> dict[str, Path]:
        """The file of each split, or {"all": file} of one that is yet to be split."""
        if self.source == "auto":
            raise DataError("data.source: give the path of your sessions, or toy for generated ones")
        source = Path(self.source)
        if source.is_file():
            return {"all": source}
        return split_files(source, suffix, ".txt, .tsv, .csv (optionally with .gz), .parquet, .dat or .data")

    def _read(self, path: Path) -> Log:
        log = self._read_lines(path) if suffix(path) == ".txt" else self._read_clicks(path)
        if len(log.offsets) < 2:
            raise DataError(f"{path}: it has no sessions{' that can be used' if self.bad_rows.count else ''}")
        return log

    def _read_lines(self, path: Path) -> Log:
        """One session a line, or one history, a tab and its target."""
        tokens: list[str] = []
        lengths: list[int] = []
        tabs, bad = 0, partial(self.bad_rows.add, path)
        for number, line in lines(path, bad):
            items, tab = line.split(), line.count("\t")
            if not items or tab > 1 or (tab and len(line.split("\t")[1].split()) != 1):
                why = "expected items parted by blanks, or a history, a tab and one target"
                bad(number, f"{why}; got {line.strip()!r:.60}")
            elif lengths and (tab > 0) != (tabs > 0):
                bad(number, f"{'a' if tab else 'no'} tab here, unlike in the lines before")
            else:
                tabs += tab
                tokens += items
                lengths.append(len(items))
        names: dict[str, int] = {}
        codes = np.fromiter((names.setdefault(t, len(names)) for t in tokens), np.int32, len(tokens))
        return Log(codes, list(names), np.cumsum([0, *lengths], dtype=np.int64), not tabs)

    def _read_clicks(self, path: Path) -> Log:
        """One click a row."""
        session, item, time = self.wanted
        times = Times(time)
        sessions: dict[str, int] = {}
        items: dict[str, int] = {}

        def convert(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            found = [named(table[name], name) for name in (session, item)]
            when = times.read(table[time])
            return numbered(found[0], sessions), numbered(found[1], items).astype(np.int32), when

        bad = partial(self.bad_rows.add, path)
        chunks = list(converted(path, self.wanted, convert, bad, self.columns or movielens(path)))
        if not chunks:
            return Log(np.empty(0, np.int32), [], np.zeros(1, np.int64), True)
        of, codes, when = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        order = np.lexsort((when, of))  # by session, then by time; stable
        offsets = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(sessions)))])
        log = Log(codes[order], list(items), offsets, True)
        # in the order in which they begin; one split at random keeps that of the file
        return log.take(np.argsort(when[order][offsets[:-1]], kind="stable")) if self.split == "last" else log

    def _divided(self, log: Log, share: float, stream: int) -> tuple[Log, Log]:
        """A log in two; the second gets `share` of the sessions, and each at least one."""
        count = len(log.offsets) - 1
        if count < 2:
            raise DataError(
                "a single session is left, too few to hold one out; lay valid and test files beside it, or set "
                "data.valid_share=0 and data.test_share=0"
            )
        second = min(max(round(share * count), 1), count - 1)
        if self.split == "last":
            order = np.arange(count)[::-1]
        else:
            order = np.random.Generator(np.random.Philox(key=mix(self.split_seed, stream))).permutation(count)
        return log.take(np.sort(order[second:])), log.take(np.sort(order[:second]))

    def _vocabulary(self, train: Log) -> list[str]:
        """Names by number of clicks, most frequent first; among equals, the one that comes first in the file."""
        counts = np.bincount(train.codes, minlength=len(train.names))
        order = np.argsort(-counts, kind="stable")
        return [train.names[i] for i in order[: int((counts >= self.min_count).sum())]]

    def _numbered(self, log: Log) -> np.ndarray:
        """[clicks] int32 ids."""
        return np.array([self._id(name) for name in log.names], np.int32)[log.codes]

    def _laid_out(self, split: str, clicks: Clicks) -> Rows:
        ids, offsets, whole = clicks
        if split == "train" and self.batches == "parallel" and not whole:
            raise DataError("data.batches=parallel reads whole sessions, and train has histories with their targets")
        lengths, place = np.diff(offsets), np.arange(len(ids))
        if whole:
            target = np.ones(len(ids), bool)
            target[offsets[:-1]] = False
            of = np.repeat(np.arange(len(lengths)), lengths)[target]  # [rows] the session of each
            target = place[target]
        else:
            of = np.arange(len(lengths))
            target = offsets[1:] - 1
        kept = np.concatenate([[0], np.cumsum(ids > 0)])  # where a click stands once the unknown ones are left out
        starts, ends, targets = kept[offsets[of]], kept[target], ids[target]
        if split == "train":  # nothing can be learned of an unknown target, nor from no history
            good = (targets > 0) & (ends > starts)
            starts, ends, targets = starts[good], ends[good], targets[good]
        rows = PrefixRows(ids[ids > 0], starts, ends, targets, self.max_len)
        self._counts[split] = {
            "sessions": len(lengths),
            "clicks": len(ids),
            "unknown_clicks": int((ids == 0).sum()),
            "unknown_targets": int((targets == 0).sum()),
            "empty_histories": int((ends == starts).sum()),
            "cut_histories": int((ends - starts > self.max_len).sum()),
            "of_one_click": int((lengths == 1).sum()),
        }
        if split != "train":
            return rows.by_length()
        if self.batches == "parallel" and len(rows):
            return SessionStreams(
                ids[ids > 0], kept[offsets], num_items=1 + len(self._items), slots=self.batch_size,
                samples=self.samples, alpha=self.alpha, seed=self.seed,
            )  # fmt: skip
        return rows

    def _toy(self) -> dict[str, Log]:
        """Walks on a graph where each item is followed by one of three others, the first of them most often."""
        random = np.random.Generator(np.random.Philox(key=mix(20)))
        follow = np.stack([random.permutation(_TOY_ITEMS)[:_TOY_NEXT] for _ in range(_TOY_ITEMS)])
        logs = {}
        for split, count in {"train": 300, "valid": 40, "test": 60}.items():
            lengths = 3 + random.integers(0, 6, count)
            walk = np.empty((count, lengths.max()), np.int32)
            walk[:, 0] = random.integers(0, _TOY_ITEMS, count)
            for step in range(1, walk.shape[1]):
                walk[:, step] = follow[walk[:, step - 1], random.choice(_TOY_NEXT, count, p=(0.7, 0.2, 0.1))]
            codes = walk[np.arange(walk.shape[1]) < lengths[:, None]]
            names = [str(1 + i) for i in range(_TOY_ITEMS)]
            logs[split] = Log(codes, names, np.concatenate([[0], np.cumsum(lengths)]), True)
        return logs


class Numbered:
    """Over `SessionData`: items of a published data set, which have numbers and no names.

    Item ids are the places of the item numbers of the training data in ascending order, from 1 on. The weights carry
    nothing of the data but how many there are, so `encode` takes ids.
    """

    _items: list[str]
    _ids: dict[str, int]
    _paths: list[Path]
    _encoded: Callable[[list[int]], Batch]
    vocabulary_state = ""  # of numbers

    @property
    def spec(self) -> dict[str, Any]:
        return {name: size for name, size in super().spec.items() if name != "labels"}  # type: ignore[misc]

    def state(self) -> dict[str, Any]:
        return {"num_items": 1 + len(self._items)}

    def restore(self, state: dict[str, Any]) -> None:
        """Only how many items there are, for `spec`: reading the data numbers them again, always alike."""
        self._items = [str(i) for i in range(1, state.get("num_items", 1))]

    def prepare(self) -> None:
        expected, self._items, self._ids = len(self._items), [], {}
        super().prepare()  # type: ignore[misc]
        if expected and expected != len(self._items):
            raise DataError(
                f"the weights know {expected} items, these data have {len(self._items)}: other ones with the same ids; "
                "train without init.weights"
            )

    def _vocabulary(self, train: Log) -> list[str]:
        try:
            return [str(number) for number in sorted(int(train.names[i]) for i in np.unique(train.codes))]
        except ValueError as error:
            raise DataError(f"{self._paths[0]}: item numbers must be whole numbers: {error}") from None

    def examples(self) -> list[Any]:
        """Made up: the licence does not let sessions of the data travel with the weights."""
        return [[1], [1, 2], [3, 2, 1]]

    def encode(self, raw: Any) -> Batch:
        """A history as a list of item ids, or JSON text of one, oldest first, e.g. [12, 7, 7]."""
        given = from_json(raw)
        if not isinstance(given, list) or not all(map(is_whole, given)):
            raise DataError(f"expected a list of item ids, oldest first; got {raw!r:.80}")
        return self._encoded([i for i in given if 1 <= i <= len(self._items)])


class _PublishedSessions(Numbered, SessionData):
    """Sessions and expanded test prefixes as SR-GNN's preprocessing leaves them: item numbers, no names.

    `source`: auto = the files under PADDLE_DATA; toy = generated sessions; or a path to files of the same form.
    Ids and input: see `Numbered`.

    Args:
        batches: prefixes = each training example on its own; parallel = a click of each of many sessions a step.
        samples: parallel: items drawn for each step, beside the targets of the other sessions.
        alpha: parallel: they are drawn by count^alpha.
        max_len: clicks of a history that are kept, the latest ones.
        valid_share: share of the training sessions that become validation, drawn once for all; 0 = none.
        **common: see `DataModule`.
    """

    SOURCE: Source

    def __init__(
        self,
        *,
        batches: str = "prefixes",
        samples: int = 2048,
        alpha: float = 0.5,
        max_len: int = 50,
        valid_share: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(
            batches=batches, samples=samples, alpha=alpha, max_len=max_len, min_count=1, session="SessionId",
            item="ItemId", time="Time", columns=None, valid_share=valid_share, test_share=0.1, split="random",
            split_seed=1, **common,
        )  # fmt: skip

    def _files(self) -> dict[str, Path]:
        if self.source != "auto":
            return super()._files()
        folder = locate(self.SOURCE)
        return {"train": folder / "train_sessions.txt.gz", "test": folder / "test_prefixes.tsv.gz"}

    def _read(self, path: Path) -> Log:
        return self._read_lines(path) if path.name == "test_prefixes.tsv.gz" else super()._read(path)


_MANUAL = """
The terms of the data do not let us pass these files on.
Get the click log, run the preprocessing of SR-GNN (https://github.com/CRIPAC-DIG/SR-GNN, datasets/preprocess.py), and
write its result as text: train sessions, one a line (train.txt), and test rows `history<TAB>target` (test.txt).
Give their folder as data.source=<folder>; item numbers are whole numbers.
"""


class YoochooseData(_PublishedSessions):
    """YooChoose (RecSys Challenge 2015), the latest 1/64 of the training sessions, as NARM, STAMP and SR-GNN use it.

    369,859 training examples before validation is taken out of them, 55,898 test rows, 17,376 items; the targets of
    some test rows are items that are not in train and count as misses.

    Source, options, ids and input: see `_PublishedSessions`.
    """

    SOURCE = Source(
        name="YooChoose 1/64",
        folder="rec/yoochoose1_64-srgnn",
        files=(
            File("train_sessions.txt.gz", "58a2624995d30c7bf531ff285bdc85dd8c6a090629425b272b5faa84abea7de8", 955_023),
            File("test_prefixes.tsv.gz", "6295ecdc51c266fb08eb648f05868c5de5dff414221e4b943e58da119039b204", 318_091),
        ),
        licence="non-commercial, no redistribution (said to be CC BY-NC-ND 4.0)",
        homepage="https://recsys.acm.org/recsys15/challenge/",
        manual=_MANUAL,
    )


class DigineticaData(_PublishedSessions):
    """Diginetica (CIKM Cup 2016, track 2) as SR-GNN uses it.

    719,470 training examples before validation is taken out of them, 60,858 test rows, 43,097 items.

    Source, options, ids and input: see `_PublishedSessions`.
    """

    SOURCE = Source(
        name="Diginetica",
        folder="rec/diginetica-srgnn",
        files=(
            File(
                "train_sessions.txt.gz", "630554f8004291d62c62b26b5c868ac4c14704056807d4f119861b899426a013", 2_131_091
            ),
            File("test_prefixes.tsv.gz", "cae5a0e043347ac6e944af5c0602a08b2b485392e38e4e1caaf5d923ef1129b8", 391_044),
        ),
        licence="research use by the terms of the competition, no redistribution",
        homepage="https://competitions.codalab.org/competitions/11161",
        manual=_MANUAL,
    )
