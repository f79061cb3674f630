"""Data: what a DataModule promises, an order that is pure arithmetic, and randomness that knows no workers.

A training batch is a function of (seed, epoch, step). Nothing is replayed on resume and nothing is stored: step 1234 of
epoch 5 is computed. The rows of a step are split over micro-batches and ranks, so the batch is the same on any number.
"""

from __future__ import annotations

import atexit
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from paddlecore import distributed
from paddlecore.errors import DataError
from paddlecore.sources import fingerprint
from paddlecore.task import Batch

if TYPE_CHECKING:
    from PIL import Image


class Rows(Protocol):
    """The rows of one split. `fetch` must depend on its arguments only, since it runs in worker processes, or in a
    thread beside the training step."""

    def __len__(self) -> int: ...

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        """The batch of `rows` [b] int64, in that order. Random augmentation is drawn from (seed, epoch, row) alone."""
        ...


class ArrayRows:
    """Rows that are slices of arrays or memory maps, one array a column, [n, ...] each; no per-row Python."""

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns differ in length: {lengths}")
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        # np.take is about twice as fast as fancy indexing on wide rows
        return {name: torch.from_numpy(np.take(column, rows, axis=0)) for name, column in self.columns.items()}


def padded(flat: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[b, T] int64: row i is `flat[starts[i]:ends[i]]`, filled up on the right with 0 to the longest one's length."""
    lengths = ends - starts
    places = np.arange(lengths.max())
    inside = places < lengths[:, None]  # [b, T]
    rows = np.zeros(inside.shape, np.int64)
    rows[inside] = flat[(starts[:, None] + places)[inside]]
    return rows


def ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """starts[i] .. ends[i] - 1 of each i, one after the other; first, beside each number, its i. Both [n] int64."""
    lengths = ends - starts
    of = np.repeat(np.arange(len(starts)), lengths)
    return of, np.arange(len(of)) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def kind(batch: Batch) -> tuple[Any, ...]:
    """Batches of the same kind can be collated: they have the same fields, and numbers (no ids) of the same shapes."""
    return tuple(
        (name, tuple(value.shape[1:]) if value.is_floating_point() else value.dim())
        if isinstance(value, Tensor)
        else (name,)
        for name, value in sorted(batch.items())
    )


def collated(batches: Sequence[Batch]) -> Batch:
    """Batches of the same kind one after the other; ids are filled up with 0 on the right, in each dimension."""
    return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}


def _joined(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Tensor):
        return [one for value in values for one in value]
    sides = [max(lengths) for lengths in zip(*(value.shape[1:] for value in values), strict=True)]
    if all(list(value.shape[1:]) == sides for value in values):
        return torch.cat(list(values))
    whole = values[0].new_zeros(sum(map(len, values)), *sides)
    for part, value in zip(whole.split([len(value) for value in values]), values, strict=True):
        part[tuple(slice(side) for side in value.shape)] = value
    return whole


class SampleRows:
    """Rows that are made one by one, e.g. decoded and augmented images.

    `sample(row)` returns one sample; it may draw from torch's global generator, which is seeded from (seed, epoch, row)
    before each call, so a sample is the same in any worker, on any rank, after any resume.
    """

    def __init__(
        self, size: int, sample: Callable[[int], Any], collate: Callable[[list[Any]], Batch], seed: int
    ) -> None:
        self.size, self.sample, self.collate, self.seed = size, sample, collate, seed

    def __len__(self) -> int:
        return self.size

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        samples = []
        for row in rows.tolist():
            seed_torch(mix(self.seed, epoch, row))
            samples.append(self.sample(row))
        return self.collate(samples)


_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """One well-spread 63-bit seed from several small numbers (SplitMix64: Steele, Lea, Flood, 2014)."""
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def uniform(seed: int, epoch: int, rows: np.ndarray, draws: int) -> np.ndarray:
    """[b, draws] float32 in [0, 1), random numbers of (seed, epoch, row): for augmenting a whole batch at once."""
    with np.errstate(over="ignore"):
        state: np.ndarray = (
            np.uint64(mix(seed, epoch))
            + (rows.astype(np.uint64)[:, None] * np.uint64(draws))
            + np.arange(draws, dtype=np.uint64)
        )
        state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return ((state >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def seed_torch(seed: int) -> None:
    """`torch.manual_seed` for the CPU, and for GPUs once they are in use.

    Before that, torch's own writes down the whole call stack for each call, which takes as long as a small layer.
    """
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


_Made = TypeVar("_Made")


class OfEpoch(Generic[_Made]):
    """What `make(epoch)` gives, kept for an epoch and the ones beside it: near the end of one, loading already asks for
    the next. Threads may ask at once; at worst it is then made twice."""

    def __init__(self, make: Callable[[int], _Made]) -> None:
        self._make = make
        self._kept: dict[int, _Made] = {}

    def __call__(self, epoch: int) -> _Made:
        found = self._kept.get(epoch)
        if found is None:
            found = self._make(epoch)
            self._kept = {e: kept for e, kept in self._kept.items() if abs(e - epoch) == 1} | {epoch: found}
        return found


class Plan:
    """The order of a split: `rows(epoch, step)` is a pure function of the constructor's arguments.

    A last batch of one row or below 1/16 of `batch_size` joins the one before it: a step on a handful of rows is mostly
    noise, batch norm cannot work on one row, and each rank must get at least one.

    Subclasses with other batches (by length, by session) override `shuffled` or `order` and, where batches are not of
    equal size, `steps`, `rows` and `count`.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int = 0, shuffle: bool = True) -> None:
        if size < 1:
            raise DataError("the training split is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self._orders = OfEpoch(self.shuffled)

    def order(self, epoch: int) -> np.ndarray:
        """[size] the rows of an epoch in order."""
        return self._orders(epoch)

    def shuffled(self, epoch: int) -> np.ndarray:
        """`order`, made anew."""
        # int32 is half the memory; int64, where that is little, is shuffled a quarter faster, to the same order
        order = np.arange(self.size, dtype=np.int32 if 2**20 < self.size < 2**31 else np.int64)
        if self.shuffle:
            # Philox is counter based: its stream for a key is fixed by definition, unlike a platform's default
            np.random.Generator(np.random.Philox(key=mix(self.seed, epoch))).shuffle(order)
        return order

    def steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch."""
        full, rest = divmod(self.size, self.batch_size)
        return full if full and (rest == 1 or 16 * rest < self.batch_size) else full + 1

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """[b] int64: the rows of one whole step (all ranks and micro-batches)."""
        start = step * self.batch_size
        return self.order(epoch)[start : start + self.count(epoch, step)].astype(np.int64)

    def count(self, epoch: int, step: int) -> int:
        """Rows of a step."""
        last = step == self.steps(epoch) - 1
        return self.size - step * self.batch_size if last else self.batch_size


def split(rows: np.ndarray, parts: int, part: int) -> np.ndarray:
    """The `part`-th of `parts` contiguous pieces, nearly equal: the first ones may be longer by one."""
    base, extra = divmod(len(rows), parts)
    start = part * base + min(part, extra)
    return rows[start : start + base + (part < extra)]


def _fetched(rows: Rows, key: tuple[int, np.ndarray]) -> Batch | None:
    epoch, which = key
    return rows.fetch(which, epoch) if len(which) else None


class _Messages(torch.utils.data.Dataset[Any]):
    """Adapter: torch's DataLoader asks for `dataset[keys]`; here that is some pieces of work, (epoch, rows) each.

    A worker hands every tensor over as a file of its own, for which the reader opens a connection: most of a
    millisecond. So a message is one tensor, in which those of its batches lie one behind the other.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitem__(self, keys: list[tuple[int, np.ndarray]]) -> dict[str, Any]:
        started = time.perf_counter()
        batches = [_fetched(self.rows, key) for key in keys]
        size, layouts, others = 0, [], []
        for batch in batches:
            layout = {}
            for name, value in (batch or {}).items():
                if isinstance(value, Tensor):
                    layout[name] = (size, value.nbytes, value.dtype, tuple(value.shape))
                    size += -(-value.nbytes // _ALIGNED) * _ALIGNED
            layouts.append(layout)
            others.append(None if batch is None else {n: v for n, v in batch.items() if n not in layout})
        memory = torch.empty(size, dtype=torch.uint8)
        for batch, layout in zip(batches, layouts, strict=True):
            for name, place in layout.items():
                assert batch is not None
                _view(memory, *place).copy_(batch[name])
        return {"memory": memory, "layouts": layouts, "others": others, "seconds": time.perf_counter() - started}


def _view(memory: Tensor, start: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return memory[start : start + size].view(dtype).view(shape)


# what asks a run to stop, on Windows without SIGUSR1
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
_ALIGNED = 64  # bytes; a line of the cache, and more than any type asks for
_MOST, _BYTES, _SECONDS = 16, 4 << 20, 0.02  # made at a time: batches, their size, and the time it takes
_PATIENCE = 600  # seconds; a worker that fails while it hands a batch over leaves the reader waiting for ever


def _ignore_signals(_: int) -> None:
    # these may reach the whole process group; the main process decides, saves, and then ends its workers
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def _as_it_is(message: Any) -> Any:
    return message


def _together(count: int, size: int, seconds: float) -> int:
    """How many batches to make at a time, where `count` of them had `size` bytes and took so many seconds."""
    return max(int(min(_MOST, count * _BYTES / max(size, 1), count * _SECONDS / max(seconds, 1e-9))), 1)


def _ahead(rows: Rows, keys: Iterator[tuple[int, np.ndarray]]) -> Iterator[Batch | None]:
    """Batches of a thread that makes the next ones while a step computes; most of either runs without Python's lock.

    Torch has one generator for all threads, and a step draws dropout from it, so rows that draw from it as well (or
    seed it) are made between steps. The first batch, made before there is a thread, shows whether they do.
    """
    before = torch.get_rng_state()
    batches = [_fetched(rows, key) for key in itertools.islice(keys, 1)]
    draws = not torch.equal(before, torch.get_rng_state())
    yield from batches
    if draws:
        yield from (_fetched(rows, key) for key in keys)
        return
    together = 1

    def made() -> tuple[list[Batch | None], float]:
        started = time.perf_counter()
        batches = [_fetched(rows, key) for key in itertools.islice(keys, together)]
        return batches, time.perf_counter() - started

    # of the thread alone: a second team of threads for its few operators would only take the step's processors away
    with ThreadPoolExecutor(1, "data", torch.set_num_threads, (1,)) as thread:
        waiting = thread.submit(made)
        while (work := waiting.result())[0]:
            batches, seconds = work
            tensors = (v for batch in batches for v in (batch or {}).values() if isinstance(v, Tensor))
            together = _together(len(batches), sum(tensor.nbytes for tensor in tensors), seconds)
            waiting = thread.submit(made)
            yield from batches


def _batches(rows: Rows, keys: Iterator[tuple[int, np.ndarray]], workers: int, pin: bool) -> Iterator[Batch | None]:
    if workers == 0:
        yield from _ahead(rows, keys)
    else:
        together = 1  # small batches come several at a time, as soon as one has shown what they are like

        def groups() -> Iterator[list[tuple[int, np.ndarray]]]:
            while group := list(itertools.islice(keys, together)):
                yield group

        loader = torch.utils.data.DataLoader(
            _Messages(rows),
            batch_size=None,
            sampler=groups(),
            num_workers=workers,
            collate_fn=_as_it_is,  # torch's own would make tensors of arrays, which a batch has where it means them
            pin_memory=pin,
            worker_init_fn=_ignore_signals,
            prefetch_factor=4,
            timeout=_PATIENCE,
        )
        batches: Any = iter(loader)
        # Where a stream is still open at exit, multiprocessing would send SIGTERM, which workers ignore, and then wait.
        atexit.register(batches._shutdown_workers)
        try:
            for message in batches:
                memory = message["memory"]
                together = _together(len(message["layouts"]), memory.nbytes, message["seconds"])
                for layout, others in zip(message["layouts"], message["others"], strict=True):
                    tensors = {name: _view(memory, *place) for name, place in layout.items()}
                    yield None if others is None else tensors | others
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise DataError(
                f"no data worker gave a batch for {_PATIENCE} s. If stderr shows a worker failing, it may lack shared "
                "memory (in a container: --shm-size); data.workers=0 loads in the training process"
            ) from None
        finally:
            atexit.unregister(batches._shutdown_workers)


class Loader:
    """Training batches for this rank, from any position on, without end."""

    def __init__(self, rows: Rows, plan: Plan, *, accumulate: int = 1, workers: int = 0, pin: bool = False) -> None:
        self.rows, self.plan, self.accumulate, self.workers, self.pin = rows, plan, accumulate, workers, pin

    def stream(self, epoch: int, step: int) -> Generator[list[Batch | None], None, None]:
        """From `step` of `epoch` on: for each optimiser step, this rank's micro-batches, `accumulate` or fewer.

        Fewer where some of a short step's would have one row, on which batch norm cannot work, or not one for each
        rank. A micro-batch is None where a step has fewer rows than there are ranks. The stream goes on over the ends
        of epochs, so that workers never stand still; close it (or drop it) to end them.
        """
        rank, size = distributed.rank(), distributed.world_size()

        def steps() -> Iterator[tuple[int, int]]:
            e, s = epoch, step
            while True:
                yield from ((e, s) for s in range(s, self.plan.steps(e)))
                e, s = e + 1, 0

        def pieces(count: int) -> int:
            return max(min(self.accumulate, count // max(size, 2)), 1)

        def keys() -> Iterator[tuple[int, np.ndarray]]:
            for e, s in steps():
                rows = self.plan.rows(e, s)
                n = pieces(len(rows))
                yield from ((e, split(rows, n * size, micro * size + rank)) for micro in range(n))

        batches = _batches(self.rows, keys(), self.workers, self.pin)
        for e, s in steps():
            yield [next(batches) for _ in range(pieces(self.plan.count(e, s)))]


def eval_batches(rows: Rows, batch_size: int, *, workers: int = 0, limit: int | None = None) -> Iterator[Batch]:
    """Every row once, in order, in batches that take turns over the ranks (rank r has batches r, r + ranks, ...).

    No batch is padded and none repeated, so counts are exact; ranks may have different numbers of batches, so nothing
    in the evaluation loop may be a collective.
    """
    starts = range(0, len(rows), batch_size)
    mine = list(starts)[:limit][distributed.rank() :: distributed.world_size()]
    keys = ((0, np.arange(s, min(s + batch_size, len(rows)))) for s in mine)
    for batch in _batches(rows, keys, min(workers, len(mine)), False):
        assert batch is not None
        yield batch


class FirstBatches(Plan):
    """The first `batches` batches of another plan over and over: a model that cannot overfit them has a bug."""

    def __init__(self, plan: Plan, batches: int) -> None:
        self.plan, self.batches = plan, min(batches, plan.steps(0))
        super().__init__(sum(plan.count(0, s) for s in range(self.batches)), plan.batch_size, shuffle=False)

    def order(self, epoch: int) -> np.ndarray:
        return np.concatenate([self.plan.rows(0, s) for s in range(self.batches)])

    # as the plan has them: batches by tokens differ in their number of rows

    def steps(self, epoch: int) -> int:
        return self.batches

    def rows(self, epoch: int, step: int) -> np.ndarray:
        return self.plan.rows(0, step)

    def count(self, epoch: int, step: int) -> int:
        return self.plan.count(0, step)


class Subset:
    """Some of the rows of another split."""

    def __init__(self, rows: Rows, chosen: np.ndarray) -> None:
        self.base, self.chosen = rows, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        return self.base.fetch(self.chosen[rows], epoch)


class BadRows:
    """What to do with rows that cannot be used: `data.on_bad_row` is `error`, or `skip` up to `max_bad_rows`.

    Readers call `add` for each bad row, and `pass_over` for what is no row at all. Nothing is dropped in silence:
    `summary` says how many, and the first few.
    """

    def __init__(self, on_bad_row: str = "error", max_bad_rows: int = 1000) -> None:
        self.on_bad_row, self.max_bad_rows = on_bad_row, max_bad_rows
        self.count = 0
        self.first: list[str] = []
        self.passed_over: Counter[str] = Counter()  # by ending, or by name where there is none

    def pass_over(self, file: str | Path) -> None:
        """A file or folder that by its name is not of these data, such as Thumbs.db among pictures."""
        self.passed_over[Path(file).suffix.lower() or Path(file).name] += 1

    def add(self, file: str | Path, line: int, why: str) -> None:
        """`line` counts from 1, the header included.

        Raises:
            DataError: in `error` mode, or when more than `max_bad_rows` were skipped.
        """
        where = f"{file}:{line}: {why}"
        if self.on_bad_row == "error":
            raise DataError(f"{where}\n  data.on_bad_row=skip leaves such rows out and counts them")
        self.count += 1
        if len(self.first) < 5:
            self.first.append(where)
        if self.count > self.max_bad_rows:
            shown = "\n  ".join(self.first)
            raise DataError(f"more than data.max_bad_rows={self.max_bad_rows} bad rows; the first:\n  {shown}")

    def summary(self) -> str:
        """Empty if there were none."""
        said = [f"skipped {self.count} bad rows, first: {self.first[0]}"] if self.count else []
        if self.passed_over:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.passed_over.items()))
            said.append(f"passed over what is not of these data by its name: {kinds}")
        return "; ".join(said)


class DataModule:
    """One data set: sizes before the model exists, rows of each split, and the way from raw input to a batch.

    Subclasses write `prepare` (fills what `spec` and `rows` need) and `encode`. Everything learned from data -
    vocabularies, label names, normalisation - is given by `state` and taken by `restore`, travels inside checkpoints
    and artefacts as JSON, and makes `encode` work without the data set.

    Args:
        source: `auto` = the data set's files under PADDLE_DATA; `toy` = generated, same shapes; or a path to own data.
        batch_size: rows of one optimiser step, over all ranks and micro-batches.
        eval_batch_size: rows of one evaluation batch; default: batch_size.
        workers: processes that load data, for each rank; 0 = a thread of the training process.
        on_bad_row: `error`, or `skip` and count.
        max_bad_rows: most rows that `skip` may leave out.
        seed: of order and augmentation; the run's seed by default.
    """

    splits: tuple[str, ...] = ("train", "valid", "test")
    input_endings: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that `predict input=<folder>` takes from a folder; none: inputs are no files."""
    input_options: ClassVar[tuple[str, ...]] = ()
    """Options that decide what the model is given of an input: with other values weights would see other ids, or pixels
    of another brightness. Weights remember them, and are refused with others."""
    vocabulary_state: ClassVar[str] = ""
    """The key of `state` that holds the vocabulary; empty: there is none, or it cannot be learned anew."""
    vocabulary_of: ClassVar[str] = "tokens of these texts"
    """What the vocabulary is of, in a report."""

    def __init__(
        self,
        *,
        source: str = "auto",
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        workers: int = 0,
        on_bad_row: str = "error",
        max_bad_rows: int = 1000,
        seed: int = 1,
    ) -> None:
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"data.on_bad_row must be error or skip, got {on_bad_row!r}")
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", batch_size if eval_batch_size is None else eval_batch_size, 1),
            ("workers", workers, 0),
            ("max_bad_rows", max_bad_rows, 0),
        ):
            if value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        self.source, self.batch_size, self.workers, self.seed = source, batch_size, workers, seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.bad_rows = BadRows(on_bad_row, max_bad_rows)
        self._paths: list[Path] = []  # files that decide the data, or the folder that holds them; none if generated

    @property
    def spec(self) -> dict[str, Any]:
        """Sizes that models and tasks need, by the names of their arguments (num_classes, vocab_size, ...).

        Valid after `prepare` or `restore`.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Find, check and read the data. With several ranks, rank 0 runs it first, so that it may fill a cache."""
        raise NotImplementedError

    def rows(self, split: str) -> Rows:
        """The rows of `train`, `valid` or `test`."""
        raise NotImplementedError

    def plan(self, rows: Rows) -> Plan:
        """The training order of `rows`."""
        return Plan(len(rows), self.batch_size, seed=self.seed)

    def state(self) -> dict[str, Any]:
        """What was learned from the data, as JSON-able values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, or a part of it.

        Called before `prepare` (evaluating, resuming: `prepare` then uses these vocabularies and labels rather than
        learning new ones) or instead of it (predicting). When pretrained weights are fine-tuned on other data, the keys
        `labels` and `examples` are left out, so that class names come from the new data and vocabularies from the
        weights; with init.vocabulary=data that of `vocabulary_state` is left out, too.
        """

    def vocabulary(self) -> list[str]:
        """Tokens in the order of a model's table, those of no text (padding, unknown, ...) included."""
        raise NotImplementedError

    def unknown_share(self) -> float:
        """Share of the training rows' tokens that the vocabulary lacks."""
        raise NotImplementedError

    def bounds(self) -> dict[str, float]:
        """The best value possible of a metric on the test split, where it is known (generated data)."""
        return {}

    def fingerprint(self) -> str:
        """Hash of the data's content, for the card; empty where it is generated."""
        return fingerprint(self._paths) if self._paths else ""

    def encode(self, raw: Any) -> Batch:
        """One raw input (a string, a path, or the dict of a JSON object) -> a batch of one.

        Raises:
            DataError: input that cannot be used, saying why and what is expected.
        """
        raise NotImplementedError

    def collate(self, batches: Sequence[Batch]) -> Batch:
        """What `encode` made of several raw inputs as one batch, those of each in turn; they are of one `kind`."""
        return collated(batches)

    def examples(self) -> Sequence[Any]:
        """A few raw inputs that `encode` takes, for `predict` without input, tests and documentation."""
        raise NotImplementedError

    def picture(self, raw: Any, answer: dict[str, Any]) -> Image.Image:
        """The raw input as a picture, with a prediction (as `Task.render` gives it) or the truth in that form on it."""
        raise DataError(f"{type(self).__name__} has no pictures to draw")

    def sample(self, split: str, row: int) -> tuple[Any, dict[str, Any]]:
        """The raw input of a row of `split`, as `encode` takes it, and its truth in the form of a rendered prediction.

        `picture` draws the two together.
        """
        raise DataError(f"{type(self).__name__} has no pictures to draw")

    def describe(self) -> dict[str, Any]:
        """Statistics that `check-data` prints."""
        sizes = {split: len(self.rows(split)) for split in self.splits}
        return {
            "rows": sizes,
            "spec": {k: v for k, v in self.spec.items() if isinstance(v, (int, float, str))},
            "bad_rows": self.bad_rows.count,
            "skipped": self.bad_rows.first,
            **({"passed_over": dict(self.bad_rows.passed_over)} if self.bad_rows.passed_over else {}),
        }


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch with its tensors on `device`; [B, C, H, W] images in NHWC order where asked for."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(device, non_blocking=True)
        images = channels_last and value.dim() == 4 and value.is_floating_point()  # not a detector's masks
        return value.contiguous(memory_format=torch.channels_last) if images else value

    return {name: move(value) for name, value in batch.items()}
