"""Queries with candidates, each right or wrong: own files in several formats, WikiQA, and MSRP."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import DataModule, Rows, mix, padded, ranges, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, published
from paddlecore.task import Batch
from paddlenlp.data.sentence_classification import PAD, UNKNOWN
from paddlenlp.data.text_files import (
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
    warn_unknown,
)

_LETTERS = 24  # terms of a word at most; longer words are links and the like


def letter_trigrams(word: str) -> list[str]:
    """A word's letter trigrams with a mark at either end: good -> #go, goo, ood, od# (Huang et al., 2013, section 3.2).

    A word of one letter is one term, e.g. #a#.
    """
    marked = f"#{word}#"
    return [marked[i : i + 3] for i in range(len(marked) - 2)]


@dataclass
class _Pairs:
    """Rows of a file in order, with the places they come from."""

    path: Path
    lines: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    queries: list[list[str]] = field(default_factory=list)
    documents: list[list[str]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, line: int, group: str, query: list[str], document: list[str], label: int) -> None:
        for column, value in zip(
            (self.lines, self.groups, self.queries, self.documents, self.labels),
            (line, group, query, document, label),
            strict=True,
        ):
            column.append(value)  # type: ignore[attr-defined]


class _TextIds:
    """Numbers of all texts in one flat array, padded on the right when fetched.

    `terms` [W, L] int32: with it, a text's numbers are words, rows of `terms`, and what is fetched are a word's terms.
    """

    def __init__(self, texts: Sequence[Sequence[int]], terms: np.ndarray | None = None) -> None:
        self.offsets = np.cumsum([0, *map(len, texts)])
        self.flat = np.fromiter((i for text in texts for i in text), np.int32, int(self.offsets[-1]))
        self.terms = terms

    def fetch(self, rows: np.ndarray) -> torch.Tensor:
        """[b, T] or [b, T, L] int64."""
        tokens = padded(self.flat, self.offsets[rows], self.offsets[rows + 1])
        if self.terms is not None:
            tokens = self.terms[tokens].astype(np.int64)  # row 0 is padding
            tokens = tokens[:, :, : max(1, int((tokens != PAD).any((0, 1)).sum()))]
        return torch.from_numpy(tokens)


class PairRows:
    """A row is a query with its candidates, so that no batch parts them.

    A batch has N candidates of b queries: query [N, T] and document [N, U] int64, or [.., L] by letter trigrams, each
    padded on the right with 0; label [N] int64; group [N] int64, the query's place in the batch. With `negatives` also
    right [P] int64, the places of right candidates, and wrong [P, negatives] int64: for each, wrong candidates of the
    same query, drawn evenly with replacement by (seed, epoch, row). Candidates that are not needed are left out then.

    Args:
        queries: Q texts.
        documents: of all candidates, those of one query one after the other.
        first: [Q + 1] int64, where each query's candidates start.
        labels: [n] int64.
        negatives: wrong candidates for each right one; None = all candidates as they are.
        seed: of the draws.
    """

    def __init__(
        self,
        queries: _TextIds,
        documents: _TextIds,
        first: np.ndarray,
        labels: np.ndarray,
        negatives: int | None,
        seed: int,
    ) -> None:
        self.queries, self.documents, self.first, self.labels = queries, documents, first, labels
        self.negatives, self.seed = negatives, seed

    def __len__(self) -> int:
        return len(self.first) - 1

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        group, place = ranges(self.first[rows], self.first[rows + 1])  # [N] in the batch, in the columns
        extra = {}
        if self.negatives is not None:
            right = np.flatnonzero(self.labels[place] == 1)  # [P] in the batch
            wrong = self._wrong(place, group, rows, right, epoch)
            used, where = np.unique(np.concatenate([right, wrong.ravel()]), return_inverse=True)
            place, group = place[used], group[used]
            extra = {
                "right": torch.from_numpy(where[: len(right)]),
                "wrong": torch.from_numpy(where[len(right) :].reshape(wrong.shape)),
            }
        return {
            "query": self.queries.fetch(rows[group]),
            "document": self.documents.fetch(place),
            "label": torch.from_numpy(self.labels[place]),
            "group": torch.from_numpy(group),
            **extra,
        }

    def _wrong(
        self, place: np.ndarray, group: np.ndarray, rows: np.ndarray, right: np.ndarray, epoch: int
    ) -> np.ndarray:
        """[P, negatives] places in the batch."""
        assert self.negatives is not None
        wrong = np.flatnonzero(self.labels[place] == 0)  # sorted by group, as all of the batch
        begin = np.searchsorted(group[wrong], np.arange(len(rows)))
        count = np.bincount(group[wrong], minlength=len(rows))
        draws = uniform(self.seed, epoch, place[right], self.negatives)  # [P, negatives]: by row of the file
        of = group[right]
        pick = np.minimum((draws * count[of, None]).astype(np.int64), count[of, None] - 1)
        return wrong[begin[of, None] + pick]


class TextPairData(DataModule):
    """Queries and candidates with labels 0 and 1, from your own files.

    `source` is a folder with train, valid and (if there is one) test files; or toy = generated. The ending says how a
    file is read, a .gz after it aside: .csv (quoted with ") and .tsv (tabs, no quoting) with a header line or
    `columns`; .jsonl, an object a line. A row is one pair; rows with the same `group` (else the same query) are the
    candidates of one query, wherever they stand. A set of pairs that are only to be classified needs no care: a query
    with one candidate is a pair.

    Blank lines are left out. A row is bad if it has another number of columns than the header, an empty text, a label
    that is not 0 or 1, another query than its group's first row, or is not in `encoding`: bad rows are named by file
    and line.

    Tokens get ids by the training rows alone, the most frequent first, from 2 on; 0 fills up. A token that is not among
    them is 1, or, with `buckets`, one of so many ids by its hash: then a word that training has not seen is still the
    same word in query and candidate. No Unicode normalisation is done. Texts longer than their `length` are cut off;
    `describe` counts them.

    Batch: see `PairRows`. Memory: 4 bytes a token; while reading, the texts as Python strings.

    Args:
        query: column of the query.
        document: column of the candidate.
        label: column of the label, 1 = right.
        group: column that says which rows belong together; None = rows with the same query do.
        columns: names of all columns, for .csv and .tsv without a header line.
        encoding: of the files.
        tokenizer: words, space, characters, bigrams or jieba: see `TextTableData`.
        trigrams: feed each word as its letter trigrams (see `letter_trigrams`), [N, T, L]; ids are then of trigrams.
        lower: texts to lower case.
        min_count: tokens that are rarer in the training rows have no id of their own.
        buckets: ids for tokens without one; 0 = all are 1.
        query_length: most tokens of a query.
        document_length: most tokens of a candidate.
        negatives: for each right candidate, wrong ones of the same query that are drawn in training; queries without
            both are then left out of training. None = train on all pairs.
        **common: see `DataModule`; `batch_size` counts queries.
    """

    input_options = ("tokenizer", "trigrams", "lower")
    vocabulary_state = "vocabulary"

    def __init__(
        self,
        *,
        query: str = "query",
        document: str = "document",
        label: str = "label",
        group: str | None = None,
        columns: list[str] | None = None,
        encoding: str = "utf-8",
        tokenizer: str = "words",
        trigrams: bool = False,
        lower: bool = True,
        min_count: int = 1,
        buckets: int = 0,
        query_length: int = 32,
        document_length: int = 64,
        negatives: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_reading(tokenizer, encoding)
        for name, value, low in (
            ("min_count", min_count, 1),
            ("buckets", buckets, 0),
            ("query_length", query_length, 1),
            ("document_length", document_length, 1),
            ("negatives", 1 if negatives is None else negatives, 1),
        ):
            if value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        check_columns(columns, [name for name in (query, document, label, group) if name is not None])
        self.query, self.document, self.label, self.group = query, document, label, group
        self.columns, self.encoding, self.tokenizer, self.trigrams = columns, encoding, tokenizer, trigrams
        self.lower, self.min_count, self.buckets = lower, min_count, buckets
        self.query_length, self.document_length, self.negatives = query_length, document_length, negatives
        self._vocabulary: list[str] = []
        self._ids: dict[str, int] = {}
        self._rows: dict[str, PairRows] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        if not self._vocabulary:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        return {
            "vocab_size": 2 + len(self._vocabulary) + self.buckets,
            "pad_id": PAD,
            "unknown_id": UNKNOWN,
            "query_length": self.query_length,
            "document_length": self.document_length,
        }

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return {"vocabulary": self._vocabulary}

    def restore(self, state: dict[str, Any]) -> None:
        self._know(list(state.get("vocabulary", [])))

    def vocabulary(self) -> list[str]:
        hashed = [f"<hash {number} of {self.buckets}>" for number in range(self.buckets)]
        return ["<pad>", "<unk>", *self._vocabulary, *hashed]

    def unknown_share(self) -> float:
        """With `buckets`, those without an id of their own."""
        return float(self._facts["train"]["without_own_id"])

    def examples(self) -> list[dict[str, Any]]:
        return [
            {
                "query": "how far is the moon from the earth?",
                "candidates": ["The moon has no air.", "The moon is 384,400 km from the earth.", "Owls hunt at night."],
            },
            {"query": "who wrote hamlet?", "candidates": ["Hamlet is a prince.", "Shakespeare wrote Hamlet."]},
        ]

    def describe(self) -> dict[str, Any]:
        """`rows` are queries; `splits` has, by split, pairs, right ones, queries with right and wrong candidates, texts
        that were cut off, and the share of tokens without an id of their own; `padding` is its share of the words of
        training batches, the first 100."""
        rows = self._rows["train"]
        plan = self.plan(rows)
        batches = [rows.fetch(plan.rows(0, step), 0) for step in range(min(plan.steps(0), 100))]
        padding = {}
        for side in ("query", "document"):
            there = [(b[side] != PAD).any(2) if b[side].dim() == 3 else b[side] != PAD for b in batches]
            padding[side] = round(1 - sum(int(t.sum()) for t in there) / sum(t.numel() for t in there), 4)
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "splits": self._facts,
            "padding": padding,
        }

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        read = self._toy() if self.source == "toy" else self._read_splits()
        self.splits = tuple(read)
        given = bool(self._vocabulary)
        if not given:
            train = read["train"]
            counts: Counter[str] = Counter()
            for _, text in _unique(train):
                counts.update(self._terms(text))
            for text in train.documents:
                counts.update(self._terms(text))
            self._know(frequent(counts, self.min_count, train.path))
        self._rows = {split: self._numbered(split, pairs) for split, pairs in read.items()}
        if given and not self.buckets:
            warn_unknown(read["train"].path, self.unknown_share())

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source == "auto":
            raise DataError("data.source: give the folder of your pairs, or toy for generated ones")
        files = split_files(Path(self.source))
        self._paths = list(files.values())
        return {split: self._read(path) for split, path in files.items()}

    def _read(self, path: Path, names: dict[str, str] | None = None) -> _Pairs:
        """The good rows of a file; the others go to `bad_rows`. `names`: columns other than those of the options."""
        kind = kind_of(path)
        if kind not in ("csv", "tsv", "jsonl"):
            raise DataError(f"{path}: the name must end in .csv, .tsv or .jsonl, each optionally with .gz")
        names = names or {"query": self.query, "document": self.document, "label": self.label}
        if self.group is not None:
            names = {"group": self.group, **names}
        pairs = _Pairs(path)
        asked: dict[str, tuple[int, list[str]]] = {}  # of each group: line and query of its first row

        def take(line: int, row: dict[str, Any]) -> None:
            query, document = (self._tokens(row[names[what]], what) for what in ("query", "document"))
            label = str(row[names["label"]]).strip()
            if label not in ("0", "1"):
                raise BadRow(f"the label must be 0 or 1, got {label[:40]!r}")
            group = str(row[names["group"]]) if "group" in names else "\t".join(query)
            first, same = asked.setdefault(group, (line, query))
            if query != same:
                raise BadRow(f"the query is another than that of {names['group']}={group} in line {first}")
            pairs.add(line, group, query, document, int(label))

        read_table(
            path,
            kind,
            list(names.values()),
            take,
            self.bad_rows,
            columns=self.columns,
            options="data.query, data.document, data.label",
            encoding=self.encoding,
        )
        return pairs

    def _tokens(self, text: Any, what: str) -> list[str]:
        text = string_of(text, what)
        if is_blank(text):
            raise BadRow(f"the {what} is empty")
        return TOKENIZERS[self.tokenizer](text.lower() if self.lower else text)

    def _terms(self, words: Iterable[str]) -> list[str]:
        """What ids stand for: the words, or their letter trigrams."""
        return [t for word in words for t in letter_trigrams(word)[:_LETTERS]] if self.trigrams else list(words)

    def _know(self, vocabulary: list[str]) -> None:
        self._vocabulary = vocabulary
        self._ids = {token: 2 + place for place, token in enumerate(vocabulary)}

    def _id(self, token: str) -> int:
        number = self._ids.get(token)
        if number is not None:
            return number
        # a checksum, for Python's own hash of a string differs from process to process
        return 2 + len(self._vocabulary) + zlib.crc32(token.encode()) % self.buckets if self.buckets else UNKNOWN

    def _made(self, texts: Sequence[Sequence[str]], length: int) -> _TextIds:
        kept = [text[:length] for text in texts]
        if not self.trigrams:
            return _TextIds([[self._id(word) for word in text] for text in kept])
        numbers: dict[str, int] = {}
        words = [[numbers.setdefault(word, 1 + len(numbers)) for word in text] for text in kept]
        terms = np.zeros((1 + len(numbers), _LETTERS), np.int32)
        for word, number in numbers.items():
            ids = [self._id(term) for term in self._terms([word])]
            terms[number, : len(ids)] = ids
        return _TextIds(words, terms)

    def _numbered(self, split: str, pairs: _Pairs) -> PairRows:
        order = _unique(pairs)
        members: dict[str, list[int]] = {group: [] for group, _ in order}
        for i, group in enumerate(pairs.groups):
            members[group].append(i)
        labels = np.array(pairs.labels, np.int64)
        both = sum(bool(0 < labels[rows].sum() < len(rows)) for rows in members.values())
        negatives = self.negatives if split == "train" else None
        if negatives is not None:
            order = [(g, query) for g, query in order if 0 < labels[members[g]].sum() < len(members[g])]
            if not order:
                raise DataError(f"{pairs.path}: data.negatives needs queries with right and wrong candidates; none has")
        rows = [i for g, _ in order for i in members[g]]
        made = PairRows(
            self._made([query for _, query in order], self.query_length),
            self._made([pairs.documents[i] for i in rows], self.document_length),
            np.cumsum([0, *(len(members[g]) for g, _ in order)]),
            labels[rows],
            negatives,
            self.seed,
        )
        own = [t in self._ids for i in rows for t in self._terms(pairs.documents[i])]
        self._facts[split] = {
            "pairs": len(labels),
            "right": int(labels.sum()),
            "queries": len(members),
            "queries_with_both": both,
            "cut_off": sum(len(q) > self.query_length for _, q in order)
            + sum(len(pairs.documents[i]) > self.document_length for i in rows),
            "without_own_id": round(1 - sum(own) / len(own), 4),
        }
        return made

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """{"query": ..., "candidates": [...]}, possibly as JSON text, -> a batch of all the candidates.

        Long texts are cut off; tokens without an id are unknown, be it all of them; an empty text is refused.
        """
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except (ValueError, RecursionError):
                raise DataError('expected {"query": "...", "candidates": ["...", ...]} as JSON') from None
        if not isinstance(raw, dict) or "query" not in raw or not isinstance(raw.get("candidates"), list):
            found = f"the keys {', '.join(map(str, raw))}" if isinstance(raw, dict) else type(raw).__name__
            raise DataError(f'expected {{"query": "...", "candidates": ["...", ...]}}, a list of texts; got {found}')
        if not raw["candidates"]:
            raise DataError("there are no candidates to rank")
        try:
            query = self._tokens(raw["query"], "query")
            documents = [self._tokens(text, f"candidate {i}") for i, text in enumerate(raw["candidates"], 1)]
        except BadRow as error:
            raise DataError(str(error)) from None
        count = len(documents)
        everything = np.arange(count)
        return {
            "query": self._made([query], self.query_length).fetch(np.zeros(count, np.int64)),
            "document": self._made(documents, self.document_length).fetch(everything),
            "group": torch.zeros(count, dtype=torch.int64),
            "texts": list(raw["candidates"]),
        }

    def collate(self, batches: Sequence[Batch]) -> Batch:
        """One after the other, each query with a number of its own."""
        numbered = [{**batch, "group": batch["group"] + number} for number, batch in enumerate(batches)]
        return super().collate(numbered)

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, _Pairs]:
        """Questions for a thing and a property; the right sentence has both."""
        read = {}
        for number, (split, count) in enumerate({"train": 300, "valid": 80, "test": 80}.items()):
            random = np.random.Generator(np.random.Philox(key=mix(number)))
            read[split] = _Pairs(Path(f"toy-{split}"))
            for query in range(count):
                thing, other = random.choice(_THINGS, 2, replace=False)
                what, which = random.choice(_PROPERTIES, 2, replace=False)
                asked = f"what is the {what} of the {thing} ?"
                texts = [(1, what, thing), (0, which, thing), (0, what, other), (0, which, other)]
                for place in random.permutation(len(texts)):
                    label, a, b = texts[place]
                    end = " ".join(random.choice(_FILLING, random.integers(1, 6)))
                    document = self._tokens(f"the {b} has a {a} of {random.integers(2, 90)} {end} .", "document")
                    tokens = self._tokens(asked, "query")
                    read[split].add(4 * query + 1 + int(place), str(query), tokens, document, label)
        return read


def _unique(pairs: _Pairs) -> list[tuple[str, list[str]]]:
    """Group and query of each query, in the order of their first rows."""
    first: dict[str, list[str]] = {}
    for group, query in zip(pairs.groups, pairs.queries, strict=True):
        first.setdefault(group, query)
    return list(first.items())


_THINGS = "river bridge tower castle lake island forest valley harbour garden museum station mountain desert".split()
_PROPERTIES = "length height width depth age price weight speed".split()
_FILLING = "today indeed again there now here still only maybe always".split()


# ---------------------------------------------------------------------------------------------------- published sets

WIKIQA = Source(
    name="WikiQA (questions and sentences of Wikipedia)",
    folder="nlp/wikiqa",
    files=(
        File("WikiQA-train.tsv", "295757943bc4df27f09763fc73b9f63063b13a577718b17805cbc9bb436f9dbe", 4_379_303),
        File("WikiQA-dev.tsv", "023c530e742caca2a760d48bd249e13259248c11f3b880a4c1842aa259a30a54", 579_837),
        File("WikiQA-test.tsv", "3c3b66966cb183b71abf19510bc2302295c68dd7a25284ec9cf8b63d5b6929e3", 1_310_942),
    ),
    licence="Microsoft Research Data License Agreement: research use",
    homepage="https://www.microsoft.com/en-us/download/details.aspx?id=52419",
    manual="Accept the licence at the homepage and get WikiQA-{train,dev,test}.tsv.",
)

MSRP = Source(
    name="MSRP (Microsoft Research Paraphrase Corpus)",
    folder="nlp/msrp",
    files=(
        File("msr-para-train.tsv", "446b9a5fa4e8d526b99f1d635f036f89063749783f5d3464ee8c1879724d406d", 900_305),
        File("msr-para-val.tsv", "7e5d0ee4ec392b062af73c7cffe82f0725e5b08f6bfdf0915f31bbc470b8bacf", 126_482),
        File("msr-para-test.tsv", "51a1f197d8786712d2f0d97700f5be653b7488a96cde00e158159350d23e3d90", 432_882),
    ),
    licence="Microsoft Research Shared Source licence: research use",
    homepage="https://www.microsoft.com/en-us/download/details.aspx?id=52398",
    manual="Get data/para/msr/msr-para-{train,val,test}.tsv from https://github.com/brmson/dataset-sts "
    "(commit e1d3375), where 500 rows of the official training set are set apart for validation.",
)


class WikiQAData(TextPairData):
    """Which sentence of a Wikipedia page answers the question (Yang, Yih, Meek, 2015, "WikiQA", EMNLP)?

    20 360, 2 733 and 6 165 pairs of 2 118, 296 and 633 questions, of which 857, 122 and 237 have right and wrong
    candidates: those that are scored.

    `source`: auto = nlp/wikiqa under PADDLE_DATA; toy = generated; or own files, as in `TextPairData`.

    Args:
        **options: see `TextPairData`.
    """

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source != "auto":
            return super()._read_splits()
        files = published(WIKIQA)
        self._paths = list(files.values())
        names = {"group": "QuestionID", "query": "Question", "document": "Sentence", "label": "Label"}
        parts = {"train": "train", "valid": "dev", "test": "test"}
        return {split: self._read(files[f"WikiQA-{part}.tsv"], names) for split, part in parts.items()}


class MSRPData(TextPairData):
    """Do two sentences of the news say the same (Dolan, Quirk, Brockett, 2004, COLING)? 3 576, 500 and 1 725 pairs.

    `source`: auto = nlp/msrp under PADDLE_DATA; toy = generated; or own files, as in `TextPairData`.

    Args:
        **options: see `TextPairData`.
    """

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source != "auto":
            return super()._read_splits()
        files = published(MSRP)
        self._paths = list(files.values())
        names = {"group": "#1 ID", "query": "#1 String", "document": "#2 String", "label": "Quality"}
        parts = {"train": "train", "valid": "val", "test": "test"}
        return {split: self._read(files[f"msr-para-{part}.tsv"], names) for split, part in parts.items()}

    def examples(self) -> list[dict[str, Any]]:
        return [
            {
                "query": "The company said profits rose by a third last year.",
                "candidates": ["Last year's profits were up by a third, the company said.", "The company was sold."],
            }
        ]
