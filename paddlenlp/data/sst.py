"""SST-2: the Stanford Sentiment Treebank's sentences and phrases, negative or positive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from paddlecore.errors import DataError
from paddlecore.sources import File, Source, published
from paddlenlp.data.sentence_classification import TextTableData, _Texts
from paddlenlp.data.text_files import BadRow, decoded, lines_of

SST = Source(
    name="SST (Stanford Sentiment Treebank, trees with a label at each phrase)",
    folder="nlp/sst_trees",
    files=(
        File("train.txt", "e2f3f41b0b1e6d4dddc0effe3bfc2d27ed8928079aa9a03d652311614fc5feb7", 2_160_058),
        File("dev.txt", "0e9336aed6e4730e19f58d00a77b3f0297efdb755f7b5e598c98a05e3f97ea40", 280_825),
        File("test.txt", "6e54806dee95cf80cd918e7dfb3f6770f6df24bf826f289a4d1f709e1c8f6761", 559_614),
    ),
    licence="free for research; cite Socher et al., 2013, EMNLP",
    homepage="https://nlp.stanford.edu/sentiment/",
    manual="Get trainDevTestTrees_PTB.zip from https://nlp.stanford.edu/sentiment/ and unpack train.txt, dev.txt and "
    "test.txt.",
)

_PIECE = re.compile(r"\(([0-4]) |([^\s()]+)|(\))")
_ESCAPES = {"-LRB-": "(", "-RRB-": ")"}


def phrases(tree: str) -> Iterator[tuple[int, list[str]]]:
    """Label, 0 (very negative) to 4 (very positive), and words of each node of a tree; the whole sentence comes last.

    Raises:
        ValueError: the brackets do not make one tree.
    """
    words: list[str] = []
    open_nodes: list[tuple[int, int]] = []  # label, place of the first word
    closed = False
    for label, word, end in _PIECE.findall(tree):
        if closed or not (label or open_nodes):
            raise ValueError("not one tree")
        if label:
            open_nodes.append((int(label), len(words)))
        elif word:
            words.append(_ESCAPES.get(word, word.replace("\\/", "/").replace("\\*", "*")))
        elif end:
            number, start = open_nodes.pop()
            yield number, words[start:]
            closed = not open_nodes
    if not closed:
        raise ValueError("not one tree")


class SST2Data(TextTableData):
    """The sentences of the treebank that are not neutral: 6 920, 872 and 1 821 (Socher et al., 2013, "Recursive Deep
    Models", EMNLP), and for training the phrases in them (as in Kim, 2014, section 3).

    A node's label below 2 is negative, above 2 positive; neutral nodes are left out. A phrase that occurs several times
    with one label is one row.

    `source`: auto = nlp/sst_trees under PADDLE_DATA; toy = generated sentences; or own files of texts, as in
    `TextTableData`.

    Args:
        phrases: train on the phrases of the training sentences too, 77 000 rows; else on the sentences alone.
        **options: see `TextTableData`.
    """

    published_labels: ClassVar[list[str]] = ["negative", "positive"]
    made_up = (
        "A warm, funny and deeply moving film.",
        "Two hours of noise, and not one good joke.",
        "It isn't perfect, but the cast is a delight.",
    )

    def __init__(self, *, phrases: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.phrases = phrases

    def _read_splits(self) -> dict[str, _Texts]:
        if self.source != "auto":
            return super()._read_splits()
        files = published(SST)
        self._paths = list(files.values())
        names = {"train": "train.txt", "valid": "dev.txt", "test": "test.txt"}
        return {split: self._trees(files[name], split == "train" and self.phrases) for split, name in names.items()}

    def _trees(self, path: Path, with_phrases: bool) -> _Texts:
        texts, seen = _Texts(path), set()
        for line, raw in lines_of(path):
            try:
                nodes = list(phrases(decoded(raw, "utf-8", line)))
            except (ValueError, BadRow) as error:
                raise DataError(f"{path}:{line}: {error}") from None
            for number, words in nodes if with_phrases else nodes[-1:]:
                label = "positive" if number > 2 else "negative"
                tokens = self._tokens(" ".join(words))
                key = (label, *tokens)
                if number != 2 and tokens and (not with_phrases or key not in seen):
                    seen.add(key)
                    texts.add(line, label, tokens)
        return texts
