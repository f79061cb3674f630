"""What a person looks at: predictions drawn on their inputs, sheets of annotated samples, the worst of an evaluation.

The data module knows how to draw (`DataModule.picture`, `DataModule.sample`), the task how wrong a row is
(`Task.row_errors`); here is what files come of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddlecore import distributed
from paddlecore.data import DataModule
from paddlecore.files import write_json
from paddlecore.journal import finite
from paddlecore.metric import Metric
from paddlecore.task import Batch, Prediction, Task

if TYPE_CHECKING:
    from PIL import Image

_TILE = 320  # pixels: largest side of a picture on a sheet
_CAPTION = 16  # pixels: height of the line under it
_LETTER = 6  # pixels: width of its letters, on average


def drawable(data: DataModule) -> bool:
    """Whether rows of the data can be drawn with what is said of them."""
    return type(data).sample is not DataModule.sample


def sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Pictures with a line of text under each, on one page, scaled down to fit where they are large."""
    from PIL import Image, ImageDraw

    tiles = []
    for picture, _ in pictures:
        tile = picture.convert("RGB")
        tile.thumbnail((_TILE, _TILE))
        tiles.append(tile)
    longest = min(_TILE, max(_LETTER * len(caption) + 4 for _, caption in pictures))
    width, height = max(longest, *(t.width for t in tiles)), max(t.height for t in tiles) + _CAPTION
    rows = math.ceil(len(tiles) / columns)
    page = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), "white")
    pen = ImageDraw.Draw(page)
    for number, (tile, (_, caption)) in enumerate(zip(tiles, pictures, strict=True)):
        x, y = number % columns * width, number // columns * height
        page.paste(tile, (x, y))
        pen.text((x + 2, y + height - _CAPTION + 1), caption[: width // _LETTER], fill="black")
    return page


def write_prediction(data: DataModule, folder: Path, number: int, raw: Any, answer: dict[str, Any]) -> Path:
    """<folder>/<number>_<name of the input's file>.png and .json: the input with what was predicted, and that alone.

    Inputs that are no files are called `input`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = data.input_endings and isinstance(raw, (str, Path)) and len(str(raw)) < 200
    name = Path(raw).stem if named else "input"
    path = folder / f"{number:05d}_{name}.png"
    data.picture(raw, answer).save(path)
    path.with_suffix(".json").write_text(
        json.dumps({"input": str(raw) if isinstance(raw, Path) else raw, **finite(answer)}, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    return path


def write_samples(data: DataModule, folder: Path, count: int) -> list[Path]:
    """<folder>/<split>.png: `count` rows of each split, evenly spaced over it, with what the data says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split in data.splits:
        size = len(data.rows(split))
        rows = np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)).tolist()
        drawn = [(data.picture(*data.sample(split, row)), f"{split} {row}") for row in rows]
        path = folder / f"{split}.png"
        sheet(drawn, columns=math.ceil(math.sqrt(len(drawn)))).save(path)
        paths.append(path)
    return paths


class Worst:
    """The rows of an evaluation that a task is most wrong about: `add` each batch, then `rows` once, on every rank.

    Memory: two numbers a row of the split, on the rank that saw it.
    """

    def __init__(self, task: Task, batch_size: int) -> None:
        self.task, self.batch_size = task, batch_size
        self._errors: list[torch.Tensor] = []

    def add(self, batch: Batch, prediction: Prediction) -> None:
        # rank r is given the batches r, r + ranks, ... of the split (paddlecore.data.eval_batches)
        start = (len(self._errors) * distributed.world_size() + distributed.rank()) * self.batch_size
        errors = self.task.row_errors(prediction, batch).detach().double().cpu()
        self._errors.append(torch.stack([errors, torch.arange(start, start + len(errors)).double()], 1))

    def rows(self, count: int) -> list[tuple[int, float]]:
        """(row, error) of the `count` worst, worst first; of equal ones the earlier row."""
        own = torch.cat(self._errors) if self._errors else torch.zeros(0, 2, dtype=torch.float64)
        found = distributed.gather_rows(own).tolist()
        found.sort(key=lambda pair: (-math.inf if math.isnan(pair[0]) else -pair[0], pair[1]))
        return [(int(row), error) for error, row in found[:count]]


def write_report(
    folder: Path,
    data: DataModule,
    split: str,
    metrics: Iterable[Metric],
    worst: Sequence[tuple[int, float]],
    answers: Sequence[dict[str, Any]],
) -> list[str]:
    """The figures of `metrics`, and worst.png: the worst rows, what the data says of each beside what was predicted.

    Args:
        worst: (row of `split`, error).
        answers: the rendered prediction for each of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for metric in metrics:
        figure = metric.figure()
        if figure is not None:
            name = f"{type(metric).__name__.lower()}.png"
            figure.savefig(folder / name, dpi=120)
            names.append(name)
    if worst:
        drawn, lines = [], []
        for (row, error), answer in zip(worst, answers, strict=True):
            raw, truth = data.sample(split, row)
            drawn += [
                (data.picture(raw, truth), f"{split} {row}: truth"),
                (data.picture(raw, answer), f"predicted (error {error:.3f})"),
            ]
            lines.append({"row": row, "error": error, "input": raw, "truth": truth, "prediction": answer})
        sheet(drawn, columns=4).save(folder / "worst.png")
        write_json(folder / "worst.json", json.loads(json.dumps(lines, default=str)))
        names += ["worst.png", "worst.json"]
    return names
