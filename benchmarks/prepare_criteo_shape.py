"""A click table of Criteo's shape and size: how fast is it prepared, in how much memory, and does training wait for it?

    python benchmarks/prepare_criteo_shape.py                    # 10 M rows: about 2.3 GB of text, 4 GB of columns
    python benchmarks/prepare_criteo_shape.py --rows 1000000 --hash-size 100000
    python benchmarks/prepare_criteo_shape.py --rows 1000000 --gz

Writes raw text as the challenge has it - tabs, no header, empty cells, hexadecimal categories with as many values as
the original's 45.8 M rows have, few of them common - into a temporary folder. Then, each in a process of its own:
preparation (parsing, checking, vocabularies, split, columns on disk), once more with the cache there, and DeepFM's
training from the memory maps. Memory is the process's own (anonymous) at its peak, above what it had before; pages of
mapped files, which the system takes back when it needs them, are not counted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# distinct values of C1..C26 in the whole file, and the share of empty cells of I1..I13 and C1..C26, about
VALUES = [
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
]  # fmt: skip
EMPTY = [45, 0, 21, 22, 3, 22, 4, 0, 4, 45, 4, 76, 22] + [
    0, 0, 3, 3, 0, 12, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 44, 44, 3, 76, 0, 3, 44, 44,
]  # fmt: skip
CHUNK = 200_000  # rows written at a time


def write(path: Path, rows: int, seed: int = 1) -> None:
    """`rows` lines of raw text; value k of a category is about 1 / k as common as the first."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    random = np.random.Generator(np.random.Philox(key=seed))
    digits = np.array([f"{byte:02x}" for byte in range(256)], dtype="S2").view(np.uint16)
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            logit, columns = np.full(count, -1.1), []
            for place, empty in enumerate(EMPTY):
                mask = random.random(count, dtype=np.float32) * 100 < empty
                if place < 13:
                    number = np.exp(np.minimum(3.0 * random.exponential(0.8, count), 14.0)).astype(np.int64) - 1
                    column = pa.array(number, mask=mask)
                else:
                    value = (VALUES[place - 13] ** random.random(count)).astype(np.uint32)
                    mixed = (value + np.uint32(place << 24)) * np.uint32(2654435761)
                    logit += 0.3 * np.where(value < 100, (mixed >> np.uint32(16)) % 7 - 3.0, 0.0) / 3
                    text = digits[mixed.view(np.uint8)].view("S8")
                    column = pa.array(text, mask=mask).cast(pa.string())
                columns.append(column)
            label = pa.array((random.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int8))
            names = [str(i) for i in range(40)]
            pa_csv.write_csv(pa.table([label, *columns], names=names), file, options)


class Memory:
    """The largest anonymous memory of this process while it is open, above that at the start, in MB."""

    def __enter__(self) -> Memory:
        self.first = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def used(self) -> float:
        return (self.peak - self.first) / 1024

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1])
        raise SystemExit("/proc/self/status has no RssAnon: this benchmark is for Linux")


def prepare(options: list[str]) -> dict[str, Any]:
    import pyarrow.csv  # noqa: F401  # loading libraries is not preparing
    import tqdm  # noqa: F401

    from paddlecore import config, run

    data = run._data(config.compose(["recipe=rec/deepfm_criteo", *options]))
    with Memory() as memory:
        started, cpu = time.perf_counter(), time.process_time()
        data.prepare()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "rows": sum(len(data.rows(split)) for split in data.splits),
        "ids": sum(data.spec["vocab_sizes"]),
        "memory_mb": round(memory.used),
    }


def train(options: list[str], steps: int) -> dict[str, Any]:
    from paddlecore import config, run

    return run.bench(config.compose(["recipe=rec/deepfm_criteo", *options]), steps)


def worker(what: str, arguments: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", what, "--steps", str(arguments.steps), "--", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--hash-size", type=int, help="ids of each field by hashing, instead of vocabularies")
    parser.add_argument("--gz", action="store_true", help="write compressed text")
    parser.add_argument("--steps", type=int, default=100, help="training steps that are timed")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--worker", choices=["prepare", "train"], help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="further options of the recipe, after --")
    arguments = parser.parse_args()
    if arguments.worker == "prepare":
        print(json.dumps(prepare(arguments.options)))
        return
    if arguments.worker == "train":
        print(json.dumps(train(arguments.options, arguments.steps)))
        return
    folder = Path(tempfile.mkdtemp(prefix="criteo-shape-", dir=arguments.folder))
    try:
        path = folder / ("train.txt.gz" if arguments.gz else "train.txt")
        started = time.perf_counter()
        write(path, arguments.rows)
        print(f"wrote {arguments.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB, in "
              f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
        options = [f"data.source={path}", f"data.cache={folder / 'cache'}", "device=cpu"]
        options += [f"data.hash_size={arguments.hash_size}"] if arguments.hash_size else []
        options += arguments.options
        load = os.getloadavg()[0]
        first = worker("prepare", arguments, options)
        size = sum(file.stat().st_size for file in folder.rglob("*.npy"))
        print(f"prepared in {first['seconds']} s ({first['cpu_seconds']} s of processor time; load: {load:.1f}), "
              f"{first['rows'] / first['seconds']:,.0f} rows/s, peak of own memory {first['memory_mb']:,} MB, "
              f"{first['ids']:,} ids, {size / 1e6:,.0f} MB of columns", flush=True)  # fmt: skip
        again = worker("prepare", arguments, options)
        print(f"opened again in {again['seconds']} s, {again['memory_mb']:,} MB", flush=True)
        speed = worker("train", arguments, options)
        print(f"trains {speed['examples_per_s']:,.0f} examples/s with {speed['threads']} threads, "
              f"{100 * speed['data_wait']:.1f} % of the time waiting for data", flush=True)  # fmt: skip
        print(json.dumps({"prepare": first, "again": again, "train": speed}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
