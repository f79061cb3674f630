"""Windows of running text, beside a transcription of the authors' loops, and word2vec's ranking."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paddlecore.data import Loader, eval_batches, mix, uniform
from paddlecore.errors import DataError
from paddlerec.data.word2vec import CentreRows, SkipGramData, SkipGramRows
from paddlerec.models import Item2Vec, Word2Vec
from paddlerec.tasks import Retrieval


def some_text(words: int = 400, vocabulary: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, where sentences begin (of 1 to 9 words), counts."""
    random = np.random.default_rng(5)
    ids = np.minimum(random.geometric(0.25, words), vocabulary)
    cuts = np.cumsum(random.integers(1, 10, words))
    offsets = np.concatenate([[0], cuts[cuts < words], [words]])
    return ids, offsets, np.bincount(ids, minlength=vocabulary + 1)


def rows_of(**options: Any) -> SkipGramRows:
    ids, offsets, counts = some_text()
    return SkipGramRows(ids, offsets, counts, 16, 7, **{"window": 3, "subsample": 0.05, "sampled": 6, **options})


def all_rows(rows: SkipGramRows, epoch: int) -> np.ndarray:
    return np.arange(len(rows)) + epoch * len(rows)


@pytest.mark.parametrize("epoch", [0, 3])
def test_pairs_are_those_of_the_authors_loops(epoch: int) -> None:
    """word2vec.c: a sentence without what subsampling drops; for each word, b = 1 .. window; each context within it."""
    rows = rows_of()
    ids, offsets, counts = some_text()
    dropped = uniform(mix(7, 4), epoch, np.arange(len(ids)), 1)[:, 0]
    reach = 1 + (uniform(mix(7, 3), epoch, np.arange(len(ids)), 1)[:, 0] * 3).astype(int)
    expected = []
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        sentence = [p for p in range(start, end) if dropped[p] < (0.05 / (counts[ids[p]] / len(ids))) ** 0.5]
        for place, p in enumerate(sentence):
            for a in range(place - reach[p], place + reach[p] + 1):
                if a != place and 0 <= a < len(sentence):
                    expected.append((ids[sentence[a]], ids[p]))
    batch = rows.fetch(all_rows(rows, epoch), 0)
    found = list(zip(batch["history"][:, 0].tolist(), batch["item"].tolist(), strict=True))
    assert sorted(found) == sorted(expected) and len(found) > 300
    assert set(reach) == {1, 2, 3}


def test_words_are_left_out_at_the_papers_rate_and_windows_are_drawn_evenly() -> None:
    """1 - sqrt(t / f), anew each epoch: chi-square over words, and over the three windows, within 4 deviations."""
    ids, offsets, counts = some_text(30_000)
    rows = SkipGramRows(ids, offsets, counts, 16, 7, window=3, subsample=0.02)
    kept = rows.windows(1).kept
    assert 0.3 < (kept == rows.windows(0).kept).mean() < 0.7
    chance = np.minimum(np.sqrt(0.02 * len(ids) / np.maximum(counts, 1)), 1.0)
    assert all(kept[ids == word].all() for word in range(1, 13) if chance[word] == 1.0)
    some = [word for word in range(1, 13) if chance[word] < 1.0]
    expected = chance[some] * counts[some]
    square = ((np.bincount(ids[kept], minlength=13)[some] - expected) ** 2 / (expected * (1 - chance[some]))).sum()
    assert len(some) > 5 and abs(square - len(some)) < 4 * (2 * len(some)) ** 0.5
    line = SkipGramRows(np.ones(9001, int), np.array([0, 9001]), np.array([0, 9001]), 16, 7, window=3)
    pairs = np.array([len(line.fetch(np.array([row]), 0)["item"]) for row in range(3000)]) / 2
    counted = np.bincount(pairs.astype(int), minlength=4)[1:4]
    assert ((counted - 1000) ** 2 / 1000).sum() < 2 + 4 * 2


def test_a_batch_is_a_function_of_seed_epoch_and_row() -> None:
    rows, again = rows_of(), rows_of()
    plan = SkipGramData(source="toy", batch_size=16).plan(rows)
    streams = [Loader(rows, plan, workers=workers).stream(1, 3) for workers in (0, 2)]
    for step in range(3, 6):
        (alone,) = next(streams[0])
        (worker,) = next(streams[1])
        assert alone is not None and worker is not None
        resumed = again.fetch(plan.rows(1, step), 1)
        for name, value in alone.items():
            assert torch.equal(value, worker[name]) and torch.equal(value, resumed[name]), name
        halves = [again.fetch(part, 1) for part in np.array_split(plan.rows(1, step), 2)]
        assert torch.equal(torch.cat([half["item"] for half in halves]), alone["item"])
        assert all(torch.equal(half["candidates"], alone["candidates"]) for half in halves)
    for stream in streams:
        stream.close()
    assert not torch.equal(rows.fetch(plan.rows(0, 3), 0)["item"], rows.fetch(plan.rows(1, 3), 1)["item"])


def test_candidates_that_are_the_centre_are_named() -> None:
    rows = rows_of()
    batch = rows.fetch(np.arange(16), 0)
    same = (batch["item"][:, None] == batch["candidates"]).nonzero().T
    assert torch.equal(batch["hits"], same) and same.shape[1]
    share = some_text()[2] ** 0.75 / (some_text()[2] ** 0.75).sum()
    assert torch.exp(batch["candidates_log_q"]).numpy() == pytest.approx(share[batch["candidates"]], rel=1e-5)


def test_rows_that_are_all_left_out_bring_no_pairs_and_no_loss() -> None:
    rows = rows_of(subsample=1e-12)
    batch = rows.fetch(np.arange(4), 0)
    assert batch["item"].shape == (0,) and batch["history"].shape == (0, 1)
    task = Retrieval(Word2Vec(num_items=13, log_noise=[0.0] * 13, dim=4), loss="sgns")
    out = task(batch)
    assert out.loss_sum.item() == 0.0 and int(out.weight) == 0
    out.loss_sum.backward()


def test_held_out_words_have_the_known_words_around_them() -> None:
    words, offsets = np.array([1, 0, 2, 3, 4, 5, 0, 6]), np.array([0, 5, 6, 7, 8])
    batch = CentreRows(words, offsets, 2).fetch(np.arange(8), 0)
    assert batch["history"].tolist() == [
        [2, 3, 0], [1, 2, 3], [1, 3, 4], [1, 2, 4], [2, 3, 0], [0] * 3, [0] * 3, [0] * 3
    ]  # fmt: skip
    assert batch["relevant"][:, 0].tolist() == words.tolist() and batch["num_relevant"].tolist() == [1] * 8
    alone = CentreRows(words, offsets, 2).fetch(np.array([5, 7]), 0)
    assert alone["history"].tolist() == [[0], [0]]


def folder_of(path: Path, **texts: bytes) -> Path:
    for split, text in texts.items():
        (path / f"{split}.txt").write_bytes(text)
    return path


def test_reads_lines_of_words(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, train="a b a\n\n \n<unk>\n b <unk> \t c \r\na é d\n".encode(), test=b"a x b\n<unk>\nc\n"
    )
    with gzip.open(tmp_path / "valid.txt.gz", "wb") as file:
        file.write(b"b a\n")
    data = SkipGramData(source=str(folder), min_count=1, subsample=0.0, window=9)
    data.prepare()
    assert data.spec["labels"] == ["", "a", "b", "c", "é", "d"] and data.state()["times"] == [3, 2, 1, 1, 1]
    assert data.describe()["splits"]["test"] == {"lines": 2, "words": 4, "unknown_words": 1}
    rows = data.rows("train")
    pairs = rows.fetch(np.arange(len(rows)), 0)
    assert (2, 3) in zip(pairs["history"][:, 0].tolist(), pairs["item"].tolist(), strict=True)  # over <unk> and a tab
    (test,) = eval_batches(data.rows("test"), 9)
    assert test["relevant"][:, 0].tolist() == [1, 0, 2, 3]
    assert data.encode("b zzz a")["history"].tolist() == [[2, 1]] == data.encode('["b", "a"]')["seen"].tolist()
    assert data.encode("")["history"].tolist() == [[0]]
    with pytest.raises(DataError, match="expected words"):
        data.encode({"a": 1})


def test_min_count_leaves_rare_words_out_before_windows_are_laid(tmp_path: Path) -> None:
    data = SkipGramData(source=str(folder_of(tmp_path, train=b"a x b\na b\n", test=b"a y b\n")), min_count=2,
                        subsample=0.0, window=1, valid_share=0.0)  # fmt: skip
    data.prepare()
    assert data.spec["labels"] == ["", "a", "b"] and data.unknown_share() == 0.2
    batch = data.rows("train").fetch(np.arange(4), 0)
    assert (
        sorted(zip(batch["history"][:, 0].tolist(), batch["item"].tolist(), strict=True)) == [(1, 2)] * 2 + [(2, 1)] * 2
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"", r"train\.txt: it has no words"),
        (b"\n <unk>\n", r"train\.txt: it has no words"),
        (b"a b\nok \xff\n", r"train\.txt:2: not UTF-8"),
        (b"a\nb\nc\n", "no line of the train split has two known words"),
        (b"a b\n", "no word occurs data.min_count=2 times; set it lower"),
    ],
)
def test_odd_text_is_refused(tmp_path: Path, train: bytes, message: str) -> None:
    folder = folder_of(tmp_path, train=train, test=b"a b\n")
    data = SkipGramData(source=str(folder), valid_share=0.0, min_count=2 if train == b"a b\n" else 1)
    with pytest.raises(DataError, match=message):
        data.prepare()


def test_bad_lines_can_be_skipped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, train=b"a b\nok \xff\n", test=b"a b\n")
    data = SkipGramData(source=str(folder), valid_share=0.0, min_count=1, on_bad_row="skip")
    data.prepare()
    assert data.bad_rows.count == 1 and data.spec["labels"] == ["", "a", "b"]


@pytest.mark.parametrize("options", [{"window": 0}, {"subsample": -1.0}, {"sampled": -1}, {"min_count": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"data.*{next(iter(options))}"):
        SkipGramData(source="toy", **options)


def test_given_weights_keep_vocabulary_and_frequencies(tmp_path: Path) -> None:
    data = SkipGramData(source="toy", min_count=1)
    data.prepare()
    other = SkipGramData(source=str(folder_of(tmp_path, train=b"w5 w6 new\n", test=b"w5 w6\n")), valid_share=0.0)
    other.restore(data.state())
    other.prepare()
    assert other.spec["labels"] == data.spec["labels"] and other.spec["log_noise"] == data.spec["log_noise"]
    counts = np.array(data.state()["times"])
    noise = counts**0.75 / (counts**0.75).sum() / np.minimum(1, np.sqrt(1e-3 / (counts / counts.sum())))
    assert data.spec["log_noise"][1:] == pytest.approx(np.log(noise))
    assert np.array_equal(other.rows("train").popularity.share, data.rows("train").popularity.share)
    assert other.unknown_share() == pytest.approx(1 / 3)


def test_words_are_ranked_by_probability_not_by_the_score_alone() -> None:
    """Of the best possible scores, log p(i | c) - log q(i) - log k, the ranking is by p."""
    p = torch.tensor([0.0, 0.1, 0.6, 0.3])
    q = torch.tensor([0.0, 0.1, 0.88, 0.02])
    log_noise = [0.0, *q[1:].log().tolist()]
    model = Word2Vec(num_items=4, log_noise=log_noise, dim=1)
    with torch.no_grad():
        model.contexts.weight.fill_(1.0)
        model.items.weight[1:, 0] = (p[1:] / q[1:] / 5).log()
    batch = {"user": torch.tensor([0]), "history": torch.tensor([[1, 2]])}
    task = Retrieval(model, loss="sgns", measures=["recall@3"]).eval()
    with torch.no_grad():
        found = task.predict(batch)
        assert found["item"][0, :3].tolist() == [2, 3, 1]
        assert torch.exp(found["score"][0, :3]).tolist() == pytest.approx([0.6 / 5, 0.3 / 5, 0.1 / 5], rel=1e-5)
        model.prior = 0.0
        assert task.eval().predict(batch)["item"][0, :3].tolist() == [3, 1, 2]
    with pytest.raises(ValueError, match="num_items=4"):
        Word2Vec(num_items=4, log_noise=[0.0])
    assert Word2Vec(num_items=4).item_bias().tolist() == [0.0] * 4
    assert Item2Vec(num_items=4, dim=1).state_dict().keys() == model.state_dict().keys()
