"""ChnSentiCorp: Chinese reviews of hotels, laptops and books, negative or positive."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from paddlecore.sources import File, Source, published
from paddlenlp.data.sentence_classification import TextTableData

_COPY = (
    "https://raw.githubusercontent.com/pengming617/bert_classification/c155e73ee9272aa61589116aebd762204c3e4c83/data/{}"
)

CHNSENTICORP = Source(
    name="ChnSentiCorp (Chinese reviews, as distributed with ERNIE)",
    folder="nlp/chnsenticorp",
    files=(
        File.at(_COPY, "train.tsv", "0b2653c23e5c79f539472e90cb10522f0ada4b80d3da95572d8b48fda47d5b33", 3_019_974),
        File.at(_COPY, "dev.tsv", "d129e443eac08ce7643013dad496a8edf282be39cac1a4f2ad080818b296b331", 374_230),
        File.at(_COPY, "test.tsv", "34f9d71eba6096cd8689e18913d28cf9a5f3c18a6c2804cd13304a321738c4bc", 369_742),
    ),
    licence="none stated; research use (Tan Songbo)",
    homepage="https://github.com/pengming617/bert_classification",
    manual="Get data/train.tsv, dev.tsv and test.tsv from https://github.com/pengming617/bert_classification "
    "(commit c155e73).",
)


class ChnSentiCorpData(TextTableData):
    """9 600, 1 200 and 1 200 reviews, half of them positive: the split that is distributed with ERNIE.

    The text is not segmented; it is read by characters, unless `tokenizer` says otherwise. No Unicode normalisation is
    done: full-width and half-width forms are different characters.

    `source`: auto = nlp/chnsenticorp under PADDLE_DATA; toy = generated sentences; or own files, as in `TextTableData`.

    Args:
        text: column of the text.
        tokenizer: see `TextTableData`.
        **options: see `TextTableData`.
    """

    published_labels: ClassVar[dict[str, str]] = {"0": "negative", "1": "positive"}
    made_up = ("房间干净，服务很好，下次还会再来。", "电池不行，用了两天就坏了。", "书写得一般，不过价格便宜。")

    def __init__(self, *, text: str = "text_a", tokenizer: str = "characters", **options: Any) -> None:
        super().__init__(text=text, tokenizer=tokenizer, **options)

    def _files(self) -> dict[str, Path]:
        if self.source != "auto":
            return super()._files()
        files = published(CHNSENTICORP)
        return {"train": files["train.tsv"], "valid": files["dev.tsv"], "test": files["test.tsv"]}
