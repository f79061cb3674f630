"""Subj, TREC, SST-2 and ChnSentiCorp: what is read, and how it is split. Real files where PADDLE_DATA has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paddlecore import run, testing
from paddlecore.errors import ConfigError, DataError
from paddlenlp.data import ChnSentiCorpData, SST2Data, SubjData, TextTableData, TRECData
from paddlenlp.data.sst import phrases

ROOT = os.environ.get("PADDLE_DATA")


def real(module: type[TextTableData], folder: str, **options: Any) -> TextTableData:
    if not ROOT or not (Path(ROOT) / "nlp" / folder).is_dir():
        pytest.skip(f"PADDLE_DATA has no nlp/{folder}")
    data = module(**options)
    data.prepare()
    assert not data.bad_rows.count and len(data.fingerprint()) == 64
    assert all((data.encode(raw)["tokens"] > 1).float().mean() > 0.7 for raw in data.examples())
    return data


def test_subj() -> None:
    found = real(SubjData, "english_sentence_classification", fold=9).describe()
    assert found["rows"] == {"train": 8100, "valid": 900, "test": 1000}
    assert found["classes"]["test"] == {"subjective": 500, "objective": 500}


def test_trec() -> None:
    data = real(TRECData, "english_sentence_classification")
    found = data.describe()
    assert found["rows"] == {"train": 4904, "valid": 548, "test": 500}
    for name, count in found["classes"]["valid"].items():
        assert abs(count - (count + found["classes"]["train"][name]) / 10) < 1
    assert found["classes"]["test"]["location"] == 81 and found["classes"]["test"]["number"] == 113
    again = TRECData(seed=7)
    again.prepare()
    assert (again.rows("valid").labels == data.rows("valid").labels).all()


def test_sst2() -> None:
    found = real(SST2Data, "sst_trees").describe()
    assert {split: found["rows"][split] for split in ("valid", "test")} == {"valid": 872, "test": 1821}
    assert found["rows"]["train"] > 76_000
    alone = SST2Data(phrases=False)
    alone.prepare()
    assert alone.describe()["rows"] == {"train": 6920, "valid": 872, "test": 1821}
    assert alone.describe()["classes"]["test"] == {"negative": 912, "positive": 909}


def test_chnsenticorp() -> None:
    data = real(ChnSentiCorpData, "chnsenticorp", window=50, batch_size=64)
    found = data.describe()
    assert found["rows"] == {"train": 9600, "valid": 1200, "test": 1200}
    assert found["classes"]["test"] == {"negative": 592, "positive": 608}
    assert found["padding"] < 0.1


def test_phrases_of_a_tree() -> None:
    tree = r"(3 (2 A) (4 (1 -LRB-) (2 (0 and\/or) (2 !))))"
    assert list(phrases(tree)) == [
        (2, ["A"]),
        (1, ["("]),
        (0, ["and/or"]),
        (2, ["!"]),
        (2, ["and/or", "!"]),
        (4, ["(", "and/or", "!"]),
        (3, ["A", "(", "and/or", "!"]),
    ]


@pytest.mark.parametrize("tree", ["", "word", "(2 a", "(2 a) (3 b)", "(2 a) b", "(7 a)"])
def test_what_is_no_tree_is_refused(tree: str) -> None:
    with pytest.raises(ValueError, match="not one tree"):
        list(phrases(tree))


@pytest.mark.parametrize("module", [SubjData, TRECData, SST2Data, ChnSentiCorpData])
def test_own_files_go_the_same_way(module: type[TextTableData], tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / f"{split}.tsv").write_text("label\tt\n1\t好 good\n0\t坏 bad\n", encoding="utf-8")
    data = module(source=str(tmp_path), text="t")
    data.prepare()
    assert data.spec["labels"] == ["0", "1"] and data.splits == ("train", "valid")
    (tmp_path / "train.tsv").write_bytes("label\tt\n1\t好\n0\t\xff\n".encode("latin-1", "replace"))
    with pytest.raises(DataError, match="train.tsv:3: byte 3 of the line is not utf-8"):
        module(source=str(tmp_path), text="t").prepare()


# ---------------------------------------------------------------------------------------------------- tokenizers

INPUTS = {
    "one": ("好", ["好"], ["好"]),
    "space": ("好 的\u3000吗", ["好", "的", "吗"], ["好", "好的", "的", "的吗", "吗"]),
    "emoji": ("好👍🏽", ["好", "👍", "🏽"], ["好", "好👍", "👍", "👍🏽", "🏽"]),
    "right to left": ("שלום ل", list("שלוםل"), ["ש", "של", "ל", "לו", "ו", "ום", "ם", "םل", "ل"]),
}


@pytest.mark.parametrize("case", INPUTS)
def test_characters_and_bigrams(case: str) -> None:
    text, characters, bigrams = INPUTS[case]
    assert TextTableData(tokenizer="characters")._tokens(text) == characters
    assert TextTableData(tokenizer="bigrams")._tokens(text) == bigrams


@pytest.mark.parametrize("tokenizer", ["characters", "bigrams"])
def test_inputs_of_every_kind_are_defined(tokenizer: str) -> None:
    data = ChnSentiCorpData(source="toy", tokenizer=tokenizer, max_length=20)
    data.prepare()
    for raw in ("", " \u3000\t", "\n"):
        with pytest.raises(DataError, match="the text is empty"):
            data.encode(raw)
    assert data.encode("g")["tokens"].shape == (1, 1)
    assert data.encode("好" * 100_000)["tokens"].shape == (1, 20)  # long: cut off
    assert data.encode("好👍שלום")["tokens"].unique().tolist() == [1]  # all unknown


def test_words_of_jieba_come_without_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(lcut=lambda text: ["服务", "很", " ", "好"], setLogLevel=lambda level: None)
    monkeypatch.setitem(__import__("sys").modules, "jieba", fake)
    data = TextTableData(tokenizer="jieba")
    assert data._tokens("服务很 好") == ["服务", "很", "好"] and data._text_of(["服务", "好"]) == "服务好"


def test_jieba_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(ConfigError, match=r"pip install 'paddle-suite\[chinese\]'"):
        TextTableData(tokenizer="jieba")._tokens("服务很好")


UNUSUAL = {
    "empty": "",
    "unseen": "\u200b",
    "one": "x",
    "unknown": "zzz qqq",
    "emoji": "😀 👩\u200d👧",
    "right to left": "مرحبا بالعالم",
    "long": 600 * "w ",
}


@pytest.mark.parametrize(
    ("recipe", "refused"),
    [
        ("nlp/transformer_multi30k", {"empty", "unseen", "long"}),
        ("nlp/textcnn_mr", {"empty", "unseen"}),
        ("nlp/senta_bilstm_chnsenticorp", {"empty", "unseen"}),
        ("nlp/simnet_gru_wikiqa", {"empty", "unseen"}),
        ("nlp/lstm_lm_ptb_small", set()),
    ],
)
def test_what_becomes_of_unusual_texts(recipe: str, refused: set[str], tmp_path: Path) -> None:
    """As docs/language.md has it, from the text to the answer."""
    testing.tiny_trainer(recipe, "train.max_steps=1", folder=tmp_path, quiet=True)[0].fit()
    ranks = recipe.endswith("wikiqa")
    inputs = [{"query": text, "candidates": ["a", text]} if ranks else text for text in UNUSUAL.values()]
    answers = run.predict(testing.tiny(recipe, f"init.weights={tmp_path}", "data.on_bad_row=skip"), inputs)
    found = dict(zip(UNUSUAL, answers, strict=True))
    assert {name for name, answer in found.items() if "error" in answer} == refused
    for answer in found.values():
        assert "null" not in json.dumps(answer, allow_nan=False)  # as which a score that is no number is written
        if ranks and "error" not in answer:
            assert len(answer["ranking"]) == 2
