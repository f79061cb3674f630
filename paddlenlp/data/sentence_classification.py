"""Texts with one label each: own files in several formats; and two published sets in ten folds, MR and Subj."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix, padded
from paddlecore.errors import DataError, nearest
from paddlecore.sources import File, Source, published
from paddlecore.task import Batch
from paddlenlp.data.buckets import LengthBuckets, padding_share
from paddlenlp.data.text_files import (
    SPACED,
    TOKENIZERS,
    BadRow,
    check_columns,
    check_reading,
    frequent,
    is_blank,
    kind_of,
    read_table,
    split_files,
    string_of,
    text_of,
    warn_unknown,
)

PAD, UNKNOWN = 0, 1  # ids of what fills up a batch, and of tokens that the vocabulary lacks


@dataclass
class _Texts:
    """Rows of a file in order, with the places they come from."""

    path: Path
    lines: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tokens: list[list[str]] = field(default_factory=list)

    def add(self, line: int, label: str, tokens: list[str]) -> None:
        self.lines.append(line)
        self.labels.append(label)
        self.tokens.append(tokens)

    def take(self, chosen: Sequence[int] | np.ndarray) -> _Texts:
        some = _Texts(self.path)
        for i in chosen:
            some.add(self.lines[i], self.labels[i], self.tokens[i])
        return some


class TextRows:
    """Token ids of all rows in one flat array [total] int32, row i at offsets[i]..offsets[i + 1], and labels [n] int64.

    A batch is tokens [b, T] int64, padded on the right with 0 to its longest row, and label [b] int64.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, labels: np.ndarray) -> None:
        self.tokens, self.offsets, self.labels = tokens, offsets, labels

    @property
    def lengths(self) -> np.ndarray:
        """[n] tokens of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        tokens = padded(self.tokens, self.offsets[rows], self.offsets[rows + 1])
        return {"tokens": torch.from_numpy(tokens), "label": torch.from_numpy(np.take(self.labels, rows))}


class TextTableData(DataModule):
    """Rows of one text and one class, from your own files.

    `source` is a folder with train, valid and (if there is one) test files, e.g. train.tsv.gz; or one file, which is
    split; or toy = generated sentences. The ending says how a file is read, a .gz after it aside:

    - .csv (quoted with ") and .tsv (tabs, no quoting): a header line, or `columns`; one row a line;
    - .jsonl: an object a line;
    - .txt: `<label> <text>`, parted at the first space; no header.

    Blank lines are left out. A row is bad if it has another number of columns than the header, no text, no label or one
    that the training rows (or the given weights) do not have, or is not in `encoding`: bad rows are named by file and
    line. A missing column and an empty or damaged file stop the reading, whatever `on_bad_row` says.

    Tokens get ids by the training rows alone, the most frequent first, from 2 on; 0 fills up a batch, 1 is any token
    not seen there (or too rarely). No Unicode normalisation is done: an accent as a character of its own makes another
    token. Texts longer than `max_length` tokens are cut off at the end; `describe` counts them
    and the share of unknown tokens.

    Batch: tokens [B, T] int64, padded on the right with 0 to the longest; label [B] int64.

    Memory: 4 bytes a token; while reading, the texts as Python strings.

    Args:
        text: column of the text.
        label: column of the class.
        labels: classes in the order of their numbers, as a list, or as a map of what stands in the files to names,
            where several may have one; None = those of the training rows, sorted.
        columns: names of all columns, for .csv and .tsv without a header line.
        encoding: of the files; anything that is not valid in it is a bad row.
        tokenizer: words = at spaces and punctuation, English contractions as in the Penn Treebank (do n't, it 's);
            space = at spaces only, for text that has its tokens parted already; characters = each but spaces, for
            Chinese and the like; bigrams = each character and each two that follow each other, for models that do not
            see the order of tokens; jieba = Chinese words, by the segmenter of that name (an extra). An emoji is one
            token, or a few where it is made of several code points; text from right to left keeps its logical order.
        lower: texts to lower case.
        min_count: tokens that are rarer in the training rows are unknown.
        max_length: most tokens of a text.
        split: fractions of train, valid and test, where `source` is one file.
        split_seed: of that split; the run's seed does not change it.
        window: batches whose rows are sorted by length together, so that less is padding (see `LengthBuckets`); None =
            batches of any rows.
        **common: see `DataModule`.
    """

    input_options = ("tokenizer", "lower")
    vocabulary_state = "vocabulary"
    made_up: ClassVar[tuple[str, ...]] = ()
    """Inputs to show for published data, whose licences do not let rows travel with the weights."""
    published_labels: ClassVar[list[str] | dict[str, str] | None] = None
    """`labels` of published data, and of toy data in their place."""

    def __init__(
        self,
        *,
        text: str = "text",
        label: str = "label",
        labels: list[str] | dict[str, str] | None = None,
        columns: list[str] | None = None,
        encoding: str = "utf-8",
        tokenizer: str = "words",
        lower: bool = True,
        min_count: int = 1,
        max_length: int = 512,
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        window: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if window is not None and window < 1:
            raise ValueError(f"data.window must be at least 1, got {window}")
        check_reading(tokenizer, encoding)
        if min_count < 1 or max_length < 1:
            raise ValueError(f"data.min_count and data.max_length must be at least 1, got {min_count}, {max_length}")
        if len(split) != 3 or not (min(split) >= 0 and abs(sum(split) - 1.0) <= 1e-6):
            raise ValueError(f"data.split must be three fractions that sum to 1, got {list(split)}")
        if isinstance(labels, list) and len(set(labels)) != len(labels):
            raise ValueError(f"data.labels must be different names, got {labels}; a map gives several labels one name")
        check_columns(columns, (text, label))
        self.text, self.label, self.columns, self.encoding = text, label, columns, encoding
        published = self.published_labels if self.source in ("auto", "toy") else None
        self.labels, self.tokenizer, self.lower = published if labels is None else labels, tokenizer, lower
        self.min_count, self.max_length = min_count, max_length
        self.split, self.split_seed, self.window = list(split), split_seed, window
        self._names: list[str] = []  # of the classes, in order
        self._vocabulary: list[str] = []  # id = 2 + place
        self._ids: dict[str, int] = {}
        self._examples: list[str] = []
        self._rows: dict[str, TextRows] = {}
        self._cut: dict[str, int] = {}  # by split: texts longer than max_length

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        if not self._names:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        return {
            "vocab_size": 2 + len(self._vocabulary),
            "num_classes": len(self._names),
            "pad_id": PAD,
            "labels": self._names,
        }

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def plan(self, rows: Rows) -> Plan:
        if self.window is None:
            return super().plan(rows)
        assert isinstance(rows, TextRows)
        return LengthBuckets(rows.lengths, self.batch_size, window=self.window, seed=self.seed)

    def state(self) -> dict[str, Any]:
        return {"labels": self._names, "vocabulary": self._vocabulary, "examples": self._examples}

    def restore(self, state: dict[str, Any]) -> None:
        self._names = list(state.get("labels", []))
        self._examples = list(state.get("examples", []))
        self._know(list(state.get("vocabulary", [])))

    def vocabulary(self) -> list[str]:
        return ["<pad>", "<unk>", *self._vocabulary]

    def unknown_share(self) -> float:
        return float((self._rows["train"].tokens == UNKNOWN).mean())

    def examples(self) -> list[str]:
        published = self.source == "auto" and self.made_up
        return list(self.made_up) if published or not self._examples else self._examples

    def describe(self) -> dict[str, Any]:
        shares, counts, longest = {}, {}, {}
        for split, rows in self._rows.items():
            shares[split] = round(float((rows.tokens == UNKNOWN).mean()), 4)
            longest[split] = int(rows.lengths.max())
            found = np.bincount(rows.labels, minlength=len(self._names))
            counts[split] = dict(zip(self._names, found.tolist(), strict=True))
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "classes": counts,
            "longest": longest,
            "cut_off": self._cut,
            "unknown_tokens": shares,
            "padding": round(padding_share(self._rows["train"].lengths, self.plan(self._rows["train"])), 4),
        }

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        self._cut = {}
        read = self._toy() if self.source == "toy" else self._read_splits()
        self.splits = tuple(read)
        numbers = self._numbers(read["train"])
        read = {split: self._of_known_class(texts, numbers) for split, texts in read.items()}
        given = bool(self._vocabulary)
        if not given:
            counts = Counter(token for tokens in read["train"].tokens for token in tokens)
            self._know(frequent(counts, self.min_count, read["train"].path))
        if not self._examples and self.source != "auto":
            self._examples = [self._text_of(tokens) for tokens in read["train"].tokens[:3]]
        self._rows = {split: self._numbered(split, texts, numbers) for split, texts in read.items()}
        if given:
            warn_unknown(read["train"].path, self.unknown_share())

    def _read_splits(self) -> dict[str, _Texts]:
        files = self._files()
        self._paths = list(files.values())
        read = {split: self._read(path) for split, path in files.items()}
        return self._divided(read["all"]) if "all" in read else read

    def _files(self) -> dict[str, Path]:
        """The file of each split, or {"all": file} of one that is yet to be split."""
        if self.source == "auto":
            raise DataError("data.source: give the path of your texts, or toy for generated ones")
        source = Path(self.source)
        if source.is_file():
            return {"all": source}
        return split_files(source)

    def _read(self, path: Path, encoding: str | None = None) -> _Texts:
        """The good rows of a file; the others go to `bad_rows`."""
        kind = kind_of(path)
        if kind is None:
            raise DataError(f"{path}: the name must end in .csv, .tsv, .jsonl or .txt, each optionally with .gz")
        names = ("label", "text") if kind == "txt" else (self.label, self.text)
        texts = _Texts(path)

        def take(line: int, row: dict[str, Any]) -> None:
            label, text = row[names[0]], string_of(row[names[1]], "text")
            if not isinstance(label, (str, int)):
                raise BadRow(f"the label must be a string or a whole number, got {type(label).__name__}")
            name = self._labelled(str(label))
            if is_blank(text):
                raise BadRow("the text is empty")
            texts.add(line, name, self._tokens(text))

        read_table(
            path,
            kind,
            names,
            take,
            self.bad_rows,
            columns=list(names) if kind == "txt" else self.columns,
            options="data.text, data.label",
            encoding=encoding or self.encoding,
        )
        return texts

    def _labelled(self, label: str) -> str:
        """The class's name for what stands in the file."""
        if not (label := label.strip()):
            raise BadRow("the label is empty")
        return self.labels.get(label, label) if isinstance(self.labels, dict) else label

    def _tokens(self, text: str) -> list[str]:
        return TOKENIZERS[self.tokenizer](text.lower() if self.lower else text)

    def _text_of(self, tokens: list[str]) -> str:
        """A text that has these tokens."""
        if self.tokenizer == "bigrams":
            tokens = tokens[::2]  # between each two characters stands the pair of them
        return (" " if self.tokenizer in SPACED else "").join(tokens)

    def _divided(self, texts: _Texts) -> dict[str, _Texts]:
        """One file's rows by `split`; a part of no rows is left out."""
        count = len(texts.lines)
        order = np.random.Generator(np.random.Philox(key=mix(self.split_seed))).permutation(count)
        first, second = round(self.split[0] * count), round((self.split[0] + self.split[1]) * count)
        parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
        for split in ("train", "valid"):
            if not len(parts[split]):
                raise DataError(f"{texts.path}: of {count} rows, data.split={self.split} leaves none for {split}")
        return {split: texts.take(np.sort(chosen)) for split, chosen in parts.items() if len(chosen)}

    def _given_names(self) -> list[str]:
        """The classes that `labels` names, in order."""
        return list(dict.fromkeys(self.labels.values() if isinstance(self.labels, dict) else self.labels or ()))

    def _numbers(self, train: _Texts) -> dict[str, int]:
        """The number of each class: those of given weights, else those of `labels`, else those of the training rows."""
        if not self._names:
            self._names = self._given_names() or _sorted(set(train.labels))
        if len(self._names) < 2:
            raise DataError(f"{train.path}: there must be at least two classes, found {', '.join(self._names)}")
        return {name: number for number, name in enumerate(self._names)}

    def _of_known_class(self, texts: _Texts, numbers: dict[str, int]) -> _Texts:
        bad = {i for i, label in enumerate(texts.labels) if label not in numbers}
        if not bad:
            return texts
        for i in sorted(bad):
            label = texts.labels[i]
            why = f"label {label!r} is not one of {', '.join(self._names[:20])}{nearest(label, self._names)}"
            self.bad_rows.add(texts.path, texts.lines[i], why)
        return texts.take([i for i in range(len(texts.lines)) if i not in bad])

    def _know(self, vocabulary: list[str]) -> None:
        self._vocabulary = vocabulary
        self._ids = {token: 2 + place for place, token in enumerate(vocabulary)}

    def _numbered(self, split: str, texts: _Texts, numbers: dict[str, int]) -> TextRows:
        if not texts.lines:
            raise DataError(f"{texts.path}: no rows that can be used are left")
        kept = [tokens[: self.max_length] for tokens in texts.tokens]
        if cut := sum(len(tokens) > self.max_length for tokens in texts.tokens):
            self._cut[split] = cut
        offsets = np.cumsum([0, *map(len, kept)])
        flat = np.fromiter((self._ids.get(t, UNKNOWN) for tokens in kept for t in tokens), np.int32, int(offsets[-1]))
        return TextRows(flat, offsets, np.array([numbers[label] for label in texts.labels], np.int64))

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """A text, or {"text": ...} (the name of the text's column does as well), possibly as JSON text.

        Tokens that are not in the vocabulary are unknown, be it all of them; a text of more than `max_length` tokens is
        cut off; one without any is refused.
        """
        text, _ = text_of(raw, [self.text, "text"])
        if is_blank(text):
            raise DataError("the text is empty; there is nothing to classify")
        ids = [self._ids.get(token, UNKNOWN) for token in self._tokens(text)[: self.max_length]]
        return {"tokens": torch.tensor([ids], dtype=torch.int64)}

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, _Texts]:
        """Sentences of common words, with two or three in each that give its class away."""
        names = self._given_names() or self._names or ["negative", "positive"]
        read = {}
        for number, (split, count) in enumerate({"train": 2000, "valid": 500, "test": 500}.items()):
            random = np.random.Generator(np.random.Philox(key=mix(number)))
            read[split] = _Texts(Path(f"toy-{split}"))
            for row in range(count):
                words = random.choice(_COMMON, random.integers(6, 25)).tolist()
                telling = _telling(row % len(names))
                for place in random.choice(len(words), random.integers(2, 4), replace=False):
                    words[place] = str(random.choice(telling))
                read[split].add(row + 1, names[row % len(names)], self._tokens(" ".join(words)))
        return read


_COMMON = (
    "the a of and in this that it film story plot scene actor camera director music script time man woman world life "
    "year day friend city night house is was has with for on as by from at all some two first then there , . - very"
).split()
_TELLING = (
    "bad dull boring awful tedious weak flat stale clumsy tiresome lifeless silly".split(),
    "good great moving funny fresh charming brilliant lovely warm clever rich honest".split(),
)


def _telling(number: int) -> list[str]:
    """Words of a class; beyond two classes they are made up."""
    return _TELLING[number] if number < len(_TELLING) else [f"word{number}{letter}" for letter in "abcdefgh"]


def _sorted(labels: set[str]) -> list[str]:
    """Numbers by value, other labels by their text."""
    return sorted(labels, key=int) if all(re.fullmatch("-?[0-9]{1,9}", label) for label in labels) else sorted(labels)


# ---------------------------------------------------------------------------------------------------- ten folds

COPY = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/d61ded09c99c0199d8c5bca946cd65864de2b296/data/{}"

MR = Source(
    name="MR (movie reviews, sentence polarity 1.0)",
    folder="nlp/english_sentence_classification",
    files=(
        File.at(COPY, "rt-polarity.all", "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a", 1_259_719),
    ),
    licence="free for research; cite Pang and Lee, 2005, ACL",
    homepage="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
    manual="Get data/rt-polarity.all from https://github.com/harvardnlp/sent-conv-torch (latin-1, one row a line).",
)


SUBJ = Source(
    name="Subj (subjective or objective sentences)",
    folder="nlp/english_sentence_classification",
    files=(File.at(COPY, "subj.all", "f3ffbe2aa8e4f3ba3e63e46dce51613854edbca122fb3aa758b9bce047ded23c", 1_320_246),),
    licence="free for research; cite Pang and Lee, 2004, ACL",
    homepage="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
    manual="Get data/subj.all from https://github.com/harvardnlp/sent-conv-torch (latin-1, one row a line).",
)


class TenFoldData(TextTableData):
    """A published file of rows `<label> <text>` without an official split, scored by the mean over ten folds.

    The rule here: the rows of each class are put into a fixed random order, which no seed changes, and dealt out to the
    folds 0 to 9 in turn. One fold is for testing; of the others, in that order, every tenth row of each class selects
    the checkpoint, and the rest is for training. So each row is tested once, and all parts have the classes in equal
    shares (to one row).

    `source`: auto = nlp/english_sentence_classification under PADDLE_DATA, or fetched; toy = generated sentences; or
    own files, as in `TextTableData`, which have no folds.

    Args:
        fold: which of the ten is for testing.
        **options: see `TextTableData`.
    """

    origin: ClassVar[Source]

    def __init__(self, *, fold: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= fold <= 9:
            raise ValueError(f"data.fold must be 0 to 9, got {fold}")
        if fold and self.source not in ("auto", "toy"):
            raise ValueError(f"data.fold={fold} is of the published set; own files have no folds, leave it out")
        self.fold = fold

    def _read_splits(self) -> dict[str, _Texts]:
        if self.source != "auto":
            return super()._read_splits()
        self._paths = list(published(self.origin).values())
        texts = self._read(self._paths[0], "latin-1")
        return {split: texts.take(chosen) for split, chosen in folds(texts.labels, self.fold).items()}


class MRData(TenFoldData):
    """10 662 sentences of movie reviews, half of them positive (Pang and Lee, 2005, "Seeing Stars", ACL).

    Split as `TenFoldData` says (the ten folds of Kim, 2014, section 3).
    """

    origin = MR
    published_labels: ClassVar[dict[str, str]] = {"0": "negative", "1": "positive"}
    made_up = (
        "A warm, funny and deeply moving film.",
        "Two hours of noise, and not one good joke.",
        "It isn't perfect, but the cast is a delight.",
    )


class SubjData(TenFoldData):
    """10 000 sentences on films, half of them from reviews and half from plots (Pang and Lee, 2004, "A Sentimental
    Education", ACL): does a sentence give an opinion or tell what happens?

    Split as `TenFoldData` says.
    """

    origin = SUBJ
    published_labels: ClassVar[dict[str, str]] = {"0": "subjective", "1": "objective"}
    made_up = (
        "A slow start, but what follows is worth the wait.",
        "A young nurse finds a letter that her father never sent.",
        "The jokes are old and the ending is older.",
    )


def folds(labels: Sequence[str], fold: int) -> dict[str, np.ndarray]:
    """Rows of train, valid and test by TenFoldData's rule, each in the order of the file."""
    column = np.array(labels)
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    for number, label in enumerate(sorted(set(labels))):
        rows = np.flatnonzero(column == label)
        rows = np.random.Generator(np.random.Philox(key=mix(number))).permutation(rows)
        rest = rows[np.arange(len(rows)) % 10 != fold]
        held = np.arange(len(rest)) % 10 == 0
        for split, chosen in (("train", rest[~held]), ("valid", rest[held]), ("test", rows[fold::10])):
            parts[split].append(chosen)
    return {split: np.sort(np.concatenate(chosen)) for split, chosen in parts.items()}
