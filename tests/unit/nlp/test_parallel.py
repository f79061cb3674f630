"""Parallel text: files in every form, what is wrong with them by file and line, pieces that travel, token batches."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from paddlecore.data import FirstBatches
from paddlecore.errors import DataError
from paddlenlp.data import Multi30kData, ParallelData, TatoebaData
from paddlenlp.data.parallel import BOS, EOS, PAD
from paddlenlp.data.token_buckets import TokenBuckets

PAIRS = [(f"the {a} sees {b} dogs", f"der {a} sieht {b} hunde") for a in ("man", "child", "woman") for b in range(40)]
WORDS = {"vocab_size": 320, "batch_size": 16, "batch_tokens": 400}


def parallel(folder: Path, pairs: list[tuple[str, str]] = PAIRS, valid: str = "val") -> Path:
    for split in ("train", valid):
        (folder / f"{split}.en").write_text("".join(f"{s}\n" for s, _ in pairs), encoding="utf-8")
        with gzip.open(folder / f"{split}.de.gz", "wt", encoding="utf-8") as file:
            file.write("".join(f"{t}\n" for _, t in pairs))
    return folder


def prepared(folder: Path, **options: object) -> ParallelData:
    data = ParallelData(source=str(folder), **{**WORDS, **options})  # type: ignore[arg-type]
    data.prepare()
    return data


def test_every_form_of_file_gives_the_same(tmp_path: Path) -> None:
    for name in ("lines", "tsv", "jsonl", "bare"):
        (tmp_path / name).mkdir()
    parallel(tmp_path / "lines")
    for split in ("train", "dev"):
        rows = [f"{s}\t{t}\n" for s, t in PAIRS]
        (tmp_path / "tsv" / f"{split}.tsv").write_text("source\ttarget\n" + "".join(rows), encoding="utf-8-sig")
        (tmp_path / "bare" / f"{split}.tsv").write_text("\n".join(rows), encoding="utf-8")
        with gzip.open(tmp_path / "jsonl" / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"target": t, "source": s, "more": 1}) + "\n" for s, t in PAIRS)
    batches = [
        prepared(tmp_path / name, **options).rows("train").fetch(np.arange(9), 0)
        for name, options in [("lines", {}), ("tsv", {}), ("jsonl", {}), ("bare", {"columns": ["source", "target"]})]
    ]
    for batch in batches[1:]:
        assert torch.equal(batch["source"], batches[0]["source"])
        assert torch.equal(batch["target"], batches[0]["target"])


def test_a_batch_is_padded_and_bounded_by_its_marks(tmp_path: Path) -> None:
    data = prepared(parallel(tmp_path), decode_valid=True)
    batch = data.rows("valid").fetch(np.array([0, 60, 100]), 0)
    for row in range(3):
        target = [t for t in batch["target"][row].tolist() if t != PAD]
        assert target[0] == BOS
        assert target[-1] == EOS
        source = [t for t in batch["source"][row].tolist() if t != PAD]
        assert source[-1] == EOS
        assert data._processor.decode(source[:-1]) == PAIRS[[0, 60, 100][row]][0]
    assert batch["reference"] == [PAIRS[i][1] for i in (0, 60, 100)]
    assert "reference" not in data.rows("train").fetch(np.arange(2), 0)


def test_lines_that_do_not_pair_are_named(tmp_path: Path) -> None:
    parallel(tmp_path)
    with (tmp_path / "train.en").open("a", encoding="utf-8") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"train\.en:121: .*train\.de\.gz ends before this line"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"\xff\xfe", r"train\.en:3: byte 1 of the line is not utf-8 [(].*[)]; convert the file\n"),
        (b" ", r"train\.en:3: .*empty"),
        ("\u200b\u00ad".encode(), r"train\.en:3: .*empty"),
    ],
)
def test_bad_lines_are_named_or_skipped_with_their_partner(tmp_path: Path, line: bytes, why: str) -> None:
    parallel(tmp_path)
    lines = (tmp_path / "train.en").read_bytes().split(b"\n")
    lines[2] = line
    (tmp_path / "train.en").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=why):
        prepared(tmp_path)
    data = prepared(tmp_path, on_bad_row="skip")
    assert data.bad_rows.count == 1
    assert len(data.rows("train")) == len(PAIRS) - 1
    row = data.rows("train").fetch(np.array([2]), 0)["target"][0].tolist()
    assert data._processor.decode(row) == PAIRS[3][1]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("train.tsv", "source\tgoal\na\tb\n", r"train\.tsv:1: column 'target' is not in the header"),
        ("train.tsv", "source\ttarget\na b\n", r"train\.tsv:2: expected 2 columns"),
        ("train.jsonl", '{"source": "a"}\n', r"train\.jsonl:1: no key 'target'"),
        ("train.jsonl", '{"source": "a", "target": 1}\n', r"train\.jsonl:1: the target must be a string, got int"),
        ("train.jsonl", r'{"source": "a \ud83d", "target": "b"}', r"jsonl:1: the source has half of a surrogate pair"),
        ("train.tsv", "source\ttarget\ttarget\n", r"train\.tsv:1: column 'target' is twice"),
        ("train.jsonl", '{"source": "a"\n', r"train\.jsonl:1: not JSON"),
        ("train.tsv", "source\ttarget\n", r"train\.tsv:1: the file has no rows"),
        ("other.tsv", "", "has no train pairs"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=why):
        prepared(tmp_path)


@pytest.mark.parametrize("more", ["train.en.gz", "train.tsv", "dev.en", "test.en", "test.de"])
def test_files_of_which_it_is_not_clear_which_to_read_are_refused(tmp_path: Path, more: str) -> None:
    """And a side of a test split without the other, which would be left out in silence."""
    (parallel(tmp_path) / more).write_bytes(b"")
    with pytest.raises(DataError, match=rf"of a split: .*{more.replace('.', '[.]')}"):
        prepared(tmp_path)


def test_a_source_that_is_a_file_or_its_own_translation_is_refused(tmp_path: Path) -> None:
    """In a table one language may be both, as in paraphrases."""
    with pytest.raises(DataError, match=r"train\.en: is a file: give the folder"):
        prepared(parallel(tmp_path) / "train.en")
    with pytest.raises(DataError, match="are both 'de': a file would be translated into itself"):
        prepared(tmp_path, source_language="de")
    (tmp_path / "table").mkdir()
    for split in ("train", "valid"):
        rows = [f"{s}\t{t}\n" for s, t in PAIRS]
        (tmp_path / "table" / f"{split}.tsv").write_text("source\ttarget\n" + "".join(rows), encoding="utf-8")
    assert len(prepared(tmp_path / "table", source_language="de").rows("train")) == len(PAIRS)


def test_to_prepare_twice_is_to_prepare_once(tmp_path: Path) -> None:
    data = prepared(parallel(tmp_path))
    once = data.fingerprint(), data.describe()
    data.prepare()
    assert (data.fingerprint(), data.describe()) == once


def test_a_vocabulary_has_what_there_is_and_not_less_than_characters(tmp_path: Path) -> None:
    assert 280 < prepared(parallel(tmp_path), vocab_size=30000).spec["vocab_size"] < 600
    with pytest.raises(DataError, match=r"data\.vocab_size=262"):
        prepared(tmp_path, vocab_size=262)


def test_pieces_travel_in_the_state(tmp_path: Path) -> None:
    data = prepared(parallel(tmp_path), lower=True)
    state = json.loads(json.dumps(data.state()))
    other = ParallelData(source="toy", lower=True)
    other.restore(state)
    assert other.spec == data.spec
    assert torch.equal(other.encode("The DOG")["source"], data.encode("the dog")["source"])
    assert prepared(tmp_path, lower=True).state() == data.state()  # training them anew gives the same


@pytest.mark.parametrize("pieces", ["bpe", "unigram"])
def test_any_text_has_tokens_and_comes_back(tmp_path: Path, pieces: str) -> None:
    data = prepared(parallel(tmp_path), pieces=pieces)
    for text in ("x", "😀 dogs 👩‍👩‍👧", "مرحبا بالعالم", "你好，世界", "zzzqqq", "ﬁnal ｗｉｄｅ"):
        ids = data.encode(text)["source"][0].tolist()
        assert ids[-1] == EOS
        assert data.spec["unknown_id"] not in ids
        wanted = {"ﬁnal ｗｉｄｅ": "final wide", "你好，世界": "你好,世界"}.get(text, text)  # NFKC
        assert data._processor.decode(ids[:-1]).replace("\u200d", "") == wanted.replace("\u200d", "")


def test_inputs_that_are_no_sentence_are_refused(tmp_path: Path) -> None:
    data = prepared(parallel(tmp_path), max_length=20)
    for raw, why in [
        ("  ", "empty"),
        ("\u200b", "empty"),
        ("\ufffd", "empty"),  # which normalisation takes away
        ({"tekst": "a"}, "expected"),
        (["a"], "string"),
        ("dogs " * 30, "max_length"),
    ]:
        with pytest.raises(DataError, match=why):
            data.encode(raw)
    assert data.encode('{"text": "the man", "prefix": "der"}')["prefix"].shape[1] >= 1
    assert "prefix" not in data.encode({"text": "the man", "prefix": "\u200b"})
    with pytest.raises(DataError, match="the prefix must be a string, got int"):
        data.encode({"text": "the man", "prefix": 3})
    for given in ({"text": "a \ud83d b"}, {"text": "a", "prefix": "\ude00"}):
        with pytest.raises(DataError, match="half of a surrogate pair in place"):
            data.encode(given)
    assert data.encode("{not json")["source"].shape[1] > 1


def test_long_training_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = parallel(tmp_path, [*PAIRS, ("dogs " * 200, "hunde " * 200)])
    with pytest.warns(UserWarning, match="1 training pairs are left out"):
        data = prepared(folder, max_length=64)
    assert len(data.rows("train")) == len(PAIRS)
    assert len(data.rows("valid")) == len(PAIRS) + 1
    assert data.describe()["left_out_too_long"] == 1


def test_options_that_make_no_sense_are_refused() -> None:
    for options in (
        {"pieces": "words"}, {"normalization": "nfd"}, {"max_length": 1}, {"coverage": 0.0}, {"vocab_size": 260}
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"data.{next(iter(options))}"):
            ParallelData(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="en, de, fr and cs"):
        Multi30kData(target_language="nl")
    with pytest.raises(ValueError, match="data.source_language and data.target_language are both 'de'"):
        Multi30kData(source_language="de")
    with pytest.raises(ValueError, match="zh and en"):
        TatoebaData(source_language="fr")


# ---------------------------------------------------------------------------------------------------- batches


def lengths(count: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).gamma(4.0, 4.0, count).astype(np.int64) + 1


def test_an_epoch_has_every_row_once_and_no_batch_too_many_tokens() -> None:
    sizes = lengths()
    plan = TokenBuckets(sizes, 64, 800, seed=3)
    for epoch in (0, 1, 5):
        batches = [plan.rows(epoch, step) for step in range(plan.steps(epoch))]
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(3000))
        for step, batch in enumerate(batches):
            assert len(batch) == plan.count(epoch, step) <= 64 + 4  # a tiny rest joins the last one
            assert len(batch) * sizes[batch].max() <= 800 * 17 // 16 or len(batch) == 1
    real = sum(sizes[b].sum() for b in batches)
    assert 1 - real / sum(len(b) * sizes[b].max() for b in batches) < 0.07


def test_a_batch_is_a_function_of_seed_epoch_and_step() -> None:
    sizes = lengths()
    plan = TokenBuckets(sizes, 64, 800, seed=3)
    wanted = {(e, s): plan.rows(e, s) for e in range(3) for s in range(plan.steps(e))}
    for e, s in [(2, 5), (0, 0), (1, 9), (2, 6), (0, 30)]:  # in any order, by a plan that has seen nothing else
        assert np.array_equal(TokenBuckets(sizes, 64, 800, seed=3).rows(e, s), wanted[e, s])
    assert not np.array_equal(np.sort(wanted[0, 0]), np.sort(wanted[1, 0]))
    assert not np.array_equal(TokenBuckets(sizes, 64, 800, seed=4).rows(0, 0), wanted[0, 0])


def test_a_few_long_rows_do_not_join_a_batch_of_many_short_ones() -> None:
    """Padded to their length it would have eight times the tokens asked for."""
    sizes = np.array([5] * 1600 + [40])
    plan = TokenBuckets(sizes, 1000, 800)
    batches = [plan.rows(0, step) for step in range(plan.steps(0))]
    assert max(len(batch) * sizes[batch].max() for batch in batches) == 800
    assert sorted(map(len, batches)) == [1, *[160] * 10]


def test_a_row_longer_than_a_batch_is_one() -> None:
    plan = TokenBuckets(np.array([3, 500, 3, 3]), 8, 20)
    assert sorted(len(plan.rows(0, s)) for s in range(plan.steps(0))) == [1, 3]


def test_first_batches_are_the_plan_s_own_where_those_differ_in_size() -> None:
    """Put together and cut anew, batches of so many tokens would have several times as many."""
    plan = TokenBuckets(np.random.default_rng(0).integers(1, 40, 300), 64, 200)
    few = FirstBatches(plan, 4)
    assert few.steps(2) == 4 and few.size == len(few.order(0))
    for step in range(4):
        assert few.rows(2, step).tolist() == plan.rows(0, step).tolist()
        assert few.count(2, step) == plan.count(0, step) < 64
