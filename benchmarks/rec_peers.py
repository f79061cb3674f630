"""An epoch of SASRec, SR-GNN and LightGCN beside RecBole's: what is learned from, a second.

    python benchmarks/rec_peers.py --python ../peers/bin/python     # an environment with recbole==1.2.1, numpy < 2
    python benchmarks/rec_peers.py --python ../peers/bin/python --models sasrec --threads 1 --cpu-time

Both sides read the same generated interactions from files in their own format and train whole epochs in their own
trainer, loading included, on models of the same sizes: SASRec (2 blocks, width 64, all items in the softmax), SR-GNN
(width 100, one step), LightGCN (3 layers, width 64, BPR with one negative, batches of 2048). A target is an item that a
loss is taken of. RecBole learns a history as one row for each of its prefixes, ours SASRec as one row with a target at
each place: that is a part of the difference. `ours as the recipe has it` is the same epoch with the recipe's own
precision and loss. The processes take turns, an epoch each; the ratio is the median over pairs of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from windows import Contender, in_turns  # noqa: E402  the folder of this script is on the path

SIDES = {"ours": "ours, the same arithmetic", "recipe": "ours as the recipe has it", "recbole": "RecBole"}
USERS, ITEMS = {"sasrec": 1024, "srgnn": 2048, "lightgcn": 3000}, 20_000
MEAN = {"sasrec": 20, "srgnn": 6, "lightgcn": 30}  # items of a user

# Ours: recipe, and what makes it the same model, arithmetic and batch as RecBole's.
RECIPES = {"sasrec": "rec/sasrec_beauty", "srgnn": "rec/srgnn_yoochoose", "lightgcn": "rec/lightgcn_gowalla"}
SAME = {
    "sasrec": ["train.precision=fp32"],
    "srgnn": ["train.precision=fp32", "optim.tables_weight_decay=0", "optim.weight_decay=0"],
    "lightgcn": [
        "train.precision=fp32",
        "task.loss=bpr",
        "task.temperature=1",
        "model.normalise=false",
        "data.in_batch=0",
        "data.negatives=1",
        "data.batch_size=2048",
    ],
}
PEER: dict[str, dict[str, Any]] = {
    "sasrec": {"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 64, "train_batch_size": 2048},
    "srgnn": {"embedding_size": 100, "step": 1, "train_batch_size": 512},
    "lightgcn": {"embedding_size": 64, "n_layers": 3, "train_batch_size": 2048},
}


def histories(model: str) -> list[list[int]]:
    """Items 1..ITEMS of each user, of a long-tailed popularity; a set for LightGCN."""
    random = np.random.default_rng(1)
    lengths = 4 + random.geometric(1 / (MEAN[model] - 4), USERS[model])
    rows = [(1 + ITEMS * random.random(n) ** 3).astype(np.int64).tolist() for n in lengths]
    return [sorted(set(row)) for row in rows] if model == "lightgcn" else rows


def ours(model: str, folder: Path, options: list[str]) -> tuple[int, Callable[[], None]]:
    """Targets of an epoch, and what trains one."""
    import torch

    from paddlecore import config, run
    from paddlecore.cli import keep_freed_memory

    rows = histories(model)
    source = folder
    if model == "sasrec":  # the last two items of each are held out
        source = folder / "histories.txt"
        source.write_text("".join(f"{u} {' '.join(map(str, row))}\n" for u, row in enumerate(rows, start=1)))
    elif model == "srgnn":
        (folder / "train.txt").write_text("".join(f"{' '.join(map(str, row))}\n" for row in rows))
        (folder / "test.txt").write_text("".join(f"{' '.join(map(str, r[:-1]))}\t{r[-1]}\n" for r in rows[:100]))
    else:
        (folder / "train.txt").write_text("".join(f"{u} {' '.join(map(str, r))}\n" for u, r in enumerate(rows)))
        (folder / "test.txt").write_text("".join(f"{u} 1 2\n" for u in range(100)))
    fixed = [f"data.source={source}", "train.max_steps=null", "train.early_stop=null", "train.max_epochs=100000"]
    cfg = config.compose([f"recipe={RECIPES[model]}", "device=cpu", *fixed, *options])
    keep_freed_memory()  # as `train` does
    trainer, data = run.build_trainer(cfg, torch.device("cpu"))
    trainer.valid = None
    size = len(data.rows("train"))
    targets = sum(min(len(row) - 3, 50) for row in rows) if model == "sasrec" else size

    def epoch() -> None:
        trainer.options.max_epochs = trainer.epoch + 1
        trainer.fit()

    return targets, epoch


def recbole(model: str, folder: Path) -> tuple[int, Callable[[], None]]:
    """The same of RecBole's loader, model and trainer."""
    import logging

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed
    from scipy import sparse

    if not hasattr(sparse.dok_matrix, "_update"):  # LightGCN calls it, and newer scipy has it no more
        sparse.dok_matrix._update = lambda matrix, entries: matrix._dict.update(entries)

    name = {"sasrec": "SASRec", "srgnn": "SRGNN", "lightgcn": "LightGCN"}[model]
    rows = histories(model)
    (folder / "made").mkdir()
    lines = [f"{u}\t{i}\t{t}\n" for u, row in enumerate(rows) for t, i in enumerate(row)]
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "made" / "made.inter").write_text(head + "".join(lines))
    section: dict[str, Any] = {
        "data_path": str(folder), "use_gpu": False, "show_progress": False, "save_dataset": False, "seed": 1,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": 50, "state": "ERROR",
        "checkpoint_dir": str(folder), **PEER[model],
    }  # fmt: skip
    if model == "lightgcn":
        section["eval_args"] = {"split": {"RS": [0.98, 0.01, 0.01]}, "group_by": "none", "order": "RO", "mode": "full"}
    else:
        section |= {"loss_type": "CE", "train_neg_sample_args": None}
        section["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}
    sys.argv = sys.argv[:1]  # its Config reads the command line
    config = Config(model=name, dataset="made", config_dict=section)
    logging.disable(logging.CRITICAL)
    init_seed(1, True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    network = get_model(name)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, network)
    passed = iter(range(10**9))
    return len(train.dataset), lambda: trainer._train_epoch(train, next(passed), show_progress=False)


def work(model: str, side: str, threads: int) -> None:
    """A process of one side, as `Contender` runs it: a step is a target, a window an epoch after one not counted."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes where it stands
        if side == "recbole":
            targets, epoch = recbole(model, Path(folder))
        else:
            targets, epoch = ours(model, Path(folder), SAME[model] if side == "ours" else [])
        epoch()
        print("ready", targets, flush=True)
        for _ in sys.stdin:
            passed, processor = time.perf_counter(), time.process_time()
            epoch()
            print("window", time.perf_counter() - passed, time.process_time() - processor, flush=True)


def start(model: str, name: str, given: argparse.Namespace) -> Contender:
    python = given.python if name == "recbole" else sys.executable
    command = [str(python), str(Path(__file__).resolve()), "--worker", name, "--models", model]
    command += ["--threads", str(given.threads)]
    return Contender(name, command, threads=given.threads, units=1, cpu=given.cpu_time)


def measure(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """Epochs of all sides in turns, the table's lines, and the figures."""
    running = in_turns((start(model, name, given) for name in SIDES), given.epochs)
    theirs = running[-1].windows
    result: dict[str, Any] = {"model": model}
    for c in running:
        ratio = statistics.median(a / b for a, b in zip(c.windows, theirs, strict=True))
        result[c.name] = {"median": statistics.median(c.windows), "windows": c.windows, "ratio": ratio}
        print(f"| {model} | {SIDES[c.name]} | {statistics.median(c.windows):,.0f} | {ratio:.2f} |", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that has recbole")
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a machine that is busy")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.models[0], given.worker, given.threads)
        return
    print("| model | side | targets/s | beside RecBole |")
    print("|---|---|--:|--:|", flush=True)
    results = [measure(model, given) for model in given.models]
    clock = "processor time" if given.cpu_time else "time passed"
    print(f"\n{given.threads} threads, {clock}, {given.epochs} epochs each in turns")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
