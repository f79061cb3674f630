"""GRU4Rec training: 30 k items, 100 units, one shared table, 2048 sampled items; events (clicks learned from) a second.

    python benchmarks/gru4rec.py --official ../GRU4Rec_PyTorch_Official      # ours and the authors' PyTorch code
    python benchmarks/gru4rec.py --cases bpr-max:512 --windows 9
    python benchmarks/gru4rec.py --profile --cases cross-entropy:32

`ours` is the project's Trainer, data module and task, loading, sampling and all; `official` is the authors' `fit`, from
a clone of theirs that the user has (https://github.com/hidasib/GRU4Rec_PyTorch_Official), on the same sessions. Its
store of samples is filled before the windows begin, which is to its advantage: it is filled again every few thousand
steps. Both are processes that warm up and then wait; windows are timed in turns, so that both meet the same noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from windows import Contender, Gate, in_turns, our_trainer  # noqa: E402  the folder of this script is on the path

ITEMS, UNITS, SAMPLES, ALPHA, EVENTS, RATE = 30_000, 100, 2048, 0.5, 600_000, 0.05
# least events a second, as a multiple of the official code's
TARGETS = {("cross-entropy", 32): 1.2, ("cross-entropy", 512): 1.4, ("bpr-max", 32): 1.2, ("bpr-max", 512): 1.1}


def sessions() -> tuple[np.ndarray, np.ndarray]:
    """Clicks [n], ids 1..ITEMS of a long-tailed popularity, and offsets; sessions of 2 to 40 clicks, mean 5."""
    random = np.random.default_rng(1)
    lengths = np.minimum(2 + random.geometric(0.25, EVENTS // 4) - 1, 40)
    weight = (np.arange(ITEMS) + 10.0) ** -0.9
    clicks = 1 + np.searchsorted(np.cumsum(weight) / weight.sum(), random.random(lengths.sum()))
    clicks[:ITEMS] = 1 + random.permutation(ITEMS)  # each item at least once
    return np.minimum(clicks, ITEMS), np.concatenate([[0], np.cumsum(lengths)])


def make_trainer(loss: str, batch: int, gate: Callable[[], None]) -> Any:
    """The project's own trainer; `gate` is called before each step."""
    from paddlerec.data.session_parallel import SessionPlan, SessionStreams
    from paddlerec.models import GRU4Rec
    from paddlerec.tasks import SessionParallel

    torch.manual_seed(1)
    model = GRU4Rec(num_items=ITEMS + 1, layers=[UNITS])
    task = SessionParallel(model, slots=batch, loss=loss, regularisation=1.0, elu=0.5)
    section = {"_target_": "torch.optim.Adagrad", "lr": RATE, "tables": "rows", "tables_rule": "adagrad"}
    data = SessionStreams(*sessions(), num_items=ITEMS + 1, slots=batch, samples=SAMPLES, alpha=ALPHA, seed=1)
    return our_trainer(task, section, data, SessionPlan(data), gate)


def official(loss: str, batch: int, gate: Gate, clone: Path) -> None:
    """The authors' `fit`; only its iterator is wrapped, to know when a step begins."""
    sys.path.insert(0, str(clone))
    import gru4rec_pytorch as theirs
    import pandas as pd

    class Gated(theirs.SessionDataIterator):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[Any]:
            for step in super().__iter__():
                if len(step) == 2:  # else it says which sessions have ended
                    gate()
                yield step

    theirs.SessionDataIterator = Gated
    clicks, offsets = sessions()
    of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    data = pd.DataFrame({"SessionId": of, "ItemId": clicks, "Time": np.arange(len(clicks))})
    model = theirs.GRU4Rec(
        layers=[UNITS], loss=loss, batch_size=batch, learning_rate=RATE, sample_alpha=ALPHA, n_sample=SAMPLES,
        constrained_embedding=True, n_epochs=10**6, bpreg=1.0, elu_param=0.5, device=torch.device("cpu"),
    )  # fmt: skip
    model.fit(data, compatibility_mode=False)  # its lines on stdout are passed over by the other side


def start(name: str, case: str, given: argparse.Namespace) -> Contender:
    command = [sys.executable, __file__, "--worker", name, "--cases", case, "--threads", str(given.threads)]
    command += ["--seconds", str(given.seconds), *(["--official", str(given.official)] if given.official else [])]
    return Contender(name, command, threads=given.threads, units=int(case.split(":")[1]), cpu=given.cpu_time)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: windows of both in turns, the table's lines, and the figures."""
    names = ("ours", "official") if arguments.official else ("ours",)
    running = in_turns((start(name, case, arguments) for name in names), arguments.windows)
    result: dict[str, Any] = {"case": case}
    for c in running:
        result[c.name] = {"median": statistics.median(c.windows), "windows": c.windows}
        figures = (result[c.name]["median"], min(c.windows), max(c.windows))
        print(f"  {case:<20} {c.name:<9} {' '.join(f'{f:9,.0f}' for f in figures)}")
    if arguments.official:
        loss, batch = case.split(":")
        # of windows side by side, so that a slow minute weighs on both
        result["ratio"] = statistics.median(a / b for a, b in zip(*(c.windows for c in running), strict=True))
        least = TARGETS.get((loss, int(batch)))
        print(f"  {case:<20} ratio {result['ratio']:.2f}{f', target {least}' if least else ''}")
    return result


def profile(case: str) -> None:
    """Where the time of our step goes, by operator and by Python function."""
    import cProfile
    import pstats

    loss, batch = case.split(":")
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 300:
            raise KeyboardInterrupt

    trainer = make_trainer(loss, int(batch), stop)
    with torch.profiler.profile() as prof, contextlib.suppress(KeyboardInterrupt):
        trainer.fit()
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
    steps = 0
    calls = cProfile.Profile()
    with calls, contextlib.suppress(KeyboardInterrupt):
        trainer.fit()
    pstats.Stats(calls).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[f"{loss}:{batch}" for loss, batch in TARGETS])
    parser.add_argument("--official", type=Path, help="a clone of GRU4Rec_PyTorch_Official")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a machine that is busy")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes; measures nothing")
    parser.add_argument("--worker", choices=("ours", "official"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        loss, batch = arguments.cases[0].split(":")
        gate = Gate(200 if int(batch) < 128 else 60, arguments.seconds)
        if arguments.worker == "ours":
            make_trainer(loss, int(batch), gate).fit()
        else:
            official(loss, int(batch), gate, arguments.official)
    elif arguments.profile:
        for case in arguments.cases:
            profile(case)
    else:
        clock = f"{'processor time' if arguments.cpu_time else 'time passed'}, {arguments.threads} threads"
        print(f"events/s ({clock}): median, slowest, fastest of {arguments.windows} windows")
        results = [measure(case, arguments) for case in arguments.cases]
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
