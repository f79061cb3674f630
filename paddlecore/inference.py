"""What a task says of raw inputs: encoded, put together in batches of like size, rendered, and in their order again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from paddlecore.data import DataModule, kind, to_device
from paddlecore.errors import DataError
from paddlecore.task import Batch, Task

_BATCHES = 16  # that inputs of like size are looked for in ...
_LARGE = 64 << 20  # bytes: ... unless the inputs are larger than that together


def answer(task: Task, data: DataModule, encoded: Sequence[Batch], device: torch.device) -> list[dict[str, Any]]:
    """What the task says of inputs of one kind, in one batch, rendered."""
    task.eval()
    with torch.no_grad():
        return task.render(task.predict(to_device(data.collate(encoded), device)))


def answers(
    task: Task, data: DataModule, raws: Iterable[Any], batch_size: int, device: torch.device
) -> Iterator[tuple[Any, dict[str, Any] | DataError]]:
    """Each raw input and what the task says of it, in order; an error for one that cannot be used.

    Of the next 16 `batch_size` inputs, those of a kind (see `paddlecore.data.kind`) go through the model together,
    sorted by size. Memory: as many encoded inputs; `batch_size` of them if that is more than 64 MiB.
    """
    waiting: list[tuple[Any, Batch | DataError]] = []
    held = 0
    for raw in raws:
        raw, encoded = _encoded(data, raw)
        waiting.append((raw, encoded))
        held += 0 if isinstance(encoded, DataError) else _bytes(encoded)
        if len(waiting) % batch_size == 0 and (held > _LARGE or len(waiting) == _BATCHES * batch_size):
            yield from _answered(task, data, waiting, batch_size, device)
            waiting, held = [], 0
    yield from _answered(task, data, waiting, batch_size, device)


def _encoded(data: DataModule, raw: Any) -> tuple[Any, Batch | DataError]:
    """The input, or its text if it is bytes, and what it is encoded as."""
    if isinstance(raw, bytes):
        return raw.decode(errors="replace"), DataError("the input is not UTF-8 text")
    try:
        return raw, data.encode(raw)
    except DataError as error:
        return raw, error
    except UnicodeEncodeError as error:
        return raw, DataError(f"the text has half of a surrogate pair, which is no character: {error}")


def _answered(
    task: Task, data: DataModule, inputs: Sequence[tuple[Any, Batch | DataError]], batch_size: int, device: torch.device
) -> Iterator[tuple[Any, dict[str, Any] | DataError]]:
    encoded: dict[int, Batch] = {}
    found: dict[int, dict[str, Any] | DataError] = {}
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for place, (_, batch) in enumerate(inputs):
        if isinstance(batch, DataError):
            found[place] = batch
        else:
            encoded[place] = batch
            kinds.setdefault(kind(batch), []).append(place)
    for places in kinds.values():
        places.sort(key=lambda place: _bytes(encoded[place]))
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            rows = answer(task, data, [encoded[place] for place in some], device)
            found |= zip(some, rows, strict=True)
    for place, (raw, _) in enumerate(inputs):
        yield raw, found[place]


def _bytes(batch: Batch) -> int:
    return sum(value.nbytes for value in batch.values() if isinstance(value, Tensor))
