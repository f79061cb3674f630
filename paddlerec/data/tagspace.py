"""Documents with one tag each: Reuters R8 and R52, and own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import DataModule, Rows, mix, padded, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate, split_files
from paddlecore.task import Batch
from paddlerec.data.reader import BadValue, converted, suffix

if TYPE_CHECKING:
    import pyarrow as pa

PAD, UNKNOWN = 0, 1  # ids of what fills up a batch, and of words that the vocabulary lacks

SOURCE = Source(
    name="Reuters-21578, R8 and R52",
    folder="rec/reuters-r8-r52",
    files=(
        File("R8_train.tsv.gz", "10ea0b3413a210b095a210c5fe229e0a7ef074dc58fc359128eed9fe29ae3363", 1_011_798),
        File("R8_test.tsv.gz", "a63fd48bb75b5a689e1093a65e530f07440ff9b87efeb1a92dd48615759b2f3d", 354_833),
        File("R52_train.tsv.gz", "5213a22f208f8acb60ef07003981700d9ee5becc7e9dc63245c83701c836e819", 880_013),
        File("R52_test.tsv.gz", "6db4891051f9215db4995f782f2d3e7cf33aac6a7243d95e0fe286cdd387e8c6", 343_699),
    ),
    licence="research",
    homepage="https://archive.ics.uci.edu/dataset/137/reuters+21578+text+categorization+collection",
    manual="""
R8: data/R8 of https://github.com/yao8839836/text_gcn, as lines `tag<TAB>text`.
R52: data/R52 of https://github.com/hanggun/EnhanceTextClasification, with its separator ||| replaced by a tab.
Files of another make: put train.tsv and test.tsv into a folder and give it as data.source=<folder>.
""",
)


class TagRows:
    """Word ids of all rows in one flat array [total] int32, row i at offsets[i]..offsets[i + 1], and labels [n] int64.

    A batch is tokens [b, T] int64, padded on the right with 0 to its longest row, label [b] int64, and, where `draws`
    > 0, negatives [b, draws] int64: tags other than the label, drawn evenly and with replacement, a function of
    (seed, epoch, row) alone.
    """

    def __init__(
        self, tokens: np.ndarray, offsets: np.ndarray, labels: np.ndarray, *, tags: int, draws: int = 0, seed: int = 1
    ) -> None:
        self.tokens, self.offsets, self.labels = tokens, offsets, labels
        self.tags, self.draws, self.seed = tags, draws, seed

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        tokens = padded(self.tokens, self.offsets[rows], self.offsets[rows + 1])
        label = np.take(self.labels, rows)
        batch = {"tokens": torch.from_numpy(tokens), "label": torch.from_numpy(label)}
        if self.draws:
            others = (uniform(self.seed, epoch, rows, self.draws) * (self.tags - 1)).astype(np.int64)
            batch["negatives"] = torch.from_numpy(others + (others >= label[:, None]))
        return batch


class TagSpaceData(DataModule):
    """Documents with one tag each, as words between blanks.

    `source`: auto = a Reuters corpus under PADDLE_DATA (rec/reuters-r8-r52); toy = generated documents; a folder with a
    train file, and optionally valid and test files; or one file of training rows. A row is a tag and a text:

    - .tsv or .txt: `tag<TAB>text`, no quoting;
    - .csv: `tag,text`, quoted with " where need be. Words may be numbers, as in PaddleRec's `tag,word word ...`: they
      are words like any others.

    Each also .gz, in UTF-8, no header. Where no valid file is given, `valid_share` of the training rows are held out
    (at least one), by `split_seed`. A row is bad if it has another number of columns, no tag or no text, is not UTF-8,
    or has a tag that the training rows lack; bad rows are named by file and line. An empty or damaged file stops the
    reading, whatever `on_bad_row` says.

    Words get ids by the training rows alone, the most frequent first, from 2 on; 0 fills up a batch, 1 is any word not
    seen there (or too rarely). Documents are cut off after `max_length` words. Tags are numbered by their names.

    Batch: tokens [B, T] int64, padded on the right with 0; label [B] int64; for training rows negatives [B, draws].

    Memory: 4 bytes a word; while reading, the texts as Python strings.

    Args:
        corpus: r8 or r52, where `source` is auto.
        min_count: words that are rarer in the training rows are unknown.
        max_length: most words of a document.
        draws: wrong tags drawn for a training row.
        valid_share: share of the training rows that is held out.
        split_seed: of that choice; the run's seed does not change it.
        **common: see `DataModule`.
    """

    def __init__(
        self,
        *,
        corpus: str = "r8",
        min_count: int = 1,
        max_length: int = 200,
        draws: int = 20,
        valid_share: float = 0.1,
        split_seed: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if corpus not in ("r8", "r52"):
            raise ValueError(f"data.corpus must be r8 or r52, got {corpus!r}")
        if min(min_count, max_length, draws) < 1:
            raise ValueError("data.min_count, data.max_length and data.draws must be at least 1")
        if not 0 < valid_share < 1:
            raise ValueError(f"data.valid_share must lie between 0 and 1, got {valid_share}")
        self.corpus, self.min_count, self.max_length, self.draws = corpus, min_count, max_length, draws
        self.valid_share, self.split_seed = valid_share, split_seed
        self._tags: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self._rows: dict[str, TagRows] = {}

    @property
    def spec(self) -> dict[str, Any]:
        if not self._tags:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        return {
            "vocab_size": 2 + len(self._words),
            "num_classes": len(self._tags),
            "pad_id": PAD,
            "labels": list(self._tags),
        }

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return {"labels": list(self._tags), "vocabulary": list(self._words)}

    def restore(self, state: dict[str, Any]) -> None:
        self._tags = {tag: i for i, tag in enumerate(state.get("labels", []))}
        self._words = {word: i for i, word in enumerate(state.get("vocabulary", []), start=2)}

    def describe(self) -> dict[str, Any]:
        unknown = {split: round(float((rows.tokens == UNKNOWN).mean()), 4) for split, rows in self._rows.items()}
        return {**super().describe(), "tags": list(self._tags), "unknown_words": unknown}

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        read: dict[str, list[tuple[str, list[str]]]]
        if self.source == "toy":
            read = {split: _toy(split, count) for split, count in (("train", 400), ("valid", 80), ("test", 80))}
            known = set(self._tags) or {tag for tag, _ in read["train"]}
        else:
            files = self._files()
            self._paths = list(files.values())
            known = set(self._tags)  # of given weights
            read = {"train": self._read(files["train"], known)}
            known = known or {tag for tag, _ in read["train"]}
            if "valid" not in files:
                read["train"], read["valid"] = self._held_out(read["train"])
            read |= {split: self._read(path, known) for split, path in files.items() if split != "train"}
        if not self._tags:
            self._tags = {tag: i for i, tag in enumerate(sorted(known))}
        if len(self._tags) < 2:
            raise DataError(f"there is one tag only, {next(iter(self._tags))!r}: nothing can be told apart")
        if not self._words:
            counts = Counter(word for _, words in read["train"] for word in words)
            kept = [word for word, count in counts.most_common() if count >= self.min_count]
            self._words = {word: i for i, word in enumerate(kept, start=2)}
        self.splits = tuple(read)
        self._rows = {split: self._numbered(rows, split == "train") for split, rows in read.items()}

    def _files(self) -> dict[str, Path]:
        if self.source == "auto":
            folder = locate(SOURCE)
            return {split: folder / f"{self.corpus.upper()}_{split}.tsv.gz" for split in ("train", "test")}
        source = Path(self.source)
        if source.is_file():
            return {"train": source}
        return split_files(source, _is_text, ".tsv, .txt or .csv, optionally with .gz")

    def _read(self, path: Path, known: set[str]) -> list[tuple[str, list[str]]]:
        """Tag and words of each good row; a tag has to be in `known`, unless that is empty."""
        if not _is_text(path):
            raise DataError(f"{path}: the name must end in .tsv, .txt or .csv, each optionally with .gz")

        def convert(table: pa.Table) -> list[tuple[str, list[str]]]:
            tags = [tag.strip() for tag in table["tag"].to_pylist()]
            texts = [text.split() for text in table["text"].to_pylist()]
            for tag, words in zip(tags, texts, strict=True):
                if not tag or not words:
                    raise BadValue(f"the {'text' if tag else 'tag'} is empty")
                if known and tag not in known:
                    raise BadValue(f"tag {tag!r} is not among those to learn ({', '.join(sorted(known)[:20])})")
            return list(zip(tags, (words[: self.max_length] for words in texts), strict=True))

        names = ["tag", "text"]
        chunks = list(converted(path, names, convert, partial(self.bad_rows.add, path), names))
        rows = [row for chunk in chunks for row in chunk]
        if not rows:
            raise DataError(f"{path}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        return rows

    def _held_out(self, rows: list[Any]) -> tuple[list[Any], list[Any]]:
        if len(rows) < 2:
            raise DataError(f"{self._paths[0]}: one row is too few to hold out any for validation")
        count = min(max(1, round(self.valid_share * len(rows))), len(rows) - 1)
        held = np.zeros(len(rows), dtype=bool)
        held[np.random.Generator(np.random.Philox(key=mix(self.split_seed))).permutation(len(rows))[:count]] = True
        return [r for r, h in zip(rows, held, strict=True) if not h], [r for r, h in zip(rows, held, strict=True) if h]

    def _numbered(self, rows: list[tuple[str, list[str]]], training: bool) -> TagRows:
        tokens = np.array([self._words.get(w, UNKNOWN) for _, words in rows for w in words], dtype=np.int32)
        offsets = np.cumsum([0, *(len(words) for _, words in rows)])
        labels = np.array([self._tags[tag] for tag, _ in rows], dtype=np.int64)
        draws = self.draws if training else 0
        return TagRows(tokens, offsets, labels, tags=len(self._tags), draws=draws, seed=self.seed)

    # ------------------------------------------------------------------------------------------------ raw input

    def encode(self, raw: Any) -> Batch:
        """A text, its words between blanks; in lower case and without punctuation, where the corpus is."""
        if not isinstance(raw, str) or not raw.split():
            raise DataError(f"expected a text of at least one word, got {raw!r:.80}")
        words = raw.split()[: self.max_length]
        return {"tokens": torch.tensor([[self._words.get(word, UNKNOWN) for word in words]])}

    def examples(self) -> Sequence[Any]:
        return [
            "crude oil prices rose after opec ministers agreed to cut output by one mln barrels a day",
            "the company said its board accepted an offer to buy all of its shares for cash",
            "the central bank raised its discount rate to slow the growth of money supply",
        ]


def _is_text(path: Path) -> bool:
    return suffix(path) in (".tsv", ".txt", ".csv")


def _toy(split: str, count: int) -> list[tuple[str, list[str]]]:
    """Documents of four tags: half of the words of each are its tag's own, the others anybody's."""
    random = np.random.Generator(np.random.Philox(key=mix(*split.encode())))
    rows = []
    for number in range(count):
        tag = number % 4
        length = int(random.integers(5, 25))
        own = random.random(length) < 0.5
        words = np.where(own, 20 * tag + random.integers(0, 20, length), 80 + random.integers(0, 60, length))
        rows.append((f"tag{tag}", [f"w{word}" for word in words]))
    return rows
