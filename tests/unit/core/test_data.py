"""Order, splitting, loading and randomness: all are functions of (seed, epoch, step, row) and of nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paddlecore import data as D
from paddlecore.errors import DataError
from paddlecore.task import Batch


@given(size=st.integers(1, 500), batch=st.integers(1, 120), epoch=st.integers(0, 3), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_once(size: int, batch: int, epoch: int, seed: int) -> None:
    plan = D.Plan(size, batch, seed=seed)
    steps = [plan.rows(epoch, s) for s in range(plan.steps(epoch))]
    assert sorted(np.concatenate(steps).tolist()) == list(range(size))
    assert [len(s) for s in steps] == [plan.count(epoch, s) for s in range(plan.steps(epoch))]
    assert all(len(s) >= min(batch, size) for s in steps[:-1])


def test_ranges_are_those_of_a_loop() -> None:
    starts, ends = np.array([3, 5, 0, 9]), np.array([6, 5, 2, 10])
    of, numbers = D.ranges(starts, ends)
    assert list(zip(of.tolist(), numbers.tolist(), strict=True)) == [(0, 3), (0, 4), (0, 5), (2, 0), (2, 1), (3, 9)]
    assert [len(part) for part in D.ranges(starts[:0], ends[:0])] == [0, 0]


@given(size=st.integers(0, 50), parts=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_split_is_a_partition_in_order(size: int, parts: int) -> None:
    rows = np.arange(size)
    pieces = [D.split(rows, parts, p) for p in range(parts)]
    assert np.concatenate(pieces).tolist() == rows.tolist()
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    a, b = D.Plan(1000, 10, seed=1), D.Plan(1000, 10, seed=1)
    later = b.rows(7, 3)  # asked for out of turn
    assert (a.rows(7, 3) == later).all()
    assert (a.order(0) != a.order(1)).any()
    assert (a.order(0) != D.Plan(1000, 10, seed=2).order(0)).any()
    assert (D.Plan(1000, 10, shuffle=False).order(5) == np.arange(1000)).all()
    assert a.order(0)[:6].tolist() == a.order(0)[:6].tolist()


def test_the_order_is_a_known_one() -> None:
    """Philox's stream is fixed by definition: a checkpoint made elsewhere goes on with the same rows here."""
    expected = np.arange(10, dtype=np.int32)
    np.random.Generator(np.random.Philox(key=D.mix(1, 0))).shuffle(expected)
    assert D.Plan(10, 4, seed=1).order(0).tolist() == expected.tolist()
    assert D.mix(1, 0) != D.mix(0, 1) != D.mix(1, 0, 0)


def test_a_tiny_last_batch_joins_the_one_before() -> None:
    assert [D.Plan(1601, 100).count(0, s) for s in (14, 15)] == [100, 101]
    assert D.Plan(1607, 100).steps(0) == 17
    assert [D.Plan(17, 8).count(0, s) for s in range(D.Plan(17, 8).steps(0))] == [8, 9]  # batch norm refuses one row
    assert D.Plan(18, 8).steps(0) == 3 and D.Plan(1, 8).steps(0) == 1 and D.Plan(3, 1).steps(0) == 3
    with pytest.raises(DataError, match="empty"):
        D.Plan(0, 4)


class Noisy:
    """Rows with augmentation, as an image data set has it."""

    def __init__(self, size: int) -> None:
        self.inner = D.SampleRows(size, lambda row: torch.rand(3) + row, lambda s: {"x": torch.stack(s)}, seed=3)

    def __len__(self) -> int:
        return len(self.inner)

    def fetch(self, rows: np.ndarray, epoch: int) -> D.Batch:
        return self.inner.fetch(rows, epoch)


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_from_the_middle_is_the_rest_of_the_stream(workers: int) -> None:
    plan = D.Plan(23, 5, seed=2)
    whole = D.Loader(Noisy(23), plan, accumulate=2).stream(0, 0)
    steps = [next(whole) for _ in range(3 * plan.steps(0))]
    part = D.Loader(Noisy(23), D.Plan(23, 5, seed=2), accumulate=2, workers=workers).stream(1, 2)
    for expected in steps[plan.steps(0) + 2 :]:
        got = next(part)
        for a, b in zip(expected, got, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert torch.equal(a["x"], b["x"])
    part.close()  # type: ignore[attr-defined]


def test_augmentation_belongs_to_the_row_and_the_epoch() -> None:
    rows = Noisy(10)
    together = rows.fetch(np.array([4, 7]), 1)["x"]
    alone = rows.fetch(np.array([7]), 1)["x"]
    assert torch.equal(together[1:], alone)
    assert not torch.equal(alone, rows.fetch(np.array([7]), 2)["x"])


def test_uniform_is_uniform_and_belongs_to_the_row() -> None:
    draws = D.uniform(5, 1, np.arange(40_000), 4)
    assert draws.dtype == np.float32 and 0 <= draws.min() and draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 8000) ** 2 / 8000).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.02
    assert (D.uniform(5, 1, np.array([17, 3]), 4) == draws[[17, 3]]).all()
    assert (D.uniform(5, 2, np.array([3]), 4) != draws[3]).all()


def test_array_rows_slice_and_refuse_unequal_columns() -> None:
    rows = D.ArrayRows({"ids": np.arange(12).reshape(6, 2), "label": np.arange(6.0, dtype=np.float32)})
    batch = rows.fetch(np.array([5, 0]), 0)
    assert batch["ids"].tolist() == [[10, 11], [0, 1]] and batch["label"].tolist() == [5.0, 0.0]
    with pytest.raises(ValueError, match="differ in length"):
        D.ArrayRows({"a": np.zeros(3), "b": np.zeros(4)})


def test_padded_rows_are_slices_and_zeros() -> None:
    flat = np.arange(1, 8, dtype=np.int32)
    got = D.padded(flat, np.array([0, 3, 3]), np.array([2, 7, 3]))
    assert got.dtype == np.int64 and got.tolist() == [[1, 2, 0, 0], [4, 5, 6, 7], [0, 0, 0, 0]]


def test_eval_batches_give_every_row_once() -> None:
    rows = D.ArrayRows({"i": np.arange(23)})
    for workers in (0, 2):
        got = torch.cat([b["i"] for b in D.eval_batches(rows, 5, workers=workers)])
        assert got.tolist() == list(range(23))
    assert len(list(D.eval_batches(rows, 5, limit=2))) == 2


def test_bad_rows_stop_or_are_counted_up_to_a_limit() -> None:
    with pytest.raises(DataError, match=r"a\.csv:7: text in a number"):
        D.BadRows().add("a.csv", 7, "text in a number")
    bad = D.BadRows("skip", 2)
    assert bad.summary() == ""
    bad.add("a.csv", 7, "x")
    bad.add("a.csv", 9, "y")
    assert "2 bad rows" in bad.summary() and "a.csv:7" in bad.summary()
    with pytest.raises(DataError, match="max_bad_rows=2"):
        bad.add("a.csv", 11, "z")


def test_first_batches_repeat_the_plan_s_own() -> None:
    plan = D.Plan(100, 8, seed=4)
    few = D.FirstBatches(plan, 2)
    assert few.rows(5, 0).tolist() == plan.rows(0, 0).tolist() and few.rows(9, 1).tolist() == plan.rows(0, 1).tolist()
    assert few.steps(3) == 2


class Kinds:
    """Batches of every kind of value, of a size."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return 6

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        wide = torch.from_numpy(rows)[:, None].expand(-1, self.width)
        made = {"float": wide.float(), "bool": wide > 2, "byte": wide.to(torch.uint8).contiguous()}
        made["half"] = wide.bfloat16() if self.width == 3 else wide.half()
        made |= {"empty": torch.zeros(0, 3), "number": wide[0, 0].clone(), "turned": torch.arange(6.0).view(2, 3).t()}
        return {**made, "texts": [str(row) for row in rows], "array": rows}  # what is no tensor stays what it is


@pytest.mark.parametrize("width", [2, 3, 100_000])
def test_workers_hand_over_what_was_fetched(width: int) -> None:
    rows = Kinds(width)
    for got, want in zip(D.eval_batches(rows, 4, workers=1), D.eval_batches(rows, 4), strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            if isinstance(value, torch.Tensor):
                assert got[name].dtype == value.dtype
                assert torch.equal(got[name], value)
                got[name].zero_()  # ours alone, to be written to
            else:
                assert type(got[name]) is type(value) and list(got[name]) == list(value)


class Where(D.ArrayRows):
    """Rows that remember which threads fetched them; a row of -1 cannot be read."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__({"i": np.array(numbers)})
        self.threads: list[threading.Thread] = []

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        self.threads.append(threading.current_thread())
        batch = super().fetch(rows, epoch)
        if (batch["i"] < 0).any():
            raise DataError("a row cannot be read")
        return batch


class Drawing(Where):
    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        return super().fetch(rows, epoch) | {"noise": torch.rand(len(rows))}


def test_without_workers_a_thread_makes_the_next_batches() -> None:
    rows = Where(list(range(40)))
    stream = D.Loader(rows, D.Plan(40, 4, shuffle=False), workers=0).stream(0, 0)
    for step in range(25):
        (batch,) = next(stream)
        assert batch is not None and batch["i"].tolist() == [4 * (step % 10) + i for i in range(4)]
        D.seed_torch(step)  # as a training step does
    first, *others = rows.threads
    assert first is threading.current_thread() and len(set(others)) == 1 and first not in others
    stream.close()
    assert not others[0].is_alive()


def test_rows_that_draw_from_torch_are_made_between_the_steps() -> None:
    """Torch's generator is one for all threads: a step's dropout would depend on when a thread draws from it."""
    drawing = Drawing(list(range(50)))
    stream = D.Loader(D.Subset(drawing, np.arange(40)), D.Plan(40, 4), workers=0).stream(0, 0)
    for _ in range(15):
        next(stream)
    stream.close()
    assert set(drawing.threads) == {threading.current_thread()}


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_awaited() -> None:
    stream = D.Loader(Where([*range(60), -1]), D.Plan(61, 1, shuffle=False), workers=0).stream(0, 0)
    with pytest.raises(DataError, match="a row cannot be read"):
        for _ in range(62):
            next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_what_belongs_to_an_epoch_is_made_once_for_it_and_its_neighbours() -> None:
    made: list[int] = []

    def make(epoch: int) -> int:
        made.append(epoch)
        return 10 * epoch

    of_epoch = D.OfEpoch(make)
    assert [of_epoch(e) for e in (3, 4, 3, 4, 5, 4)] == [30, 40, 30, 40, 50, 40]
    assert made == [3, 4, 5]
    assert of_epoch(3) == 30 and made == [3, 4, 5, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_small_batches_that_come_several_at_a_time_are_in_order(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(D, "_SECONDS", 1e9)  # however busy the machine is
    keys = [(step, np.arange(step % 7)) for step in range(60)]  # every seventh has no rows
    handed = list(D._batches(Kinds(2), iter(keys), workers, False))
    assert [0 if batch is None else len(batch["float"]) for batch in handed] == [step % 7 for step in range(60)]
    memory = [batch["float"].untyped_storage().data_ptr() for batch in handed if batch is not None]
    assert len(set(memory)) < len(memory) / 2  # those of one message lie in one piece


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": -1}, {"on_bad_row": "drop"}, {"eval_batch_size": 0}])
def test_data_module_refuses_impossible_options(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(bad))}"):
        D.DataModule(**bad)  # type: ignore[arg-type]


def test_seed_torch_draws_what_manual_seed_draws() -> None:
    torch.manual_seed(2**62 + 5)
    expected = torch.rand(4)
    D.seed_torch(2**62 + 5)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_nobody_closed_does_not_keep_the_interpreter(workers: int) -> None:
    code = f"""
import os
import signal
import subprocess
import sys

import numpy as np
from paddlecore import data as D

stream = D.Loader(D.ArrayRows({{"i": np.arange(64)}}), D.Plan(64, 4), workers={workers}).stream(0, 0)
print(len(next(stream)), len(next(stream)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 1\n", "")


def test_images_take_the_memory_order_asked_for_and_masks_keep_theirs() -> None:
    batch = {"image": torch.rand(2, 3, 4, 5), "masks": torch.ones(2, 3, 4, 5, dtype=torch.uint8), "size": torch.ones(2)}
    moved = D.to_device(batch, torch.device("cpu"), channels_last=True)
    assert moved["image"].is_contiguous(memory_format=torch.channels_last) and moved["masks"].is_contiguous()


@given(size=st.integers(1, 60), batch=st.integers(1, 20), accumulate=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_micro_batches_have_two_rows_or_more_where_there_are_two(size: int, batch: int, accumulate: int) -> None:
    plan = D.Plan(size, batch)
    stream = D.Loader(D.ArrayRows({"i": np.arange(size)}), plan, accumulate=accumulate).stream(0, 0)
    for step in range(2 * plan.steps(0)):
        epoch, place = divmod(step, plan.steps(0))
        pieces = [b["i"] for b in next(stream) if b is not None]
        assert torch.cat(pieces).tolist() == plan.rows(epoch, place).tolist()
        assert len(pieces) <= accumulate and (len(pieces) == 1 or min(map(len, pieces)) >= 2)


class _Pids:
    """Rows that say which process made them."""

    def __len__(self) -> int:
        return 64

    def fetch(self, rows: np.ndarray, epoch: int) -> D.Batch:
        return {"pid": torch.tensor(os.getpid())}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_process_group_leaves_data_workers_to_the_main_process(number: signal.Signals) -> None:
    stream = D.Loader(_Pids(), D.Plan(64, 2), workers=1).stream(0, 0)
    (batch,) = next(stream)
    assert batch is not None
    worker = int(batch["pid"])
    assert worker != os.getpid()
    os.kill(worker, number)
    for _ in range(20):  # more than are fetched ahead
        (batch,) = next(stream)
        assert batch is not None and int(batch["pid"]) == worker
    stream.close()
