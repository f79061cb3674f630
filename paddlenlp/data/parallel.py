"""Sentences in two languages: own parallel files, Multi30k and Tatoeba, with a sentencepiece vocabulary."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix, padded
from paddlecore.errors import DataError
from paddlecore.sources import SPLITS, File, Source, published
from paddlecore.task import Batch
from paddlenlp.data.text_files import (
    BadRow,
    check_columns,
    decoded,
    is_blank,
    lines_of,
    read_table,
    string_of,
    text_of,
)
from paddlenlp.data.token_buckets import TokenBuckets

if TYPE_CHECKING:
    from PIL import Image

PAD, UNKNOWN, BOS, EOS = 0, 1, 2, 3  # fills up a batch; not in the vocabulary; start and end of a sentence
_ONE_LANGUAGE = "data.source_language and data.target_language are both {!r}: a file would be translated into itself"
_FONTS = ("Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Noto Sans Arabic", "Noto Emoji")


@dataclass
class _Pairs:
    """Pairs of sentences in the order of their files."""

    source: list[str] = field(default_factory=list)
    target: list[str] = field(default_factory=list)


class PairRows:
    """Token ids of both sides in flat arrays [total] int32, row i at offsets[i]..offsets[i + 1]; optionally references.

    A batch is source [b, S] and target [b, T] int64, padded on the right to the longest, and `reference`, b texts.
    """

    def __init__(self, source: list[list[int]], target: list[list[int]], reference: list[str] | None) -> None:
        self.sides = []
        for name, rows in (("source", source), ("target", target)):
            offsets = np.cumsum([0, *map(len, rows)])
            flat = np.fromiter((t for row in rows for t in row), np.int32, int(offsets[-1]))
            self.sides.append((name, flat, offsets))
        self.reference = reference

    def __len__(self) -> int:
        return len(self.sides[0][2]) - 1

    def lengths(self) -> np.ndarray:
        """[n, 2] tokens of source and target."""
        return np.stack([np.diff(offsets) for _, _, offsets in self.sides], 1)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        batch: Batch = {}
        for name, flat, offsets in self.sides:
            batch[name] = torch.from_numpy(padded(flat, offsets[rows], offsets[rows + 1]))
        if self.reference is not None:
            batch["reference"] = [self.reference[row] for row in rows.tolist()]
        return batch


class ParallelData(DataModule):
    """Pairs of a sentence and its translation, from your own files.

    `source` is a folder that holds for each of train, valid (also val, dev) and test (there need be none) either two
    files of one sentence a line, named by language (train.en, train.de), or one file of pairs: .tsv (tabs, no quoting;
    a header line, or `columns`) or .jsonl (an object a line). Any may end in .gz. Files are UTF-8. Several of one split
    and one side alone are refused.

    A pair is bad if a side is empty or is not UTF-8; it is named by file and line. Parallel files of different numbers
    of lines, a missing column and a damaged file stop the reading, whatever `on_bad_row` says. Training pairs of more
    than `max_length` tokens on a side are left out and counted by `describe`; other splits keep theirs.

    Text is normalised by sentencepiece's rule `normalization` and split into pieces of one vocabulary for both
    languages, trained on the training pairs. Characters that are not in it are spelled in bytes, so any text has
    tokens: an emoji, any script. Source and target end with the end token; the target also begins with the start token.
    So translations come out normalised, while references stay as they are: NFKC makes ASCII of full-width punctuation,
    as Chinese and Japanese have it, and each such sign then counts as wrong. `identity` keeps it.

    Batch: source [B, S], target [B, T] int64, padded on the right; reference, the B targets as texts, for the test
    split and, with `decode_valid`, for validation.

    Training batches hold sentences of about one length and at most `batch_tokens` tokens a side: see `TokenBuckets`.

    Memory: 4 bytes a token; while reading, the texts as Python strings.

    Args:
        source_language: of the files' names, e.g. en.
        target_language: the same.
        source_column: of the source sentence, in .tsv and .jsonl.
        target_column: of its translation.
        columns: names of all columns, for .tsv without a header line.
        vocab_size: most pieces of both languages, the 4 special ones and 256 bytes included; few texts give fewer.
        pieces: how they are found: bpe (Sennrich et al., 2016) or unigram (Kudo, 2018).
        normalization: nmt_nfkc = Unicode NFKC and other spaces made plain; nfkc; nmt_nfkc_cf and nfkc_cf = the same
            with case folding; identity.
        lower: texts to lower case before that; references keep theirs.
        coverage: share of the characters that get pieces of their own; 0.9995 for Chinese or Japanese.
        max_length: most tokens of a side of a training pair, and of a sentence to translate.
        batch_tokens: most tokens of a step on one side, padding included; `batch_size` is the most pairs.
        decode_valid: validation measures BLEU, too, at the cost of translating it.
        **common: see `DataModule`.
    """

    input_options = ("lower",)
    vocabulary_state = "sentencepiece"

    def __init__(
        self,
        *,
        source_language: str = "en",
        target_language: str = "de",
        source_column: str = "source",
        target_column: str = "target",
        columns: list[str] | None = None,
        vocab_size: int = 8000,
        pieces: str = "bpe",
        normalization: str = "nmt_nfkc",
        lower: bool = False,
        coverage: float = 1.0,
        max_length: int = 256,
        batch_tokens: int = 4096,
        decode_valid: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        rules = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")
        if pieces not in ("bpe", "unigram"):
            raise ValueError(f"data.pieces must be bpe or unigram, got {pieces!r}")
        if normalization not in rules:
            raise ValueError(f"data.normalization must be one of {', '.join(rules)}, got {normalization!r}")
        if max_length < 2 or batch_tokens < 1 or not 0 < coverage <= 1:
            raise ValueError(
                "data.max_length must be at least 2, data.batch_tokens at least 1, data.coverage in (0, 1]: "
                f"got {max_length}, {batch_tokens}, {coverage}"
            )
        if vocab_size <= 260:
            raise ValueError(f"data.vocab_size must be above 260, the special pieces and bytes, got {vocab_size}")
        check_columns(columns, (source_column, target_column))
        self.source_language, self.target_language = source_language, target_language
        self.source_column, self.target_column, self.columns = source_column, target_column, columns
        self.vocab_size, self.pieces, self.normalization = vocab_size, pieces, normalization
        self.lower, self.coverage, self.max_length = lower, coverage, max_length
        self.batch_tokens, self.decode_valid = batch_tokens, decode_valid
        self._model = b""  # sentencepiece's own file
        self._processor: Any = None
        self._examples: list[str] = []
        self._rows: dict[str, PairRows] = {}
        self._too_long = 0  # training pairs left out

    # ------------------------------------------------------------------------------------------------ what it offers

    @property
    def spec(self) -> dict[str, Any]:
        if self._processor is None:
            raise DataError("there is no vocabulary yet: prepare() reads the data, restore() takes a state")
        vocabulary = self.vocabulary()
        return {
            "vocab_size": len(vocabulary),
            "vocabulary": vocabulary,
            "pad_id": PAD,
            "unknown_id": UNKNOWN,
            "bos_id": BOS,
            "eos_id": EOS,
            "target_language": self.target_language,
            "lower": self.lower,
        }

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def plan(self, rows: Rows) -> Plan:
        assert isinstance(rows, PairRows)
        return TokenBuckets(rows.lengths().max(1), self.batch_size, self.batch_tokens, seed=self.seed)

    def state(self) -> dict[str, Any]:
        return {"sentencepiece": base64.b64encode(self._model).decode("ascii"), "examples": self._examples}

    def restore(self, state: dict[str, Any]) -> None:
        self._examples = list(state.get("examples", []))
        if "sentencepiece" in state:
            self._load(base64.b64decode(state["sentencepiece"]))

    def vocabulary(self) -> list[str]:
        return [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]

    def unknown_share(self) -> float:
        """Bytes, which spell characters that are in no piece."""
        byte = np.array([self._processor.is_byte(i) for i in range(self._processor.get_piece_size())])
        tokens = np.concatenate([flat for _, flat, _ in self._rows["train"].sides])
        return float(byte[tokens].mean())

    def examples(self) -> list[str]:
        return self._examples

    def describe(self) -> dict[str, Any]:
        """Among others: tokens of a sentence and the share of padding in training batches, by side."""
        lengths = {split: rows.lengths() for split, rows in self._rows.items()}
        plan, train = self.plan(self._rows["train"]), lengths["train"]
        batches = [train[plan.rows(0, step)] for step in range(plan.steps(0))]
        padding = 1 - train.sum(0) / sum(len(batch) * batch.max(0) for batch in batches)
        return {
            **super().describe(),
            "files": [str(path) for path in self._paths],
            "tokens": {split: [round(float(n), 1) for n in found.mean(0)] for split, found in lengths.items()},
            "longest": {split: found.max(0).tolist() for split, found in lengths.items()},
            "steps_an_epoch": plan.steps(0),
            "padding": dict(zip(("source", "target"), np.round(padding, 4).tolist(), strict=True)),
            "left_out_too_long": self._too_long,
        }

    # ------------------------------------------------------------------------------------------------ reading

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or pair that cannot be used, by file and line.
        """
        self._paths = []
        read = self._toy() if self.source == "toy" else self._read_splits()
        self.splits = tuple(read)
        if self._processor is None:
            self._load(self._train(read["train"]))
        if not self._examples:
            self._examples = read["train"].source[:3]
        for split, pairs in read.items():
            source, target = self._tokens(pairs.source), [[BOS, *row] for row in self._tokens(pairs.target)]
            reference = pairs.target if split == "test" or (split == "valid" and self.decode_valid) else None
            if split == "train":
                kept = [i for i in range(len(source)) if max(len(source[i]), len(target[i]) - 1) <= self.max_length]
                self._too_long = len(source) - len(kept)
                source, target = [source[i] for i in kept], [target[i] for i in kept]
                if not kept:
                    raise DataError(f"all training pairs are longer than data.max_length={self.max_length} tokens")
                if self._too_long:
                    warnings.warn(
                        f"{self._too_long} training pairs are left out: a side is longer than "
                        f"data.max_length={self.max_length} tokens",
                        stacklevel=2,
                    )
            self._rows[split] = PairRows(source, target, reference)

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source == "auto":
            raise DataError("data.source: give the folder of your files, or toy for generated sentences")
        folder = Path(self.source)
        if not folder.is_dir():
            why = "is a file: give the folder that holds it" if folder.is_file() else "there is no such folder"
            raise DataError(f"data.source={self.source}: {why}")
        read: dict[str, _Pairs] = {}
        for split, starts in SPLITS.items():
            files = self._files_of(folder, starts)
            if len(files) == 2:
                read[split] = self._read_sides(*files)
            elif files:
                read[split] = self._read_table(files[0])
            elif split != "test":
                there = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
                raise DataError(
                    f"{folder} has no {split} pairs: expected {split}.{self.source_language} and "
                    f"{split}.{self.target_language}, or {split}.tsv or .jsonl, each optionally with .gz; it holds "
                    f"{there or 'nothing'}"
                )
        return read

    def _files_of(self, folder: Path, starts: Sequence[str]) -> list[Path]:
        """Source and target of a split, or its table, or nothing.

        Raises:
            DataError: there are several, or one side alone, or one file would be both.
        """
        sides, tables = (
            [
                [p for s in starts for p in (folder / f"{s}.{end}", folder / f"{s}.{end}.gz") if p.is_file()]
                for end in ends
            ]
            for ends in ((self.source_language, self.target_language), ("tsv", "jsonl"))
        )
        files = [path for found in (*sides, *tables) for path in found]
        if len(files) < 2 and not any(sides):
            return files
        if self.source_language == self.target_language:
            raise DataError(_ONE_LANGUAGE.format(self.source_language))
        if [len(side) for side in sides] == [1, 1] and len(files) == 2:
            if len({path.name.split(".")[0] for path in files}) == 1:
                return files
        names = ", ".join(path.name for path in files)
        raise DataError(
            f"{folder} must have one pair of files, or one table, of a split: of {' or '.join(starts)} there is "
            f"{names}; the languages are data.source_language={self.source_language}, "
            f"data.target_language={self.target_language}"
        )

    def _read_sides(self, source: Path, target: Path) -> _Pairs:
        """Two files of one sentence a line.

        Raises:
            DataError: one has more lines than the other.
        """
        self._paths += [source, target]
        pairs = _Pairs()
        for one, other in zip_longest(lines_of(source), lines_of(target)):
            if one is None or other is None:
                (short, long), line = ((source, target), other[0]) if one is None else ((target, source), one[0])
                raise DataError(f"{long}:{line}: {short} ends before this line; line i of both must be one pair")
            texts = []
            for path, (line, raw) in ((source, one), (target, other)):
                try:
                    texts.append(_text(decoded(raw, "utf-8", line)))
                except BadRow as error:
                    self.bad_rows.add(path, line, str(error))
                    break
            else:
                pairs.source.append(texts[0])
                pairs.target.append(texts[1])
        if not pairs.source:
            raise DataError(f"{source}: there are no pairs that can be used")
        return pairs

    def _read_table(self, path: Path, columns: list[str] | None = None) -> _Pairs:
        """A .tsv or .jsonl file of pairs."""
        self._paths.append(path)
        names = (self.source_column, self.target_column)
        pairs = _Pairs()

        def take(line: int, row: dict[str, Any]) -> None:
            source, target = (_text(string_of(row[name], name)) for name in names)
            pairs.source.append(source)
            pairs.target.append(target)

        read_table(
            path,
            "jsonl" if ".jsonl" in path.suffixes else "tsv",
            names,
            take,
            self.bad_rows,
            columns=columns or self.columns,
            options="data.source_column, data.target_column",
        )
        return pairs

    # ------------------------------------------------------------------------------------------------ pieces

    def _train(self, pairs: _Pairs) -> bytes:
        """A sentencepiece model of both sides, the same for the same texts and options."""
        import sentencepiece

        texts = [self._cased(text) for text in (*pairs.source, *pairs.target)]
        out = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=out,
                vocab_size=400 if self.source == "toy" else self.vocab_size,
                model_type=self.pieces,
                normalization_rule_name=self.normalization,
                character_coverage=self.coverage,
                byte_fallback=True,
                hard_vocab_limit=False,
                max_sentence_length=1 << 20,  # bytes; longer ones would be left out in silence
                num_threads=2,  # part of the result for unigram, so not the machine's number
                minloglevel=2,
                pad_id=PAD,
                unk_id=UNKNOWN,
                bos_id=BOS,
                eos_id=EOS,
            )
        except RuntimeError as error:
            raise DataError(
                f"sentencepiece cannot make data.vocab_size={self.vocab_size} pieces of these {len(texts)} sentences: "
                f"{error}"
            ) from None
        return out.getvalue()

    def _load(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def _cased(self, text: str) -> str:
        return text.lower() if self.lower else text

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """With the end token."""
        return [[*ids, EOS] for ids in self._processor.encode([self._cased(text) for text in texts])]

    # ------------------------------------------------------------------------------------------------ one input

    def encode(self, raw: Any) -> Batch:
        """A sentence, or {"text": ..., "prefix": ...}, possibly as JSON text: its translation begins with the prefix.

        An empty sentence and one of more than `max_length` tokens are refused.
        """
        text, given = text_of(raw, [self.source_column, "text"])
        try:
            prefix = string_of(given.get("prefix", ""), "prefix")
        except BadRow as error:
            raise DataError(str(error)) from None
        tokens, begun = self._tokens([text, prefix])
        if is_blank(text) or len(tokens) == 1:  # normalisation takes some signs away
            raise DataError("the text is empty; there is nothing to translate")
        if len(tokens) > self.max_length:
            raise DataError(
                f"the text has {len(tokens)} tokens, more than data.max_length={self.max_length}; give it sentence by "
                "sentence"
            )
        batch: Batch = {"source": torch.tensor([tokens])}
        if len(begun) > 1:
            batch["prefix"] = torch.tensor([begun[:-1]])
        return batch

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """Where the model looked: a line for each piece of the translation, a column for each piece of the sentence.

        Characters that matplotlib's own font lacks are drawn if a font of `_FONTS` is installed, else as boxes.
        """
        if "attention" not in answer:
            raise DataError("there is no attention to draw: task.attention=true gives it")
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image

        looked = answer["attention"]
        source, target = looked["source"], looked["target"]
        installed = set(font_manager.get_font_names())
        family = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
        # a cell of 0.3 inches, and room for the pieces' names
        figure = Figure(figsize=(1.2 + 0.3 * len(source), 1.2 + 0.3 * len(target)), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(np.array(looked["weights"]), cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source, rotation=90, family=family, parse_math=False)
        axes.set_yticks(range(len(target)), target, family=family, parse_math=False)
        axes.xaxis.tick_top()
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    # ------------------------------------------------------------------------------------------------ toy

    def _toy(self) -> dict[str, _Pairs]:
        """A made-up language: word by word, and the words of each pair of neighbours change places."""
        read = {}
        for number, (split, count) in enumerate({"train": 600, "valid": 100, "test": 100}.items()):
            random = np.random.Generator(np.random.Philox(key=mix(number)))
            read[split] = _Pairs()
            for _ in range(count):
                words = random.integers(len(_TOY), size=random.integers(2, 9)).tolist()
                turned = [w for i in range(0, len(words), 2) for w in reversed(words[i : i + 2])]
                read[split].source.append(" ".join(_TOY[w][0] for w in words))
                read[split].target.append(" ".join(_TOY[w][1] for w in turned))
        return read


_TOY = [
    pair.split("/")
    for pair in (
        "a/ein the/das man/mann woman/frau child/kind dog/hund cat/katze house/haus tree/baum street/straße car/auto "
        "red/rot blue/blau big/groß small/klein runs/läuft sleeps/schläft sees/sieht sings/singt and/und in/in on/auf "
        "water/wasser ball/ball"
    ).split()
]


def _text(text: str) -> str:
    if is_blank(text):
        raise BadRow("the sentence is empty")
    return text.strip()


# ---------------------------------------------------------------------------------------------------- Multi30k


_COPY = (
    "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/{}.gz"
)

MULTI30K = Source(
    name="Multi30k, task 1",
    folder="nlp/multi30k",
    files=(
        File.at(_COPY, "train.en", "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6", 1_801_238),
        File.at(_COPY, "train.de", "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72", 2_110_398),
        File.at(_COPY, "train.fr", "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d", 2_111_303),
        File.at(_COPY, "train.cs", "2be68b38c8d586ff4f54eb13cc6e1baaaa053695b3f070d3038303a47f2268da", 1_755_283),
        File.at(_COPY, "val.en", "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227", 63_297),
        File.at(_COPY, "val.de", "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660", 75_981),
        File.at(_COPY, "val.fr", "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc", 73_924),
        File.at(_COPY, "val.cs", "d53827e469b0a1ca8d57e9e26b2b64c4bc4b33f5479c7b03ae87ae5c882c3e33", 60_213),
        File.at(
            _COPY, "test_2016_flickr.en", "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182", 62_076
        ),
        File.at(
            _COPY, "test_2016_flickr.de", "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16", 70_649
        ),
        File.at(
            _COPY, "test_2016_flickr.fr", "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6", 72_261
        ),
        File.at(
            _COPY, "test_2016_flickr.cs", "45adb85f688de8407fddcbe1b36dca15d12aab868149b337e2576f2d6d2ff8d8", 62_364
        ),
    ),
    licence="the translations are CC BY-NC-SA 4.0 (Elliott et al., 2016): research, no commercial use",
    homepage="https://github.com/multi30k/dataset",
    manual=(
        "Get data/task1/raw/{train,val,test_2016_flickr}.{en,de,fr,cs}.gz\n"
        "from https://github.com/multi30k/dataset (commit a3d2e0d); packed or not, as you like."
    ),
)


class Multi30kData(ParallelData):
    """29 000 captions of photographs in English, German, French and Czech (Elliott et al., 2016, "Multi30K").

    Validation has 1 014 pairs; the test split is test_2016_flickr, 1 000 pairs. Papers mostly train on and compare
    lower-case text.

    `source`: auto = nlp/multi30k under PADDLE_DATA; toy = generated; or own files, as in `ParallelData`.

    Args:
        **options: see `ParallelData`; the languages are two of en, de, fr, cs.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.source == "auto" and self.source_language == self.target_language:
            raise ValueError(_ONE_LANGUAGE.format(self.source_language))
        for language in (self.source_language, self.target_language):
            if self.source == "auto" and language not in ("en", "de", "fr", "cs"):
                raise ValueError(f"Multi30k has en, de, fr and cs, not {language!r}")

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source != "auto":
            return super()._read_splits()
        files, pair = published(MULTI30K), (self.source_language, self.target_language)
        names = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
        return {split: self._read_sides(*(files[f"{name}.{side}"] for side in pair)) for split, name in names.items()}

    def examples(self) -> list[str]:
        if self.source_language != "en" or self.source != "auto":
            return super().examples()
        return ["A dog runs across the grass.", "Two women are sitting on a bench.", "A man in a red shirt is singing."]


# ---------------------------------------------------------------------------------------------------- Tatoeba

TATOEBA = Source(
    name="Tatoeba, Mandarin Chinese and English",
    folder="nlp/tatoeba_cmn_eng",
    files=(
        File("train.tsv", "964787a510a21ddc2124d9a02f5dc995fda56146d9b4cd01561a921a15da0b7e", 2_597_299),
        File("dev.tsv", "156063eb9353864d562184cbf3e18b39051ae0c5ca6ca0ca8b1234d74debd15f", 99_756),
        File("test.tsv", "cb91399d7348c93a6008c95ce60fda1b3bad89c3afbb9f5e30817855d322d401", 103_400),
    ),
    licence="CC BY 2.0 FR, each pair with its authors",
    homepage="https://www.manythings.org/anki/",
    manual=(
        "Get cmn-eng from https://www.manythings.org/anki/ and split it: pairs that share a sentence stay together;\n"
        "by the md5 of a group's smallest English sentence modulo 28, 0 = test, 1 = dev, all else = train; each file\n"
        "sorted by the length of the English sentence; columns English, Chinese, authors."
    ),
)


class TatoebaData(ParallelData):
    """28 447 short sentences in Chinese (simplified and traditional) and English by the users of tatoeba.org.

    26 406 pairs are for training, 1 011 for validation, 1 030 for testing; pairs that share a sentence are in one
    split. The split is this project's own, so there is no published score.

    `source`: auto = nlp/tatoeba_cmn_eng under PADDLE_DATA; toy = generated; or own files, as in `ParallelData`.

    Args:
        source_language: zh or en.
        target_language: the other one.
        coverage: share of the characters that get pieces of their own.
        **options: see `ParallelData`.
    """

    def __init__(
        self, *, source_language: str = "zh", target_language: str = "en", coverage: float = 0.9995, **options: Any
    ) -> None:
        super().__init__(source_language=source_language, target_language=target_language, coverage=coverage, **options)
        if self.source == "auto":
            if {source_language, target_language} != {"zh", "en"}:
                raise ValueError(f"Tatoeba here is of zh and en, not {source_language!r} and {target_language!r}")
            self.source_column, self.target_column = source_language, target_language

    def _read_splits(self) -> dict[str, _Pairs]:
        if self.source != "auto":
            return super()._read_splits()
        files = published(TATOEBA)
        names = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
        return {split: self._read_table(files[name], ["en", "zh", "authors"]) for split, name in names.items()}
