"""Raw inputs in batches: which go together, in what order they come back, and how many are read ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from paddlecore import inference
from paddlecore.data import DataModule, collated, kind
from paddlecore.errors import DataError
from paddlecore.task import Batch, Prediction, Task


class Letters(DataModule):
    """A text as its letters' numbers, a number as a picture of so many pixels."""

    def encode(self, raw: Any) -> Batch:
        if isinstance(raw, int):
            return {"image": torch.ones(1, raw)}
        if not raw:
            raise DataError("the text is empty")
        return {"letters": torch.tensor([[*raw.encode()]]), "texts": [raw]}


class Size(Task):
    """How large an input is; remembers the shapes of its batches."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, batch: Batch) -> Prediction:
        value = batch["letters"] if "letters" in batch else batch["image"]
        self.shapes.append(tuple(value.shape))
        return {"size": (value > 0).sum(1)}


def answers(task: Task, raws: Any, batch_size: int) -> Iterator[Any]:
    return inference.answers(task, Letters(), raws, batch_size, torch.device("cpu"))


def test_answers_are_in_the_order_of_their_inputs_though_those_of_like_size_went_together() -> None:
    task = Size()
    raws = ["a", "bbbb", "", 3, "cc", 5, b"\xff", "dddd", "\ud83d", 3, "e"]
    found = list(answers(task, raws, 2))
    assert [raw for raw, _ in found] == [*raws[:6], "\ufffd", *raws[7:]]
    sizes = [str(answer)[:15] if isinstance(answer, DataError) else answer["size"] for _, answer in found]
    assert sizes == [1, 4, "the text is emp", 3, 2, 5, "the input is no", 4, "the text has ha", 3, 1]
    assert sorted(task.shapes) == [(1, 4), (1, 5), (2, 1), (2, 3), (2, 4)]  # texts [1 1] [2 4] [4], pictures [3 3] [5]


def test_inputs_are_read_a_few_batches_ahead_and_large_ones_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for large, read in ((inference._LARGE, 32), (10, 2)):
        monkeypatch.setattr(inference, "_LARGE", large)
        numbers = itertools.count()
        first = next(answers(Size(), (f"text {next(numbers)}" for _ in itertools.repeat(0)), 2))
        assert first == ("text 0", {"size": 6}) and next(numbers) == read


def test_ids_are_filled_up_on_the_right_in_each_dimension() -> None:
    one = {"ids": torch.tensor([[[1, 2]]]), "names": ["a"], "x": torch.ones(1, 2)}
    two = {"ids": torch.tensor([[[3], [4]], [[5], [6]]]), "names": ["b", "c"], "x": torch.zeros(2, 2)}
    both = collated([one, two])
    assert kind(one) == kind(two) != kind({**one, "x": torch.ones(1, 3)})
    assert both["ids"].tolist() == [[[1, 2], [0, 0]], [[3, 0], [4, 0]], [[5, 0], [6, 0]]]
    assert both["names"] == ["a", "b", "c"] and both["x"].tolist() == [[1, 1], [0, 0], [0, 0]]
