"""Own texts in every format, bad rows by file and line, vocabulary, folds, and inputs of every kind."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paddlecore import cli
from paddlecore.data import DataModule
from paddlecore.errors import ConfigError, DataError
from paddlecore.testing import tiny_trainer
from paddlenlp.data import MRData, RunningTextData, TextPairData, TextTableData
from paddlenlp.data.sentence_classification import folds

TRAIN = [("pos", "A good film"), ("neg", "a bad film !"), ("pos", "good , good"), ("neg", "so bad")]


def written(folder: Path, kind: str, rows: list[tuple[str, str]], name: str = "train") -> Path:
    if kind == "tsv":
        text = "label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows)
    elif kind == "csv":
        text = "text,id,label\r\n" + "".join(f'"{t}",{i},{label}\r\n' for i, (label, t) in enumerate(rows))
    elif kind == "jsonl":
        text = "".join(json.dumps({"text": t, "label": label, "id": 1}) + "\n" for label, t in rows)
    else:
        text = "".join(f"{label} {t}\n" for label, t in rows)
    path = folder / f"{name}.{kind}"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def folder_of(folder: Path, kind: str = "tsv", train: list[tuple[str, str]] = TRAIN) -> Path:
    written(folder, kind, train)
    written(folder, kind, [("neg", "bad, unheard-of film"), ("pos", "good")], "valid")
    return folder


def prepared(source: Path | str, **options: Any) -> TextTableData:
    data = TextTableData(source=str(source), **options)
    data.prepare()
    return data


def words(data: TextTableData, split: str, row: int) -> list[str]:
    vocabulary = ["<pad>", "<unk>", *data.state()["vocabulary"]]
    return [vocabulary[i] for i in data.rows(split).fetch(np.array([row]), 0)["tokens"][0].tolist()]


# ---------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "txt"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_rows(kind: str, packed: bool, tmp_path: Path) -> None:
    folder_of(tmp_path, kind)
    if packed:
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    data = prepared(tmp_path)
    assert data.splits == ("train", "valid") and data.spec["labels"] == ["neg", "pos"]
    assert [words(data, "train", i) for i in range(4)] == [text.lower().split() for _, text in TRAIN]
    assert data.rows("train").labels.tolist() == [1, 0, 1, 0]
    assert words(data, "valid", 0) == ["bad", ",", "<unk>", "<unk>", "<unk>", "film"]
    assert data.fingerprint()


def test_the_vocabulary_comes_from_the_training_rows_alone(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path))
    # by frequency, then by first appearance
    assert data.state()["vocabulary"] == ["good", "a", "film", "bad", "!", ",", "so"]
    assert data.spec["vocab_size"] == 9
    assert data.describe()["unknown_tokens"] == {"train": 0.0, "valid": round(3 / 7, 4)}
    assert prepared(tmp_path, min_count=2).state()["vocabulary"] == ["good", "a", "film", "bad"]
    assert "A" in prepared(tmp_path, lower=False).state()["vocabulary"]


def test_a_batch_is_padded_to_its_longest_row(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path))
    batch = data.rows("train").fetch(np.array([3, 1, 3]), 0)
    assert batch["tokens"].dtype == batch["label"].dtype == torch.int64
    a, film, bad, end, so = 3, 4, 5, 6, 8
    assert batch["tokens"].tolist() == [[so, bad, 0, 0], [a, bad, film, end], [so, bad, 0, 0]]
    assert batch["label"].tolist() == [0, 0, 0]
    assert data.rows("train").fetch(np.array([3]), 0)["tokens"].shape == (1, 2)


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        ("words", ["it", "'s", "n't", "do", "n't", "l", "'", "été", ",", "ok", "!", "👍", "好的"]),
        ("space", ["it's", "n't", "don't", "l'été,", "ok!👍", "好的"]),
        ("characters", list("it'sn'tdon'tl'été,ok!👍好的")),
    ],
)
def test_tokenizers(tokenizer: str, expected: list[str]) -> None:
    assert TextTableData(tokenizer=tokenizer)._tokens("It's n't DON'T l'été,\tok!👍\u3000好的") == expected


def test_words_keep_their_marks() -> None:
    """Vowel signs, points and accents are no letters to Python; they would part words into pieces."""
    words = ["हिन्दी", "में", "שָׁלוֹם", "مُحَمَّد", "cafe\u0301", "می\u200cخواهم", "İstanbul".lower()]
    assert TextTableData()._tokens(" ".join(words)) == words
    assert TextTableData()._tokens("👩\u200d👧 don't") == ["👩", "\u200d", "👧", "do", "n't"]


def test_words_parted_already_stay_as_they_are() -> None:
    tokens = TextTableData()._tokens("they 're sure it 's n't 3 d , is n't it ? he ca n't ; we 'll see")
    assert TextTableData()._tokens(" ".join(tokens)) == tokens


def test_labels_may_be_numbers_names_or_a_map(tmp_path: Path) -> None:
    rows = [(label, f"word {label}") for label in ("10", "9", "2")]
    written(tmp_path, "txt", rows)
    written(tmp_path, "txt", rows[:1], "valid")
    assert prepared(tmp_path).spec["labels"] == ["2", "9", "10"]
    data = prepared(tmp_path, labels={"9": "nine", "2": "two", "10": "ten"})
    assert data.spec["labels"] == ["nine", "two", "ten"]
    assert data.rows("train").labels.tolist() == [2, 0, 1] and data.rows("valid").labels.tolist() == [2]
    assert prepared(tmp_path, labels=["10", "9", "2"]).rows("train").labels.tolist() == [0, 1, 2]
    merged = prepared(tmp_path, labels={"2": "low", "10": "high", "9": "high"})
    assert merged.spec["labels"] == ["low", "high"] and merged.spec["num_classes"] == 2
    assert merged.rows("train").labels.tolist() == [1, 1, 0]


def test_other_columns_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("7\tgood film\tpos\n8\tbad film\tneg\n9\tso bad\tneg\n", encoding="utf-8")
    options = {"columns": ["id", "review", "class"], "text": "review", "label": "class", "split": [0.4, 0.3, 0.3]}
    data = prepared(tmp_path / "a.tsv", labels=["neg", "pos"], **options)
    assert {split: len(data.rows(split)) for split in data.splits} == {"train": 1, "valid": 1, "test": 1}
    labels = [data.rows(split).labels.tolist() for split in data.splits]
    assert sorted(labels) == [[0], [0], [1]]


def test_a_header_beside_columns_is_no_row(tmp_path: Path) -> None:
    """Else it would be a text of a class of its own."""
    with pytest.raises(DataError, match=r"train\.tsv:1: this line names the columns itself: leave data\.columns out"):
        prepared(folder_of(tmp_path), columns=["label", "text"])


def test_one_file_is_split_whatever_the_seed(tmp_path: Path) -> None:
    rows = [("ab"[i % 2], f"row w{i}") for i in range(50)]
    path = written(tmp_path, "txt", rows, "all")
    parts = []
    for seed in (1, 2):
        data = prepared(path, seed=seed, labels=["a", "b"])
        assert {split: len(data.rows(split)) for split in data.splits} == {"train": 40, "valid": 5, "test": 5}
        parts.append([data.rows(split).labels.tolist() for split in data.splits])
    assert parts[0] == parts[1]
    other = prepared(path, split_seed=2, labels=["a", "b"])
    assert other.rows("train").labels.tolist() != parts[0][0]


def test_texts_beyond_max_length_are_cut_off_and_counted(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path), max_length=3)
    assert words(data, "train", 1) == ["a", "bad", "film"]
    assert data.describe()["cut_off"] == {"train": 1, "valid": 1}
    assert data.encode("a " * 5000)["tokens"].shape == (1, 3)


# ---------------------------------------------------------------------------------------------------- bad rows

BAD = {
    "columns.tsv": (b"pos\tgood\tmore", "expected 2 columns (label, text), found 3"),
    "few.tsv": (b"pos", "expected 2 columns (label, text), found 1"),
    "text.tsv": (b"pos\t  ", "the text is empty"),
    "unseen.tsv": ("pos\t\u200b\u00ad".encode(), "the text is empty"),
    "label.tsv": (b" \tgood", "the label is empty"),
    "utf8.tsv": (b"pos\tgo\xffod", "byte 7 of the line is not utf-8 (invalid start byte)"),
    "unknown.tsv": (b"poss\tgood", "label 'poss' is not one of neg, pos; did you mean 'pos'?"),
    "quote.csv": (b'"good,1,pos', "not a CSV row on one line"),
    "json.jsonl": (b'{"text": "good"', "not JSON"),
    "array.jsonl": (b'["pos", "good"]', "expected a JSON object"),
    "key.jsonl": (b'{"txt": "good", "label": "pos"}', "no key 'text'; did you mean 'txt'?"),
    "type.jsonl": (b'{"text": 3, "label": "pos"}', "the text must be a string, got int"),
    "label.jsonl": (b'{"text": "a", "label": 0.5}', "the label must be a string or a whole number, got float"),
    "half.jsonl": (rb'{"text": "a \ude00", "label": "pos"}', "the text has half of a surrogate pair in place 3"),
    "depth.jsonl": (b"[" * 100_000, "not JSON"),
    "label.txt": (b"pos", "expected 2 columns (label, text), found 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(case: str, tmp_path: Path) -> None:
    row, why = BAD[case]
    path = written(tmp_path, case.split(".")[1], TRAIN)
    written(tmp_path, "txt", TRAIN[:1], "valid")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], b"\n", row + b"\n", lines[-1]]))  # a blank line counts as a line
    with pytest.raises(DataError) as error:
        prepared(tmp_path, labels=["neg", "pos"])
    assert str(error.value).startswith(f"{path}:{len(lines) + 1}: {why}")
    data = prepared(tmp_path, labels=["neg", "pos"], on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data.rows("train")) == 4
    with pytest.raises(DataError, match="more than data.max_bad_rows=0"):
        prepared(tmp_path, labels=["neg", "pos"], on_bad_row="skip", max_bad_rows=0)


def test_a_label_that_training_lacks_is_a_bad_row(tmp_path: Path) -> None:
    folder_of(tmp_path)
    path = written(tmp_path, "tsv", [("pos", "good"), ("neutral", "so so")], "valid")
    with pytest.raises(DataError, match=f"{path}:3: label 'neutral' is not one of neg, pos"):
        prepared(tmp_path)
    data = prepared(tmp_path, on_bad_row="skip")
    assert len(data.rows("valid")) == 1 and data.describe()["skipped"][0].startswith(f"{path}:3: ")


FILES = {
    "empty": (b"", "train.tsv:1: the file is empty"),
    "blank": (b"\n\n", "train.tsv:2: the file has no rows"),
    "header": (b"label\ttext\n", "train.tsv:1: the file has no rows"),
    "column": (
        b"label\ttxt\n1\ta\n",
        "train.tsv:1: column 'text' is not in the header .label, txt.; did you mean 'txt'",
    ),
    "twice": (b"label\ttext\ttext\n1\ta\tb\n", "train.tsv:1: column 'text' is twice in the header"),
    "classes": (b"label\ttext\n1\ta\n1\tb\n", "there must be at least two classes, found 1"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_stops_the_reading(case: str, tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "train.tsv").write_bytes(FILES[case][0])
    with pytest.raises(DataError, match=FILES[case][1]):
        prepared(tmp_path, on_bad_row="skip")


def test_a_damaged_gzip_file_is_named_by_line(tmp_path: Path) -> None:
    folder_of(tmp_path)
    path = tmp_path / "train.tsv"
    body = "label\ttext\n" + "".join(f"{i % 2}\tword{i * 7919 % 1000}\n" for i in range(5000))
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(body.encode())[:-30])
    path.unlink()
    with pytest.raises(DataError, match=r"train.tsv.gz:\d+: the file is damaged or cut off"):
        prepared(tmp_path)


def test_other_encodings_are_asked_for_by_name(tmp_path: Path) -> None:
    for name in ("valid", "train"):
        (tmp_path / f"{name}.txt").write_bytes("0 très bon\n1 mauvais\n".encode("latin-1"))
    with pytest.raises(DataError, match="train.txt:1: byte 5 of the line is not utf-8 .*set data.encoding"):
        prepared(tmp_path)
    assert words(prepared(tmp_path, encoding="latin-1"), "train", 0) == ["très", "bon"]
    for name in ("valid", "train"):
        (tmp_path / f"{name}.txt").write_bytes("\ufeff0 a\n1 b\n".encode())  # a byte-order mark is no part of the label
    for options in ({}, {"encoding": "utf-8-sig"}):  # which is UTF-8 with that mark
        assert prepared(tmp_path, **options).spec["labels"] == ["0", "1"]


def test_a_cell_may_be_a_whole_book(tmp_path: Path) -> None:
    """Python's reader of CSV refuses more than 131 072 characters unless it is told otherwise."""
    data = prepared(folder_of(tmp_path, "csv", [*TRAIN, ("pos", "good " * 40_000)]), max_length=50_000)
    assert data.describe()["longest"]["train"] == 40_000


@pytest.mark.parametrize(
    "options",
    [
        {"tokenizer": "word"}, {"min_count": 0}, {"max_length": 0}, {"split": [0.5, 0.5]}, {"encoding": "utf-9"},
        {"encoding": "utf-16"}, {"columns": ["label", "txt"]}, {"labels": ["a", "b", "a"]},
        {"split": [math.nan, 0.5, 0.5]}, {"split": [0.5, 0.5, math.nan]},
    ],
)  # fmt: skip
def test_refuses_options_without_meaning(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="data."):
        TextTableData(**options)


@pytest.mark.parametrize("source", ["auto", "missing", "folder", "file"])
def test_a_source_that_cannot_be_used_says_why(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    given = {"auto": "auto", "missing": str(tmp_path / "b"), "folder": str(tmp_path), "file": str(tmp_path / "a.docx")}
    why = {
        "auto": "give the path of your texts", "missing": "no such file or folder",
        "folder": "must hold a train and a valid file .* it holds a.docx", "file": "the name must end in .csv",
    }  # fmt: skip
    with pytest.raises(DataError, match=why[source]):
        prepared(given[source])


# ---------------------------------------------------------------------------------------------------- one input


def test_state_goes_through_json(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path))
    other = TextTableData()
    with pytest.raises(DataError, match="no vocabulary yet"):
        other.spec  # noqa: B018
    other.restore(json.loads(json.dumps(data.state())))
    assert other.spec == data.spec
    for raw in ["a good film", "Nothing known", *data.examples()]:
        assert torch.equal(other.encode(raw)["tokens"], data.encode(raw)["tokens"])


def test_a_given_state_goes_before_the_data(tmp_path: Path) -> None:
    folder_of(tmp_path)
    data = TextTableData(source=str(tmp_path))
    data.restore({"labels": ["pos", "neg"], "vocabulary": ["film", "bad"]})
    data.prepare()
    assert data.rows("train").labels.tolist() == [0, 1, 0, 1]
    assert data.rows("train").fetch(np.array([1]), 0)["tokens"].tolist() == [[1, 3, 2, 1]]
    tuned = TextTableData(source=str(tmp_path))
    tuned.restore({"vocabulary": ["film", "bad"]})  # fine-tuning: words of the weights, classes of the data
    tuned.prepare()
    assert tuned.spec["labels"] == ["neg", "pos"] and tuned.spec["vocab_size"] == 4


def test_examples_are_of_own_data_and_made_up_for_published_ones(tmp_path: Path) -> None:
    own = MRData(source=str(folder_of(tmp_path)))
    own.prepare()
    assert own.examples()[0] == "a good film"
    published = MRData()
    published.restore(own.state())
    assert published.examples() == list(MRData.made_up) == MRData(source="toy").examples()


def test_encode(tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path), text="text")
    good, film = 2, 4
    for raw in ("Good film", {"text": "good film"}, json.dumps({"text": "good FILM", "label": "x"})):
        assert data.encode(raw)["tokens"].tolist() == [[good, film]]
    assert data.encode("{ good")["tokens"].tolist() == [[1, good]]
    assert data.encode("never heard 👍🏽")["tokens"].unique().tolist() == [1]
    for raw in ("", " \n\t", "\u200b", {"txt": "a"}, None, 3, {"text": 3}, ["good"]):
        with pytest.raises(DataError):
            data.encode(raw)


# ---------------------------------------------------------------------------------------------------- MR and toy


def test_each_row_is_tested_once_and_parts_are_balanced() -> None:
    labels = ["0"] * 103 + ["1"] * 97
    tested: Counter[int] = Counter()
    for fold in range(10):
        parts = folds(labels, fold)
        together = np.concatenate(list(parts.values()))
        assert sorted(together.tolist()) == list(range(200))  # every row has one place
        tested.update(parts["test"].tolist())
        for split, rows in parts.items():
            ones = sum(labels[i] == "1" for i in rows)
            assert abs(ones - len(rows) * 97 / 200) <= 1.5, split
        assert len(parts["valid"]) in (18, 19) and (np.diff(parts["train"]) > 0).all()
    assert tested == Counter(range(200))


def test_the_real_reviews() -> None:
    root = os.environ.get("PADDLE_DATA")
    if not root or not (Path(root) / "nlp/english_sentence_classification").is_dir():
        pytest.skip("PADDLE_DATA has no nlp/english_sentence_classification")
    data = MRData(fold=3)
    data.prepare()
    assert data.describe()["rows"] == {"train": 8636, "valid": 960, "test": 1066}
    assert sum(sum(counts.values()) for counts in data.describe()["classes"].values()) == 10_662
    assert data.spec["labels"] == ["negative", "positive"] and not data.bad_rows.count
    assert data.describe()["unknown_tokens"]["train"] == 0 < data.describe()["unknown_tokens"]["test"]
    assert len(data.fingerprint()) == 64
    for raw in data.examples():
        assert (data.encode(raw)["tokens"] > 1).float().mean() > 0.8
    with pytest.raises(ValueError, match="data.fold"):
        MRData(fold=10)


def test_own_files_have_no_folds() -> None:
    with pytest.raises(ValueError, match="own files have no folds"):
        MRData(fold=1, source="mine")


def test_another_file_in_place_of_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nlp/english_sentence_classification"
    folder.mkdir(parents=True)
    (folder / "rt-polarity.all.gz").write_bytes(gzip.compress(b"0 bad\n1 good\n"))
    monkeypatch.setenv("PADDLE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="rt-polarity.all.gz is not the published file"):
        MRData().prepare()


def test_toy_sentences_tell_their_class() -> None:
    for options in ({}, {"labels": ["x", "y", "z"]}):
        data = prepared("toy", **options)
        count = len(data.spec["labels"])
        assert {split: len(data.rows(split)) for split in data.splits} == {"train": 2000, "valid": 500, "test": 500}
        # naive Bayes: the words' shares in each class decide
        counts = np.ones((count, data.spec["vocab_size"]))
        train, test = data.rows("train"), data.rows("test")
        np.add.at(counts, (train.labels.repeat(np.diff(train.offsets)), train.tokens), 1)
        weights = np.log(counts / counts.sum(1, keepdims=True))
        scores = np.add.reduceat(weights[:, test.tokens], test.offsets[:-1], axis=1)  # [classes, rows]
        right = (scores.argmax(0) == test.labels).sum()
        assert right > 480


def test_weights_are_refused_where_text_is_read_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else every token would be unknown, and scores and predictions would be wrong without a word."""
    words = ["recipe=nlp/textcnn_mr", "data.source=toy", "model.dim=4", "model.maps=2"]
    run, wrong = tmp_path / "run", f"init.weights={tmp_path / 'run'}"
    made = "data.tokenizer=characters"
    assert cli.main(["train", *words, made, "train.max_steps=1", f"output_dir={run}"]) == 0
    for verb, more in (("predict", "input=good"), ("eval", "split=test"), ("train", f"output_dir={tmp_path / 'more'}")):
        assert cli.main([verb, *words, wrong, more, "data.tokenizer=words"]) == ConfigError.exit_code
        said = capsys.readouterr().err
        assert "data.tokenizer=words, but the weights in" in said and f"made with {made}; give that" in said
        if verb != "train":  # where nobody asks for another, the weights' own is taken
            assert cli.main([verb, *words, wrong, more]) == 0
            assert f"was trained: {made}" in capsys.readouterr().err
    assert cli.main(["predict", *words, wrong, made, "data.lower=false", "input=good"]) == ConfigError.exit_code
    assert "were made with data.lower=true" in capsys.readouterr().err
    assert cli.main(["predict", *words, wrong, made, "input=good"]) == 0


@pytest.mark.parametrize("kind", ["table", "pairs", "running"])
def test_a_vocabulary_of_weights_that_knows_little_of_the_texts_is_named(kind: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        if kind == "running":
            (tmp_path / f"{split}.txt").write_text("ein hund\n" * 9, encoding="utf-8")
        else:
            (tmp_path / f"{split}.tsv").write_text("text\tlabel\nein hund\t1\neine katze\t0\n", encoding="utf-8")
    options: dict[str, Any] = {"source": str(tmp_path), "batch_size": 1}
    if kind == "running":
        data: DataModule = RunningTextData(steps=2, **options)
    else:
        columns = {"query": "text", "document": "text"}
        data = TextTableData(**options) if kind == "table" else TextPairData(**columns, **options)
    data.restore({"vocabulary": ["<pad>", "<eos>", "<unk>", "a", "dog"]})
    with pytest.warns(UserWarning, match=r"train.*: \d+% of the tokens are not in the vocabulary of the weights"):
        data.prepare()


@pytest.mark.parametrize("kind", ["table", "pairs", "running"])
def test_texts_whose_tokens_are_all_rare_are_refused(kind: str, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        name = f"{split}.txt" if kind == "running" else f"{split}.tsv"
        (tmp_path / name).write_text("a b\n" if kind == "running" else "text\tother\tlabel\na\tb\t1\nc\td\t0\n")
    options: dict[str, Any] = {"source": str(tmp_path), "min_count": 2, "batch_size": 1}
    columns = {"query": "text", "document": "other"}
    modules = {"table": TextTableData, "pairs": partial(TextPairData, **columns), "running": RunningTextData}
    with pytest.raises(DataError, match=r"train.t..: no token occurs data.min_count=2 times"):
        modules[kind](**options).prepare()


OWN = [
    ("nlp/textcnn_mr", "label\ttext\n1\ta good zebra\n0\ta zebra\n", "tsv"),
    ("nlp/dssm_wikiqa", "query\tdocument\tlabel\nwhat\tthe zebra\t1\nwhat\tthe gnu\t0\n", "tsv"),
    ("nlp/lstm_lm_ptb_small", "w1 zebra w2\n" * 40, "txt"),
    ("nlp/transformer_multi30k", "source\ttarget\n" + "a dog runs\tein hund zebra\n" * 3, "tsv"),
]


@pytest.mark.parametrize(("recipe", "text", "kind"), OWN)
def test_a_new_vocabulary_keeps_what_the_weights_know(
    recipe: str, text: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuning says what the vocabulary of the weights lacks, and can make another with the vectors of the first."""
    base, folder = tiny_trainer(recipe, "train.max_steps=1", folder=tmp_path / "base")
    base.fit()
    own = tmp_path / "own"
    own.mkdir()
    for split in ("train", "valid"):
        (own / f"{split}.{kind}").write_text(text, encoding="utf-8")
    words = [f"data.source={own}", f"init.weights={tmp_path / 'base'}", "data.batch_size=2", "data.vocab_size=320"]
    words = words if recipe == "nlp/transformer_multi30k" else words[:-1]
    kept, data = tiny_trainer(recipe, *words)
    assert data.vocabulary() == folder.vocabulary()
    if "transformer" not in recipe:  # whose bytes spell anything
        assert re.search(r"\d% of the tokens of these texts are not .*init.vocabulary=data", capsys.readouterr().err)
    fresh, data = tiny_trainer(recipe, *words, "init.vocabulary=data")
    before, after = folder.vocabulary(), data.vocabulary()
    assert after != before and data.unknown_share() < 0.2
    said = re.search(r"vocabulary: (\d+) of (\d+) tokens", capsys.readouterr().err)
    assert said and (int(said[1]), int(said[2])) == (len(set(before) & set(after)), len(after))
    weights, moved = base.task.state_dict(), fresh.task.state_dict()
    tables = [
        name for name, value in moved.items() if name in weights and len(value.shape) and len(value) == len(after)
    ]
    assert tables
    for name in tables:
        for place, token in enumerate(after):
            if token in before:
                torch.testing.assert_close(moved[name][place], weights[name][before.index(token)])
    for name, value in weights.items():
        if name not in tables and not name.endswith("state") and value.shape == moved[name].shape:
            torch.testing.assert_close(moved[name], value)


@pytest.mark.parametrize("tokenizer", ["words", "space", "characters", "bigrams"])
def test_examples_are_texts_of_the_training_rows(tokenizer: str, tmp_path: Path) -> None:
    data = prepared(folder_of(tmp_path, train=[("pos", "It isn't bad!"), ("neg", "这个房间很小")]), tokenizer=tokenizer)
    for row, raw in enumerate(data.examples()):
        wanted = data.rows("train").fetch(np.array([row]), 0)["tokens"]
        assert torch.equal(data.encode(raw)["tokens"], wanted)
