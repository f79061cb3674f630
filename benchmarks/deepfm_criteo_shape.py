"""DeepFM on data of Criteo's shape: 13 dense and 26 categorical fields, batch 4096, dim 16, MLP 400x3, Adam.

    python benchmarks/deepfm_criteo_shape.py                        # the whole table, 1 M and 10 M rows
    python benchmarks/deepfm_criteo_shape.py --rows 1000000 --contenders ours-rows-fp32 tutorial
    python benchmarks/deepfm_criteo_shape.py --profile --rows 1000000
    python benchmarks/deepfm_criteo_shape.py --memory --rows 10000000

`ours-*` are the project's Trainer, Loader and model, loading included; the others run as they ship, on the same data.
Each contender is a process of its own that warms up and then waits; windows are timed in turns, one contender at a
time, so that all meet the same noise. A figure is the median over the windows. Peers need not be installed in this
environment: `--python` names the interpreter of one that has them (see README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from windows import Contender, Gate, our_trainer  # noqa: E402  the folder of this script is on the path

FIELDS, DENSE, DIM, HIDDEN, BATCH = 26, 13, 16, (400, 400, 400), 4096
SAMPLES = 60 * BATCH
OURS = {  # name: (optim.tables, optim.tables_rule, train.precision)
    "ours-rows-fp32": ("rows", "adam", "fp32"),
    "ours-rows-bf16": ("rows", "adam", "bf16"),
    "ours-adagrad-fp32": ("rows", "adagrad", "fp32"),
    "ours-dense-fp32": ("dense", "adam", "fp32"),
    "ours-dense-rows-fp32": ("rows", "dense_adam", "fp32"),  # the same arithmetic
}
PEERS = {"fbgemm": "fbgemm_gpu", "deepctr-torch": "deepctr_torch", "recbole": "recbole", "tutorial": "torch"}
REFERENCE = "ours-rows-fp32"  # in each group, so that ratios are always within one alternating run
GROUPS = {  # what stands in memory together; None: all at once
    1_000_000: None,
    10_000_000: [
        ("ours-rows-bf16", "ours-adagrad-fp32", "fbgemm"),
        *[
            ("ours-rows-bf16", "ours-dense-rows-fp32", "ours-dense-fp32", p)
            for p in ("deepctr-torch", "recbole", "tutorial")
        ],
    ],
}
# (contender, against, least ratio) by rows
TARGETS = {
    1_000_000: [
        ("ours-rows-fp32", "fbgemm", 1.25),
        ("ours-adagrad-fp32", "fbgemm", 1.25),  # the same update rule on both sides
        ("ours-rows-bf16", "fbgemm", 2.0),
        *[("ours-dense-fp32", peer, 1.6) for peer in ("deepctr-torch", "recbole", "tutorial")],
    ],
    10_000_000: [
        ("ours-rows-fp32", "fbgemm", 1.1),
        ("ours-adagrad-fp32", "fbgemm", 1.1),
        ("ours-rows-bf16", "fbgemm", 1.5),
        *[(f"ours-rows-{p}", peer, 8.0) for p in ("fp32", "bf16") for peer in ("deepctr-torch", "recbole", "tutorial")],
        *[("ours-dense-rows-fp32", peer, 5.0) for peer in ("deepctr-torch", "recbole", "tutorial")],
    ],
}


def vocab_sizes(rows: int) -> list[int]:
    return [rows // FIELDS + (f < rows % FIELDS) for f in range(FIELDS)]


def columns(rows: int) -> dict[str, np.ndarray]:
    """ids [n, 26] int32, uniform in each field; dense [n, 13] and label [n] float32."""
    random = np.random.default_rng(1)
    ids = (random.random((SAMPLES, FIELDS)) * np.array(vocab_sizes(rows))).astype(np.int32)
    dense = random.standard_normal((SAMPLES, DENSE), dtype=np.float32)
    return {"ids": ids, "dense": dense, "label": (random.random(SAMPLES) < 0.25).astype(np.float32)}


# --------------------------------------------------------------------------------------------------------- contenders


def make_trainer(name: str, rows: int, gate: Callable[[], None]) -> Any:
    """The project's own trainer; `gate` is called before each step."""
    from paddlecore.data import ArrayRows, Plan
    from paddlerec.models import DeepFM
    from paddlerec.tasks import CTR

    tables, rule, precision = OURS[name]
    torch.manual_seed(1)
    task = CTR(DeepFM(vocab_sizes=vocab_sizes(rows), num_dense=DENSE, dim=DIM, hidden=HIDDEN))
    section = {"_target_": "torch.optim.Adam", "lr": 1e-3, "tables": tables, "tables_rule": rule}
    data = ArrayRows(columns(rows))
    return our_trainer(task, section, data, Plan(len(data), BATCH, seed=1), gate, precision)


def ours(name: str, rows: int, gate: Gate) -> None:
    make_trainer(name, rows, gate).fit()


def tutorial(rows: int, gate: Gate) -> None:
    """What is in every introduction: an nn.Embedding a field, DataLoader over TensorDataset, torch.optim.Adam."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = vocab_sizes(rows)
            self.embeddings = nn.ModuleList([nn.Embedding(n, DIM) for n in sizes])
            self.firsts = nn.ModuleList([nn.Embedding(n, 1) for n in sizes])
            self.linear = nn.Linear(DENSE, 1)
            widths = [FIELDS * DIM + DENSE, *HIDDEN]
            layers = [m for a, b in zip(widths[:-1], widths[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
            self.mlp = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))

        def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
            v = torch.stack([e(ids[:, f]) for f, e in enumerate(self.embeddings)], 1)  # [B, F, dim]
            first = torch.cat([e(ids[:, f]) for f, e in enumerate(self.firsts)], 1).sum(1, keepdim=True)
            pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True)
            deep = self.mlp(torch.cat([v.flatten(1), dense], 1))
            return (self.linear(dense) + first + pairs + deep).squeeze(1)

    data = columns(rows)
    ids, dense, label = torch.from_numpy(data["ids"]).long(), torch.from_numpy(data["dense"]), data["label"]
    dataset = torch.utils.data.TensorDataset(ids, dense, torch.from_numpy(label))
    model, loss_of = Net(), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        for ids, dense, y in torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True):
            gate()
            optimizer.zero_grad()
            loss_of(model(ids, dense), y).backward()
            optimizer.step()


def fbgemm(rows: int, gate: Gate) -> None:
    """FBGEMM's fused tables (row-wise Adagrad in backward; it has no Adam on CPUs) under our model and batches.

    Widths must be multiples of 4, so a row is 16 + 1 + 3 unused columns, in one lookup.
    """
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    from paddlecore.data import ArrayRows, Loader, Plan
    from paddlerec.models import DeepFM

    class Fields(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            specs = [(n, DIM + 4, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in vocab_sizes(rows)]
            self.tables = SplitTableBatchedEmbeddingBagsCodegen(
                specs, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=1e-3, eps=1e-8
            )
            self.tables.init_embedding_weights_uniform(-1e-3, 1e-3)
            self.offsets = torch.arange(FIELDS * BATCH + 1)

        def forward(self, ids: Tensor) -> Tensor:  # [B, F] -> [B, F, dim + 1]
            flat = ids.t().reshape(-1).long()
            out = self.tables(flat, self.offsets[: len(flat) + 1])
            return out.view(len(ids), FIELDS, DIM + 4)[..., : DIM + 1]

    model = DeepFM(vocab_sizes=[1] * FIELDS, num_dense=DENSE, dim=DIM, hidden=HIDDEN)
    model.fields = Fields()
    mlp = [p for n, p in model.named_parameters() if not n.startswith("fields")]
    optimizer, loss_of = torch.optim.Adam(mlp, lr=1e-3, fused=True), nn.BCEWithLogitsLoss()
    data = ArrayRows(columns(rows))
    for (batch,) in Loader(data, Plan(len(data), BATCH, seed=1, drop_last=True)).stream(0, 0):
        gate()
        assert batch is not None
        loss_of(model(batch["ids"], batch["dense"]), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()


def deepctr_torch(rows: int, gate: Gate) -> None:
    """DeepCTR-Torch's own `fit`, with its L2 set to 0 (by default it sweeps all tables once more)."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    sparse = [SparseFeat(f"c{f}", n, embedding_dim=DIM) for f, n in enumerate(vocab_sizes(rows))]
    features = [*sparse, *[DenseFeat(f"d{f}") for f in range(DENSE)]]
    model = DeepFM(features, features, dnn_hidden_units=HIDDEN, l2_reg_linear=0, l2_reg_embedding=0)
    model.compile("adam", "binary_crossentropy")
    _gate_step(model.optim, gate)
    data = columns(rows)
    inputs = {f"c{f}": data["ids"][:, f] for f in range(FIELDS)} | {f"d{f}": data["dense"][:, f] for f in range(DENSE)}
    with contextlib.redirect_stdout(sys.stderr):
        model.fit(inputs, data["label"], batch_size=BATCH, epochs=10**6, verbose=0)


def recbole(rows: int, gate: Gate) -> None:
    """RecBole's DeepFM and its training step, on batches of its `Interaction`; it takes no files here."""
    from recbole.config import Config
    from recbole.data.interaction import Interaction
    from recbole.model.context_aware_recommender.deepfm import DeepFM
    from recbole.utils import FeatureSource, FeatureType

    sizes = {f"c{f}": n for f, n in enumerate(vocab_sizes(rows))}
    numbers = [f"d{f}" for f in range(DENSE)]

    class Dataset:  # what the model asks of a data set
        field2type = {**dict.fromkeys(sizes, FeatureType.TOKEN), **dict.fromkeys(numbers, FeatureType.FLOAT)}
        field2type["label"] = FeatureType.FLOAT
        field2source = dict.fromkeys(field2type, FeatureSource.INTERACTION)
        float_like_fields = [*numbers]
        numerical_features = numbers

        def fields(self, source: Any = None, ftype: Any = None) -> list[str]:
            return list(self.field2type)

        def num(self, field: str) -> int:
            return sizes.get(field, 1)

    with contextlib.redirect_stdout(sys.stderr):
        settings = {
            "embedding_size": DIM, "mlp_hidden_size": list(HIDDEN), "dropout_prob": 0.0, "LABEL_FIELD": "label",
            "use_gpu": False, "numerical_features": numbers, "state": "ERROR", "show_progress": False,
        }  # fmt: skip
        config = Config(model="DeepFM", dataset="ml-100k", config_dict=settings)
        config["numerical_features"] = numbers
        config["device"] = torch.device("cpu")
        model = DeepFM(config, Dataset())
    data = columns(rows)
    table = {n: torch.from_numpy(data["ids"][:, f]).long() for f, n in enumerate(sizes)}
    # a number is a pair: value, and bin of the value, here the only one
    values = torch.from_numpy(data["dense"])
    table |= {n: torch.stack([values[:, f], torch.zeros(SAMPLES)], 1) for f, n in enumerate(numbers)}
    whole = Interaction(table | {"label": torch.from_numpy(data["label"])})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    while True:
        order = torch.randperm(SAMPLES)
        for start in range(0, SAMPLES, BATCH):
            gate()
            optimizer.zero_grad()
            model.calculate_loss(whole[order[start : start + BATCH]]).backward()
            optimizer.step()


def _gate_step(optimizer: torch.optim.Optimizer, gate: Gate) -> None:
    step = optimizer.step

    def gated(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        gate()
        return result

    optimizer.step = gated  # type: ignore[method-assign]


def run_contender(name: str, rows: int, gate: Gate) -> None:
    if name in OURS:
        ours(name, rows, gate)
    else:
        {"tutorial": tutorial, "fbgemm": fbgemm, "deepctr-torch": deepctr_torch, "recbole": recbole}[name](rows, gate)


# ------------------------------------------------------------------------------------------------------------- the run


def measure(names: list[str], arguments: argparse.Namespace, rows: int) -> dict[str, list[float]]:
    """Samples a second of each window of each contender, taken in turns."""
    running: list[Contender] = []
    try:
        for name in names:
            python = sys.executable if name in OURS or name == "tutorial" else arguments.python
            print(f"  starting {name}", file=sys.stderr, flush=True)
            try:
                command = [python, __file__, "--worker", name, "--rows", str(rows), "--seconds", str(arguments.seconds)]
                command += ["--threads", str(arguments.threads)]
                running.append(Contender(name, command, threads=arguments.threads, units=BATCH, cpu=arguments.cpu_time))
            except RuntimeError as error:
                print(f"  {name} does not run here:\n{error}", file=sys.stderr)
        for _ in range(arguments.windows):
            for contender in running:
                contender.window()
        return {c.name: c.windows for c in running}
    finally:
        for contender in running:
            contender.close()


def table(arguments: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Measure one size, print the table, return it."""
    wanted = [n for n in arguments.contenders if n in OURS or has(arguments.python, PEERS[n])]
    missing = sorted(set(arguments.contenders) - set(wanted))
    groups = GROUPS.get(rows) or [tuple(wanted)]
    results: list[dict[str, list[float]]] = []
    for group in groups:
        names = [REFERENCE, *[n for n in group if n in wanted and n != REFERENCE]]
        # a group without anything new would only repeat what an earlier one has measured
        if len(names) > 1 and any(n not in r for n in names for r in [set().union(*results)]):
            results.append(measure(names, arguments, rows))
    clock = "processor time" if arguments.cpu_time else "time passed"
    print(f"\n{rows:,} rows: samples/s ({clock}), median of {arguments.windows} windows, {arguments.threads} threads")
    print(f"  {'contender':<20} {'median':>8} {'slowest':>8} {'fastest':>8}  against {REFERENCE}")
    figures: dict[str, dict[str, float]] = {}
    for result in results:
        base = statistics.median(result[REFERENCE])
        for name, windows in result.items():
            if name not in figures:
                median = statistics.median(windows)
                figures[name] = {"median": median, "slowest": min(windows), "fastest": max(windows)}
                print(f"  {name:<20} {median:8,.0f} {min(windows):8,.0f} {max(windows):8,.0f}  {median / base:8.2f}")
    for name in missing:
        print(f"  {name:<20} not installed in {arguments.python}")
    ratios = []
    for name, other, least in TARGETS.get(rows, []):
        both = [r for r in results if name in r and other in r]
        if both:
            ratio = statistics.median(both[0][name]) / statistics.median(both[0][other])
            ratios.append({"contender": name, "against": other, "ratio": round(ratio, 3), "target": least})
            verdict = "ok" if ratio >= least else "BELOW"
            print(f"  {name} / {other} = {ratio:.2f} (target {least}) {verdict}")
    return {"rows": rows, "samples_per_s": figures, "ratios": ratios}


def has(python: str, module: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec(module) is not None
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------- profile and memory


class Clock:
    """Seconds by part, nested calls counted for the inner part only."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._stack: list[float] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started, nested = time.perf_counter(), len(self._stack)
            self._stack.append(0.0)
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.parts[part] = self.parts.get(part, 0.0) + spent - self._stack.pop()
                if nested:
                    self._stack[-1] += spent

        setattr(owner, name, timed)


def floors() -> dict[str, float]:
    """What this machine gives, now: GFLOP/s of a layer's product, GB/s of a copy and of random 64-byte rows."""

    def best(call: Callable[[], Any], times: int = 15) -> float:
        call()
        spent = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        return statistics.median(spent)

    x, w = torch.randn(BATCH, 400), torch.randn(400, 400)
    x16, w16 = x.bfloat16(), w.bfloat16()
    flops = 2 * BATCH * 400 * 400 / 1e9
    large = torch.zeros(2**26)
    other = torch.zeros_like(large)
    return {
        "fp32": flops / best(lambda: x @ w),
        "bf16": flops / best(lambda: x16 @ w16),
        "copy": 2 * large.numel() * 4 / 1e9 / best(lambda: other.copy_(large)),
    }


def profile(name: str, rows: int, steps: int, warm_up: int = 8) -> dict[str, Any]:
    """Where a step's time goes, beside the least that arithmetic and memory traffic take on this machine."""
    from paddlecore import optim, sparse

    machine = floors()
    clock = Clock()

    class Done(Exception):
        pass

    count, started, parts = 0, 0.0, {}

    def gate() -> None:
        nonlocal count, started, parts
        if count == warm_up:
            started, parts = time.perf_counter(), dict(clock.parts)
        if count == warm_up + steps:
            raise Done
        count += 1

    trainer = make_trainer(name, rows, gate)
    optimizer = trainer.optimizers["main"]
    model = trainer.task.model
    clock.wrap(trainer.loader.rows, "fetch", "loading")
    clock.wrap(model.fields, "forward", "gather")
    clock.wrap(trainer.task, "forward", "forward")
    clock.wrap(torch.Tensor, "backward", "backward")
    clock.wrap(sparse, "coalesce", "coalesce")
    for one in optimizer.tables:
        clock.wrap(one, "step" if isinstance(one, optim._RowsTable) else "fill", "table update")
        clock.wrap(one, "clear", "table update")
    clock.wrap(optimizer.optimizer, "step", "dense update")
    for call in ("scale", "collect"):
        clock.wrap(optimizer, call, "scale, collect")
    with contextlib.suppress(Done):
        trainer.fit()
    total = (time.perf_counter() - started) / steps * 1e3
    spent = {part: (seconds - parts.get(part, 0.0)) / steps * 1e3 for part, seconds in clock.parts.items()}
    spent["overhead"] = total - sum(spent.values())
    widths = [FIELDS * DIM + DENSE, *HIDDEN, 1]
    products = 6 * BATCH * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True)) / 1e9
    row = 4 * (DIM + 1) / 1e9 / machine["copy"] * 1e3  # ms to move one row once
    moved = BATCH * FIELDS * row
    table_ms = {"adam": 6, "dense_adam": 8, "adagrad": 2}[OURS[name][1]] * moved
    table_ms = table_ms if OURS[name][0] == "rows" else 7 * rows * row
    precision = OURS[name][2]
    floor = {
        "loading": 4 * BATCH * (FIELDS + DENSE + 1) / 1e9 / machine["copy"] * 2e3,
        "gather": 2 * moved,
        "forward + backward": products / machine[precision] * 1e3,
        "table update": table_ms,
    }
    print(f"\n{name}, {rows:,} rows: {BATCH / total * 1e3:,.0f} samples/s, {total:.1f} ms a step")
    for part, ms in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {part:<20} {ms:8.2f} ms {ms / total:6.1%}")
    print(
        f"  floors here: fp32 {machine['fp32']:.0f} GFLOP/s, bf16 {machine['bf16']:.0f} GFLOP/s, copy "
        f"{machine['copy']:.1f} GB/s"
    )
    for part, ms in floor.items():
        print(f"  {part:<20} at least {ms:8.2f} ms")
    print(f"  {'all':<20} at least {sum(floor.values()):8.2f} ms, i.e. {sum(floor.values()) / total:.0%} of the step")
    return {"contender": name, "rows": rows, "step_ms": total, "parts_ms": spent, "floor_ms": floor, "machine": machine}


def memory(name: str, rows: int) -> dict[str, float]:
    """Peak resident memory of ten steps and a checkpoint beside what the table and its state take."""
    from paddlecore.trainer import peak_memory

    class Done(Exception):
        pass

    count = 0

    def gate() -> None:
        nonlocal count
        if count == 10:
            raise Done
        count += 1

    trainer = make_trainer(name, rows, gate)
    with tempfile.TemporaryDirectory() as folder:
        trainer.folder = Path(folder)
        with contextlib.suppress(Done):
            trainer.fit()
        trainer._save()
    size, number = rows * (DIM + 1) * 4 / 2**30, rows * 4 / 2**30
    tables, rule, _ = OURS[name]
    adam = 2 * size + number
    state = {"adam": adam, "dense_adam": adam, "adagrad": number}[rule] if tables == "rows" else 3 * size
    peak = peak_memory(torch.device("cpu")) / 2**30
    kind, rest = "state" if tables == "rows" else "state and gradient", peak - size - state
    print(f"{name}, {rows:,} rows: peak {peak:.2f} GiB = table {size:.2f} + {kind} {state:.2f} + {rest:.2f}")
    return {"peak": peak, "table": size, "state": state, "rest": rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--contenders", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment that has the peers")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="time the processor, with --threads 1 on a busy machine"
    )
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes")
    parser.add_argument("--steps", type=int, default=30, help="steps that are profiled")
    parser.add_argument("--memory", action="store_true", help="peak memory of our run")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        run_contender(arguments.worker, arguments.rows[0], Gate(6, arguments.seconds))
        return
    names = [n for n in arguments.contenders if n in OURS]
    results: list[Any] = []
    for rows in arguments.rows:
        if arguments.profile:
            results += [profile(name, rows, arguments.steps) for name in names]
        elif arguments.memory:
            # a process each, since the peak is that of a process
            if len(names) == 1:
                results.append(memory(names[0], rows))
            else:
                for name in names:
                    command = [sys.executable, __file__, "--memory", "--rows", str(rows), "--contenders", name]
                    subprocess.run(command, check=True)
        else:
            results.append(table(arguments, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
