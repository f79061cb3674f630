"""Pairs of texts: own files in every format, bad rows by file and line, letter trigrams, draws of wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from paddlecore.errors import DataError
from paddlenlp.data import MSRPData, ParallelData, TextPairData, WikiQAData
from paddlenlp.data.text_pairs import letter_trigrams

ROWS = [
    ("how far is it", "it is far", 1),
    ("how far is it", "it is red", 0),
    ("who is it", "a friend", 1),
    ("how far is it", "two miles", 1),
    ("what now", "nothing", 0),
]


def folder_of(folder: Path, kind: str = "tsv", rows: list[tuple[str, str, int]] = ROWS) -> Path:
    for split in ("train", "valid"):
        if kind == "jsonl":
            lines = [json.dumps({"query": q, "document": d, "label": y}) for q, d, y in rows]
        elif kind == "csv":
            lines = ["label,query,document", *(f'{y},"{q}","{d}"' for q, d, y in rows)]
        else:
            lines = ["query\tdocument\tlabel", *(f"{q}\t{d}\t{y}" for q, d, y in rows)]
        (folder / f"{split}.{kind}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def prepared(source: Path | str, **options: Any) -> TextPairData:
    data = TextPairData(source=str(source), **options)
    data.prepare()
    return data


def text(data: TextPairData, tokens: torch.Tensor) -> list[str]:
    vocabulary = ["", "?", *data.state()["vocabulary"]]
    return [" ".join(vocabulary[i] for i in row if i) for row in tokens.tolist()]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_rows_of_one_query_come_together(kind: str, tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path, kind))
    assert data.splits == ("train", "valid") and len(data.rows("train")) == 3 and data.fingerprint()
    batch = data.rows("train").fetch(np.array([1, 0]), 0)
    assert text(data, batch["query"]) == ["who is it", *["how far is it"] * 3]
    assert text(data, batch["document"]) == ["a friend", "it is far", "it is red", "two miles"]
    assert batch["label"].tolist() == [1, 1, 0, 1] and batch["group"].tolist() == [0, 1, 1, 1]
    found = data.describe()["splits"]["train"]
    assert (found["pairs"], found["right"], found["queries"], found["queries_with_both"]) == (5, 3, 3, 1)


@pytest.mark.parametrize("trigrams", [False, True])
def test_the_share_of_padding_is_told(trigrams: bool, tmp_path: Path) -> None:
    """Queries of 4, 4, 4, 3 and 2 words beside candidates of 3, 3, 2, 2 and 1."""
    data = prepared(folder_of(tmp_path), batch_size=3, trigrams=trigrams)
    assert data.describe()["padding"] == {"query": round(3 / 20, 4), "document": round(4 / 15, 4)}


def test_wrong_candidates_are_drawn_by_seed_epoch_and_row() -> None:
    data = prepared("toy", negatives=4)
    rows = data.rows("train")
    batch = rows.fetch(np.array([3, 8]), 5)
    assert batch["right"].shape == (2,) and batch["wrong"].shape == (2, 4)
    assert (batch["label"][batch["right"]] == 1).all() and (batch["label"][batch["wrong"]] == 0).all()
    assert (batch["group"][batch["wrong"]] == batch["group"][batch["right"]][:, None]).all()
    # the draws of a row do not depend on what it is fetched with
    alone, other = rows.fetch(np.array([8]), 5), rows.fetch(np.array([8]), 6)
    documents = text(data, batch["document"])
    drawn = [text(data, alone["document"])[i] for i in alone["wrong"][0]]
    assert drawn == [documents[i] for i in batch["wrong"][1]]
    assert drawn != [text(data, other["document"])[i] for i in other["wrong"][0]]
    assert "right" not in data.rows("valid").fetch(np.array([0]), 0)


def test_wrong_candidates_are_drawn_evenly() -> None:
    rows = prepared("toy", negatives=8).rows("train")
    rows.negatives = 8
    counts = np.zeros(3)
    for epoch in range(40):
        wrong = rows._wrong(  # type: ignore[attr-defined]
            np.arange(40),
            np.arange(40) // 4,
            np.arange(10),
            np.flatnonzero(rows.labels[:40]),
            epoch,  # type: ignore
        )
        for query in range(10):
            candidates = 4 * query + np.flatnonzero(rows.labels[4 * query : 4 * query + 4] == 0)  # type: ignore
            counts += [(wrong[query] == c).sum() for c in candidates]
    assert counts.sum() == 40 * 10 * 8 and chisquare(counts).pvalue > 1e-3


def test_queries_without_right_and_wrong_candidates_are_not_trained_on(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path), negatives=2)
    assert len(data.rows("train")) == 1 and len(data.rows("valid")) == 3
    folder_of(tmp_path, rows=ROWS[2:3])
    with pytest.raises(DataError, match="data.negatives needs queries with right and wrong candidates"):
        prepared(tmp_path, negatives=2)


# ---------------------------------------------------------------------------------------------------- terms


def test_letter_trigrams_of_the_papers_example() -> None:
    assert letter_trigrams("good") == ["#go", "goo", "ood", "od#"]
    assert letter_trigrams("a") == ["#a#"] and letter_trigrams("好") == ["#好#"]


def test_chinese_characters_are_words_or_trigrams_of_their_own(tmp_path: Path) -> None:
    for options in ({}, {"trigrams": True}):
        data = prepared(folder_of(tmp_path, rows=[("你 好吗", "好", 1)]), tokenizer="characters", **options)
        vocabulary = data.state()["vocabulary"]
        assert sorted(token.strip("#") for token in vocabulary) == sorted("你好吗")
        assert data.encode({"query": "好坏", "candidates": ["吗"]})["query"].flatten().tolist() == [2, 1]


def test_words_as_bags_of_letter_trigrams(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path, rows=[("good", "a good goo", 1), ("good", "food", 0)]), trigrams=True)
    vocabulary = ["", "?", *data.state()["vocabulary"]]
    batch = data.rows("train").fetch(np.array([0]), 0)
    assert batch["document"].shape == (2, 3, 4)
    named = [[[vocabulary[i] for i in word if i] for word in row] for row in batch["document"].tolist()]
    assert named[0] == [["#a#"], ["#go", "goo", "ood", "od#"], ["#go", "goo", "oo#"]]
    assert named[1] == [["#fo", "foo", "ood", "od#"], [], []]
    found = data.encode({"query": "wood", "candidates": ["x" * 500]})
    assert [vocabulary[i] for i in found["query"][0, 0].tolist()] == ["?", "?", "ood", "od#"]
    assert found["document"].shape[2] <= 24  # a very long word


def test_a_word_without_an_id_is_the_same_word_in_both_texts(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path), buckets=50)
    count = len(data.state()["vocabulary"])
    assert data.spec["vocab_size"] == 2 + count + 50
    batch = data.encode({"query": "zebra far", "candidates": ["far zebra", "lion"]})
    zebra, lion = int(batch["query"][0, 0]), int(batch["document"][1, 0])
    assert 2 + count <= zebra < 2 + count + 50 and int(batch["document"][0, 1]) == zebra != lion
    plain = prepared(tmp_path)
    batch = plain.encode({"query": "zebra", "candidates": ["lion"]})
    assert batch["query"].tolist() == batch["document"].tolist() == [[plain.spec["unknown_id"]]]


# ---------------------------------------------------------------------------------------------------- bad input

BAD = {
    "columns.tsv": (b"a\tb", "expected 3 columns (query, document, label), found 2"),
    "label.tsv": (b"a\tb\t2", "the label must be 0 or 1, got '2'"),
    "query.tsv": (b" \tb\t1", "the query is empty"),
    "unseen.tsv": ("\u200b\tb\t1".encode(), "the query is empty"),
    "document.tsv": (b"a\t\t1", "the document is empty"),
    "utf8.tsv": (b"a\tb\xff\t1", "byte 4 of the line is not utf-8"),
    "json.jsonl": (b'{"query": ', "not JSON"),
    "key.jsonl": (b'{"query": "a", "documents": "b", "label": 1}', "no key 'document'; did you mean 'documents'?"),
    "type.jsonl": (b'{"query": 3, "document": "b", "label": 1}', "the query must be a string, got int"),
    "half.jsonl": (rb'{"query": "a", "document": "\ud83d", "label": 1}', "the document has half of a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(case: str, tmp_path: Path) -> None:
    row, why = BAD[case]
    kind = case.split(".")[1]
    path = folder_of(tmp_path, kind) / f"train.{kind}"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"\n", row + b"\n"]))  # a blank line counts as a line
    with pytest.raises(DataError) as error:
        prepared(tmp_path)
    assert str(error.value).startswith(f"{path}:{len(lines) + 2}: {why}")
    data = prepared(tmp_path, on_bad_row="skip")
    assert data.bad_rows.count == 1 and data.describe()["splits"]["train"]["pairs"] == 5


def test_a_missing_column_stops_the_reading(tmp_path: Path) -> None:
    folder_of(tmp_path)
    with pytest.raises(DataError, match=r"train.tsv:1: column 'question' is not in the header"):
        prepared(tmp_path, query="question", on_bad_row="skip")
    with pytest.raises(DataError, match="give the folder of your pairs"):
        prepared("auto")
    with pytest.raises(DataError, match="no such file or folder"):
        prepared(tmp_path / "missing")


@pytest.mark.parametrize(
    "options",
    [
        {"tokenizer": "word"}, {"min_count": 0}, {"buckets": -1}, {"query_length": 0}, {"negatives": 0},
        {"encoding": "utf-9"}, {"encoding": "utf-16"},
    ],
)  # fmt: skip
def test_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(options))}"):
        TextPairData(**options)


def test_encode(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path), query_length=3, document_length=4)
    raw = {"query": "How far is it, say?", "candidates": ["it is red", "👍", "א ב ג ד ה ו", "a " * 9999]}
    for given in (raw, json.dumps(raw)):
        batch = data.encode(given)
        assert batch["query"].shape == (4, 3) and batch["document"].shape == (4, 4)
        assert batch["group"].tolist() == [0] * 4 and batch["texts"] == raw["candidates"]
        assert batch["document"][1].tolist() == [1, 0, 0, 0] and batch["document"][2].tolist() == [1] * 4
    for bad in (
        "how far", {"query": "a"}, {"query": "a", "candidate": ["b"]}, {"query": "a", "candidates": []},
        {"query": " ", "candidates": ["b"]}, {"query": "a", "candidates": ["b", "\u200b\ufeff"]},
        {"query": "a", "candidates": [3]}, {"query": 1, "candidates": ["b"]}, [1], None,
    ):  # fmt: skip
        with pytest.raises(DataError):
            data.encode(bad)


def test_state_goes_through_json(tmp_path: Path) -> None:
    for options in ({"trigrams": True}, {"buckets": 9}):
        data = prepared(folder_of(tmp_path), **options)
        other = TextPairData(**options)
        with pytest.raises(DataError, match="no vocabulary yet"):
            other.spec  # noqa: B018
        other.restore(json.loads(json.dumps(data.state())))
        assert other.spec == data.spec
        for raw in data.examples():
            assert torch.equal(other.encode(raw)["document"], data.encode(raw)["document"])


# ---------------------------------------------------------------------------------------------------- published sets


def real(module: type[TextPairData], folder: str, **options: Any) -> TextPairData:
    root = os.environ.get("PADDLE_DATA")
    if not root or not (Path(root) / "nlp" / folder).is_dir():
        pytest.skip(f"PADDLE_DATA has no nlp/{folder}")
    data = module(**options)
    data.prepare()
    assert not data.bad_rows.count and len(data.fingerprint()) == 64
    return data


def test_wikiqa() -> None:
    found = real(WikiQAData, "wikiqa").describe()["splits"]
    for split, counts in {
        "train": (20360, 1040, 2118, 857), "valid": (2733, 140, 296, 122), "test": (6165, 293, 633, 237)
    }.items():  # fmt: skip
        names = ("pairs", "right", "queries", "queries_with_both")
        assert tuple(found[split][name] for name in names) == counts


def test_msrp() -> None:
    found = real(MSRPData, "msrp").describe()["splits"]
    counts = {split: (facts["pairs"], facts["right"]) for split, facts in found.items()}
    assert counts == {"train": (3576, 2407), "valid": (500, 346), "test": (1725, 1147)}


def test_a_group_has_one_query(tmp_path: Path) -> None:
    """Else all of its candidates would be ranked under the first one."""
    folder_of(tmp_path)
    rows = [
        "day\tquery\tdocument\tlabel",
        "1\thow far\tfar\t1",
        "2\twho\tme\t0",
        "1\tHow far\tred\t0",
        "1\twho\tyou\t1",
    ]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "valid.tsv").write_text("\n".join(rows[:4]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:5: the query is another than that of day=1 in line 2"):
        prepared(tmp_path, group="day")
    data = prepared(tmp_path, group="day", on_bad_row="skip")
    assert len(data.rows("train")) == 2 and data.bad_rows.count == 1


def test_columns_that_lack_one_are_refused() -> None:
    for options in ({"columns": ["query", "document"]}, {"columns": ["query", "document", "label"], "group": "day"}):
        with pytest.raises(ValueError, match=r"data\.columns lacks '(label|day)'"):
            TextPairData(source="x", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.columns has 'label' twice"):
        TextPairData(source="x", columns=["query", "document", "label", "label"])
    with pytest.raises(ValueError, match=r"data\.columns lacks 'source'; did you mean 'sources'"):
        ParallelData(source="x", columns=["sources", "target"])


def test_a_file_in_place_of_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.tsv is a file: give the folder"):
        prepared(folder_of(tmp_path) / "train.tsv")
