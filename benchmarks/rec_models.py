"""How fast every model of the recommendation suite trains and scores, on generated data of stated sizes.

    python benchmarks/rec_models.py                                   # a recipe of each model
    python benchmarks/rec_models.py --recipes rec/dcn_frappe rec/sasrec_games
    python benchmarks/rec_models.py --threads 1 --clock cpu           # on a machine that is busy

A recipe runs as it is - its sizes, task, loader, batch and optimiser, in the project's own trainer - but on files that
are written here in the format of its data set. A process each, one after the other: `train` are rows of optimiser steps
a second, loading included, the median of windows after one that is not counted; `waits` is the share of that time for
which the steps wait for data; `score` are rows of the test split that are predicted and measured a second, the median
over passes; `memory` is the most main memory used, less what is there before data and model. Where nothing here writes
a format, the data set's own toy rows are used, and the table says so. Processor time counts one process, so with
`--clock cpu` data are loaded in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paddlecore import config  # noqa: E402

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


# ------------------------------------------------------------------------------------------------------------- data


def ids(random: np.random.Generator, size: int | tuple[int, ...], below: int) -> np.ndarray:
    """Ids in 0..below-1, small ones far more often: the density falls as id^(-2/3)."""
    return (below * random.random(size) ** 3).astype(np.int64)


def lines(path: Path, rows: Iterable[Iterable[object]], separator: str) -> None:
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def frappe(folder: Path) -> str:
    """Ten fields; what they say of the label is nothing, which costs the same."""
    random = np.random.default_rng(1)
    fields = {"user": 957, "item": 4082, "daytime": 7, "weekday": 7, "isweekend": 2, "homework": 3, "cost": 2}
    fields |= {"weather": 9, "country": 80, "city": 233}
    first = np.cumsum([0, *fields.values()])
    for split, rows in (("train", 81_920), ("valid", 100), ("test", 50_000)):
        columns = [first[f] + ids(random, rows, size) for f, size in enumerate(fields.values())]
        table = np.stack([random.integers(0, 2, rows), *columns], 1)
        lines(folder / f"{split}.csv", [["label", *fields], *table.tolist()], ",")
    return "10 fields of 5 382 ids in all"


def sessions(folder: Path) -> str:
    """Lengths from 2 on, 5.5 clicks on average."""
    random = np.random.default_rng(1)
    lengths = 2 + random.geometric(1 / 4.5, 30_000) - 1
    clicks = np.split(ids(random, int(lengths.sum()), 30_000), np.cumsum(lengths)[:-1])
    lines(folder / "train.txt", [c.tolist() for c in clicks[:-3000]], " ")
    rows = (f"{' '.join(map(str, c[:-1].tolist()))}\t{c[-1]}" for c in clicks[-3000:])
    lines(folder / "test.txt", ([row] for row in rows), "")
    return "30 000 items, sessions of 5.5 clicks"


def implicit(folder: Path) -> str:
    """Users with 30 items each."""
    random = np.random.default_rng(1)
    for split, each in (("train", 30), ("test", 8)):
        items = ids(random, (10_000, each), 30_000)
        lines(folder / f"{split}.txt", ([user, *sorted(set(row))] for user, row in enumerate(items.tolist())), " ")
    return "10 000 users, 30 000 items, 30 a user"


def ncf(folder: Path) -> str:
    random = np.random.default_rng(1)
    had = [set(row) for row in ids(random, (6000, 60), 3700).tolist()]
    lines(folder / "train.tsv", ([u, i] for u, row in enumerate(had) for i in sorted(row)), "\t")
    test = random.integers(0, 3700, (6000, 100)).tolist()
    held_out = [next(i for i in itertools.count(row[0]) if i % 3700 not in had[u]) % 3700 for u, row in enumerate(test)]
    lines(folder / "test.negative", ([f"({u},{held_out[u]})", *row[1:]] for u, row in enumerate(test)), "\t")
    return "6 000 users, 3 700 items"


def views(folder: Path) -> str:
    told = ncf(folder)
    random = np.random.default_rng(2)
    lines(folder / "item_map.tsv", ([item, item + 1] for item in range(3700)), "\t")
    titles = ids(random, (3700, 3), 5000).tolist()
    films = ([i, f"{' '.join(map(str, t))} (1999)", "Drama|Comedy"] for i, t in enumerate(titles, start=1))
    lines(folder / "movies.dat", films, "::")
    lines(folder / "users.dat", ([u, "F", 25, u % 21, "-"] for u in range(1, 6001)), "::")
    return f"{told}, their views"


def documents(folder: Path) -> str:
    random = np.random.default_rng(1)
    for split, rows in (("train", 4000), ("test", 1000)):
        words = ids(random, (rows, 100), 20_000).tolist()
        tags = random.integers(0, 50, rows).tolist()
        lines(
            folder / f"{split}.tsv",
            ([f"tag{t}", " ".join(map(str, w))] for t, w in zip(tags, words, strict=True)),
            "\t",
        )
    return "documents of 100 words of 20 000, 50 tags"


def histories(folder: Path, name: str = "histories.txt") -> str:
    random = np.random.default_rng(1)
    lengths = 5 + random.geometric(1 / 15, 10_000)
    rows = ([user, *(1 + ids(random, n, 20_000)).tolist()] for user, n in enumerate(lengths.tolist(), start=1))
    lines(folder / name, rows, " ")
    return "10 000 users, 20 000 items, histories of 20"


def purchases(folder: Path) -> str:
    told = histories(folder, "sequences.txt")
    (folder / "attributes.json").write_text(json.dumps({item: [1 + item % 200] for item in range(1, 20_001)}))
    return f"{told}, 200 categories"


WRITERS: dict[str, Callable[[Path], str]] = {
    "FrappeData": frappe,
    "YoochooseData": sessions,
    "DigineticaData": sessions,
    "GowallaData": implicit,
    "ML1MNCFData": ncf,
    "ML1MViewsData": views,
    "AmazonCtrData": purchases,
    "AmazonGamesData": histories,
    "AmazonS3RecData": histories,
    "TagSpaceData": documents,
}


# ------------------------------------------------------------------------------------------------------------ timing


def recipes() -> list[str]:
    """One recipe of each model, the first by name; toy rows, own tables and raw files only where there is no other."""
    chosen: dict[str, str] = {}
    names = config.list_recipes()
    for name in sorted(names, key=lambda n: (n.endswith(("_toy", "_table", "_criteo", "_avazu")), n)):
        if name.startswith("rec/"):
            chosen.setdefault(config.read_recipe(name)["model"]["_target_"], name)
    return sorted(chosen.values())


def measure(recipe: str, steps: int, windows: int, clock_name: str) -> dict[str, Any]:
    """Runs in a process of its own."""
    import torch

    from paddlecore import run
    from paddlecore.cli import keep_freed_memory

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    clock = CLOCKS[clock_name]
    target = config.read_recipe(recipe)["data"]["_target_"].rpartition(".")[2]
    with tempfile.TemporaryDirectory() as folder:
        write = WRITERS.get(target)
        told, source = (write(Path(folder)), folder) if write else ("its toy rows", "toy")
        written = list(Path(folder).iterdir())
        options = [f"data.source={written[0] if len(written) == 1 else source}", f"train.log_every={steps}"]
        options += ["data.workers=0"] if clock_name == "cpu" else []
        options += [f"train.max_steps={steps * (windows + 1)}", "train.max_epochs=null", "train.early_stop=null"]
        cfg = config.compose([f"recipe={recipe}", "device=cpu", *options])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        keep_freed_memory()  # as `train` does
        trainer, data = run.build_trainer(cfg, torch.device("cpu"))
        marks: list[tuple[float, int]] = []
        waits: list[float] = []

        class Tape:
            def log(self, step: int, epoch: float, kind: str, values: dict[str, Any]) -> None:
                marks.append((clock(), trainer.rows_seen))
                waits.append(values["data_wait"])

        trainer.valid, trainer.journal = None, Tape()  # type: ignore[assignment]
        trainer.fit()
        train = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(marks[:-1], marks[1:], strict=True)]
        rows, score = data.rows(data.splits[-1]), []
        for _ in range(3):
            started = clock()
            trainer.evaluate(rows)
            score.append(len(rows) / (clock() - started))
        return {
            "model": config.read_recipe(recipe)["model"]["_target_"].rpartition(".")[2],
            "data": told,
            "batch": data.batch_size,
            "parameters": sum(p.numel() for p in trainer.task.parameters()),
            "train": statistics.median(train),
            "waits": statistics.mean(waits[1:]),
            "score": statistics.median(score),
            "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=recipes())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: a second is one of processor time")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps of a window")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.steps, given.windows, given.clock)))
        return
    print("| recipe | model | data | batch | parameters | train rows/s | waits | score rows/s | memory MB |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    common = ["--clock", given.clock, "--steps", str(given.steps), "--windows", str(given.windows)]
    for recipe in given.recipes:
        command = [sys.executable, __file__, "--one", recipe, *common]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {recipe} | failed: {' '.join(done.stderr.split()[-40:])} |", flush=True)
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        cells = [f"`{recipe}`", r["model"], r["data"], *(f"{r[k]:,}" for k in ("batch", "parameters"))]
        cells += [f"{r['train']:,.0f}", f"{r['waits']:.1%}", *(f"{r[k]:,.0f}" for k in ("score", "memory"))]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{given.threads} threads, {given.clock} time, {given.windows} windows of {given.steps} steps")


if __name__ == "__main__":
    main()
