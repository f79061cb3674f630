"""An LSTM language model in the sizes of the Penn Treebank recipes, beside a plain PyTorch loop: words a second.

    python benchmarks/language_model.py                                # small and medium, two threads
    python benchmarks/language_model.py --sizes small --threads 1 --cpu-time

`ours` is the project's Trainer, rows and task; `plain` is the loop of the tutorials: the text as a matrix, embedding,
`nn.LSTM`, linear layer, cross-entropy, clipping and SGD, the state carried on detached. Both read the same random words
(10 000 types) and are processes that warm up and then take turns, a window each. An epoch of the Penn Treebank has
929 589 words.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from windows import Contender, Gate, in_turns, our_trainer  # noqa: E402  the folder of this script is on the path

WORDS, EPOCH, STREAMS = 10_000, 929_589, 20
SIZES = {"small": (200, 20, 0.0), "medium": (650, 35, 0.5)}  # width, steps that a gradient goes back, dropout
SIDES = ("plain", "ours", "ours-bf16")
RATE, CLIP = 1.0, 0.25


def text() -> np.ndarray:
    return np.random.default_rng(1).integers(3, WORDS, 400_000)


def ours(size: str, precision: str, gate: Callable[[], None]) -> None:
    from paddlecore.data import Plan
    from paddlenlp.data.ptb import StreamRows
    from paddlenlp.models import LSTMLM
    from paddlenlp.tasks import LanguageModel

    dim, steps, dropout = SIZES[size]
    model = LSTMLM(vocab_size=WORDS, dim=dim, dropout=dropout)
    names = [str(word) for word in range(WORDS)]
    task = LanguageModel(model, vocabulary=names, slots=STREAMS, pad_id=0, end_id=1, unknown_id=2)
    rows = StreamRows(text(), STREAMS, steps)
    section = {"_target_": "torch.optim.SGD", "lr": RATE}
    trainer = our_trainer(task, section, rows, Plan(len(rows), STREAMS, shuffle=False), gate, precision)
    trainer.options.clip_norm = CLIP
    trainer.fit()


def plain(size: str, gate: Callable[[], None]) -> None:
    dim, steps, dropout = SIZES[size]
    embedding, lstm = nn.Embedding(WORDS, dim), nn.LSTM(dim, dim, 2, dropout=dropout)
    output, drop = nn.Linear(dim, WORDS), nn.Dropout(dropout)
    parameters = [p for part in (embedding, lstm, output) for p in part.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    words = torch.from_numpy(text())
    words = words[: len(words) // STREAMS * STREAMS].view(STREAMS, -1).t().contiguous()  # [length, streams]
    while True:
        state = (torch.zeros(2, STREAMS, dim), torch.zeros(2, STREAMS, dim))
        for start in range(0, len(words) - steps - 1, steps):
            gate()
            features, state = lstm(drop(embedding(words[start : start + steps])), state)
            state = (state[0].detach(), state[1].detach())
            logits = output(drop(features)).view(-1, WORDS)
            loss = nn.functional.cross_entropy(logits, words[start + 1 : start + steps + 1].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()


def start(size: str, name: str, given: argparse.Namespace) -> Contender:
    command = [sys.executable, __file__, "--worker", name, "--sizes", size]
    command += ["--threads", str(given.threads), "--seconds", str(given.seconds)]
    return Contender(name, command, threads=given.threads, units=STREAMS * SIZES[size][1], cpu=given.cpu_time)


def measure(size: str, given: argparse.Namespace) -> None:
    running = in_turns((start(size, name, given) for name in SIDES), given.windows)
    for c in running:
        # of windows side by side, so that a slow minute weighs on both
        ratio = statistics.median(a / b for a, b in zip(c.windows, running[0].windows, strict=True))
        rate = statistics.median(c.windows)
        print(f"| {size} | {c.name} | {rate:,.0f} | {EPOCH / rate:,.0f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a machine that is busy")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        torch.set_num_threads(given.threads)
        torch.manual_seed(1)
        gate = Gate(20, given.seconds)
        if given.worker == "plain":
            plain(given.sizes[0], gate)
        else:
            ours(given.sizes[0], "bf16" if given.worker == "ours-bf16" else "fp32", gate)
        return
    print("| size | side | words/s | seconds an epoch | beside plain |")
    print("|---|---|--:|--:|--:|", flush=True)
    for size in given.sizes:
        measure(size, given)
    clock = "processor time" if given.cpu_time else "time passed"
    print(f"\n{given.threads} threads, {clock}, {given.windows} windows of {given.seconds:g} s")


if __name__ == "__main__":
    main()
