"""TagSpace: model and loss against slow transcriptions; documents from files as people have them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paddlecore.errors import DataError
from paddlecore.sources import data_root
from paddlerec.data import TagSpaceData
from paddlerec.data.tagspace import SOURCE, TagRows
from paddlerec.metrics import PrecisionAt1
from paddlerec.models import TagSpace
from paddlerec.tasks import Tagging
from paddlerec.tasks.tagging import warp_loss

TOKENS = [[3, 1, 4, 1, 5, 0, 0], [2, 0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 5, 4]]


def slow_scores(model: TagSpace, tokens: list[int]) -> list[float]:
    """Section 3 for one document without padding, window by window."""
    words = model.words.weight.detach().double().numpy()
    filters = model.convolution.weight.detach().double().numpy()  # [H, word_dim, K]
    bias = model.convolution.bias.detach().double().numpy()
    width, half = filters.shape[2], filters.shape[2] // 2
    vectors = [words[t] for t in tokens]
    zero = np.zeros(words.shape[1])
    places = []
    for middle in range(len(vectors)):
        window = [vectors[i] if 0 <= i < len(vectors) else zero for i in range(middle - half, middle + half + 1)]
        places.append(np.tanh(bias + sum(filters[:, :, k] @ window[k] for k in range(width))))
    most = np.tanh(np.max(places, axis=0))
    document = model.linear.weight.detach().double().numpy() @ most + model.linear.bias.detach().double().numpy()
    tags = model.tags.detach().double().numpy()
    if model.score == "cosine":
        return [float(t @ document / np.linalg.norm(t) / np.linalg.norm(document)) for t in tags]
    return [float(t @ document) for t in tags]


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_model_against_a_slow_transcription_whatever_the_padding(score: str, width: int) -> None:
    torch.manual_seed(0)
    model = TagSpace(vocab_size=6, num_classes=4, word_dim=3, hidden=7, width=width, dim=5, score=score, init_std=1.0)
    out = model(torch.tensor(TOKENS))
    expected = [slow_scores(model, [t for t in row if t]) for row in TOKENS]
    torch.testing.assert_close(out.detach().double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_a_document_of_padding_alone_has_finite_scores_and_gradients() -> None:
    model = TagSpace(vocab_size=6, num_classes=4, word_dim=3, hidden=7, dim=5)
    out = model(torch.zeros(1, 3, dtype=torch.int64))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(out[0], model.tags @ model.linear.bias)


@pytest.mark.parametrize("wrong", [{"score": "l2"}, {"width": 4}])
def test_sizes_that_make_no_model(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TagSpace(vocab_size=6, num_classes=4, **wrong)


def slow_warp(scores: list[float], label: int, draws: list[int], margin: float) -> float:
    """WSABIE's algorithm 1 for one row."""
    for n, tag in enumerate(draws, start=1):
        if scores[tag] > scores[label] - margin:
            rank = (len(scores) - 1) // n
            return sum(1 / i for i in range(1, rank + 1)) * (margin - scores[label] + scores[tag])
    return 0.0


def test_warp_loss_against_the_algorithm() -> None:
    torch.manual_seed(1)
    scores, label = torch.randn(50, 9), torch.randint(0, 9, (50,))
    others = torch.randint(0, 8, (50, 12))
    draws = others + (others >= label[:, None])
    scores[0, :] = 0.0
    scores[0, label[0]] = 1.0  # far ahead: no draw violates
    expected = [
        slow_warp(s, y, d, 0.3) for s, y, d in zip(scores.tolist(), label.tolist(), draws.tolist(), strict=True)
    ]
    torch.testing.assert_close(warp_loss(scores, label, draws, 0.3), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert expected[0] == 0.0 and max(expected) > 0


def test_warp_gradient_is_that_of_one_pair() -> None:
    scores = torch.tensor([[0.0, 0.5, 0.45, -3.0]], requires_grad=True)
    warp_loss(scores, torch.tensor([1]), torch.tensor([[3, 2, 0]]), 0.1).sum().backward()
    # the second draw violates: rank 3 // 2 = 1, weight 1
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, -1.0, 1.0, 0.0]]
    with pytest.raises(ValueError, match="margin"):
        Tagging(torch.nn.Identity(), margin=0.0)


def test_drawn_tags_are_even_and_never_the_right_one() -> None:
    tags, rows = 5, np.arange(2000)
    labels = rows % tags
    one = TagRows(np.ones(2000, np.int32), np.arange(2001), labels, tags=tags, draws=10, seed=3)
    drawn = one.fetch(rows, 0)["negatives"].numpy()
    assert not (drawn == labels[:, None]).any()
    for tag in range(tags):
        counts = np.bincount(drawn[labels == tag].ravel(), minlength=tags)
        counts = np.delete(counts, tag)
        chi = ((counts - 1000) ** 2 / 1000).sum()  # 4000 draws over 4 tags
        assert chi < 16.3, counts  # 3 degrees of freedom, p = 0.001
    # a function of seed, epoch and row, whatever the batch
    assert np.array_equal(one.fetch(rows[500:600], 0)["negatives"].numpy(), drawn[500:600])
    assert not np.array_equal(one.fetch(rows, 1)["negatives"].numpy(), drawn)


def test_p_at_1_counts_right_rows() -> None:
    metric = PrecisionAt1()
    metric.update(torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.2, 0.1]]), torch.tensor([1, 0, 1]))
    assert metric.compute() == {"p@1": pytest.approx(2 / 3)} and metric.goals == {"p@1": "max"}


# ------------------------------------------------------------------------------------------------------ files


def folder(path: Path, lines: list[str], name: str = "train.tsv", **others: list[str]) -> Path:
    (path / name).write_text("\n".join(lines) + "\n", newline="")
    for split, rows in others.items():
        (path / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return path


def prepared(source: Path, **options: Any) -> TagSpaceData:
    data = TagSpaceData(source=str(source), **options)
    data.prepare()
    return data


LINES = ["x\tred blue red", "y\tgreen green", "x\tred", "y\tgreen blue yellow"]


def test_vocabulary_and_tags_come_from_the_training_rows(tmp_path: Path) -> None:
    data = prepared(folder(tmp_path, LINES, valid=["y\tgreen pink"], test=["x\tred blue red blue"]), max_length=3)
    assert data.splits == ("train", "valid", "test")
    assert data.spec == {"vocab_size": 6, "num_classes": 2, "pad_id": 0, "labels": ["x", "y"]}
    train = data.rows("train").fetch(np.array([0, 1]), 0)
    assert train["tokens"].tolist() == [[2, 4, 2], [3, 3, 0]] and train["label"].tolist() == [0, 1]
    assert train["negatives"].shape == (2, 20) and (train["negatives"][0] == 1).all()
    assert data.rows("valid").fetch(np.array([0]), 0)["tokens"].tolist() == [[3, 1]]
    test = data.rows("test").fetch(np.array([0]), 0)
    assert test["tokens"].tolist() == [[2, 4, 2]] and "negatives" not in test
    rare = prepared(tmp_path, min_count=2)
    assert rare.spec["vocab_size"] == 5
    fresh = TagSpaceData()
    fresh.restore(json.loads(json.dumps(data.state())))
    assert fresh.spec == data.spec and fresh.encode("blue sky")["tokens"].tolist() == [[4, 1]]


def test_word_ids_in_csv_are_words(tmp_path: Path) -> None:
    lines = [f"{i % 3},{i} {i + 1} 7 " for i in range(30)]
    with gzip.open(tmp_path / "train.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    data = prepared(tmp_path / "train.csv.gz")
    assert data.splits == ("train", "valid") and len(data.rows("valid")) == 3 and len(data.rows("train")) == 27
    assert data.spec["labels"] == ["0", "1", "2"]
    again = prepared(tmp_path / "train.csv.gz", seed=9)  # the run's seed does not change the split
    assert data.spec == again.spec and data.fingerprint() == again.fingerprint() != ""


@pytest.mark.parametrize(
    "line, why",
    [
        ("x", "expected 2 columns, found 1"),
        ("x\ta\tb", "expected 2 columns, found 3"),
        ("x\t  ", "the text is empty"),
        ("\ta b", "the tag is empty"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    source = folder(tmp_path, [*LINES[:2], line, *LINES[2:]], valid=["y\tgreen"])
    with pytest.raises(DataError, match=rf"train\.tsv:3: {why}"):
        prepared(source)
    data = prepared(source, on_bad_row="skip")
    assert data.bad_rows.count == 1 and len(data.rows("train")) == 4
    assert "train.tsv:3: " in data.describe()["skipped"][0]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    source = folder(tmp_path, LINES, valid=["y\tgreen", "z\tred"])
    with pytest.raises(DataError, match=r"valid\.tsv:2: tag 'z' is not among"):
        prepared(source)
    with pytest.raises(DataError, match="no such file"):
        prepared(tmp_path / "none")
    (tmp_path / "valid.tsv").write_text("")
    with pytest.raises(DataError, match=r"valid\.tsv.*empty"):
        prepared(source)
    (tmp_path / "valid.tsv").unlink()
    folder(tmp_path, ["x\ta", "x\tb"])
    with pytest.raises(DataError, match="one tag only"):
        prepared(source)
    (tmp_path / "train.csv").write_text("x,a\n")
    with pytest.raises(DataError, match="more than one train"):
        prepared(source)
    with pytest.raises(DataError, match="at least one word"):
        TagSpaceData().encode("  ")


@pytest.mark.parametrize("corpus, rows, tags", [("r8", (4937, 548, 2189), 8), ("r52", (5290, 588, 2568), 52)])
def test_reuters_has_the_published_numbers(corpus: str, rows: tuple[int, ...], tags: int) -> None:
    root = data_root()
    if root is None or not (root / SOURCE.folder / "R8_test.tsv.gz").is_file():
        pytest.skip(f"{SOURCE.folder} is not under PADDLE_DATA")
    data = TagSpaceData(corpus=corpus)
    data.prepare()
    sizes = {split: len(data.rows(split)) for split in data.splits}
    assert sum(sizes.values()) == {"r8": 5485 + 2189, "r52": 5878 + 2568}[corpus]
    assert tuple(sizes.values()) == rows and data.spec["num_classes"] == tags
    assert math.isclose(data.describe()["unknown_words"]["train"], 0.0)


def test_word_ids_of_paddlerec() -> None:
    root = data_root()
    source = root / "rec/format-samples/paddlerec_tagspace_small_train.csv.gz" if root else None
    if source is None or not source.is_file():
        pytest.skip("rec/format-samples is not under PADDLE_DATA")
    data = prepared(source)
    assert {split: len(data.rows(split)) for split in data.splits} == {"train": 900, "valid": 100}
    assert data.spec["labels"] == ["0", "1", "2", "3"]
