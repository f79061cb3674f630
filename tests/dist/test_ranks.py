"""Two ranks are one process: the same step, the same statistics, the same numbers, the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import parts
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from paddlecore import testing
from paddlecore.data import Plan

JOB = str(Path(__file__).with_name("ranks_job.py"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))

import ranks_job  # noqa: E402
from test_trainer import Gan, gan  # noqa: E402


def launch(folder: Path, part: str, ranks: int) -> list[subprocess.CompletedProcess[str]]:
    return testing.launch([JOB, str(folder), part], ranks)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for done in launch(folder, "equal", 2):
        assert done.returncode == 0, done.stderr[-3000:]
        assert "broadcast_buffers" not in done.stderr  # a warning of torch that nobody can act on
    return folder


@pytest.mark.parametrize("name", ranks_job.RUNS)
def test_two_ranks_one_rank_and_accumulation_are_equal(name: str, two_ranks: Path) -> None:
    theirs = load_file(two_ranks / f"{name}.safetensors")
    one = ranks_job.make(name)
    one.fit()
    assert parts.largest_difference(parts.weights(one.task), theirs) < 1e-6
    if "batch_norm" not in name:  # halves have statistics of their own, ranks share theirs
        halves = ranks_job.make(name, accumulate=2)
        halves.fit()
        assert parts.largest_difference(parts.weights(halves.task), theirs) < 1e-6


def test_two_ranks_draw_the_masks_of_two_halves(two_ranks: Path) -> None:
    torch.manual_seed(5)
    halves = parts.trainer(parts.Regression(parts.Net(dropout=0.3)), max_steps=10, accumulate=2)
    halves.fit()
    theirs = load_file(two_ranks / "dropout.safetensors")
    assert parts.largest_difference(parts.weights(halves.task), theirs) < 1e-6


def test_two_phases_on_two_ranks(two_ranks: Path) -> None:
    one = parts.trainer(Gan(gan()), section={"phases": {"judge": {"lr": 0.05}}}, max_steps=10)
    one.fit()
    assert parts.largest_difference(parts.weights(one.task), load_file(two_ranks / "gan.safetensors")) < 1e-6


def test_batch_norm_over_uneven_ranks_is_batch_norm_over_all(two_ranks: Path) -> None:
    theirs = load_file(two_ranks / "bn.safetensors")
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 4, 2), dtype=np.float32)) * 3 + 10
    x.requires_grad_()
    for _ in range(2):
        out = norm(x)
    out.pow(3).sum().backward()
    expected = {"out": out, "grad": x.grad, "weight_grad": norm.weight.grad, "mean": norm.running_mean,
                "var": norm.running_var, "steps": norm.num_batches_tracked}  # fmt: skip
    for name, value in expected.items():
        assert torch.allclose(theirs[name], value, atol=2e-4, rtol=1e-5), name  # type: ignore[arg-type]


def test_metrics_are_reduced_not_averaged(two_ranks: Path) -> None:
    values, theirs, count = json.loads((two_ranks / "metrics.json").read_text())
    random = np.random.default_rng(1)
    scores, labels = random.standard_normal((23, 4), dtype=np.float32), random.integers(0, 4, 23)
    assert count == 23 and theirs == [5, 5]  # rank 1 has batches 1 and 3 of 5
    assert values["acc"] == float((scores.argmax(1) == labels).mean())


@pytest.mark.parametrize("first, second", [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_rows(first: int, second: int, tmp_path: Path) -> None:
    """Stopped in the middle of the second epoch on `first` ranks, resumed on `second`: no row repeated, none lost."""
    for ranks, steps in ((first, 14), (second, 30)):
        for done in launch(tmp_path, str(steps), ranks):
            assert done.returncode == 0, done.stderr[-3000:]
    seen = Counter(
        tuple(map(int, line.split())) for f in tmp_path.glob("rows_*.txt") for line in f.read_text().splitlines()
    )
    plan = Plan(103, 10, seed=5)
    expected = Counter(
        (step // plan.steps(0), int(row))
        for step in range(30)
        for row in plan.rows(step // plan.steps(0), step % plan.steps(0))
    )
    assert seen == expected
    whole = parts.trainer(batch_size=10, max_steps=30)
    whole.fit()
    theirs = load_file(tmp_path / "checkpoints" / "step_00000030" / "model.safetensors")
    assert parts.largest_difference(parts.weights(whole.task), theirs) < 1e-6


def test_one_rank_asked_to_stop_stops_all_at_one_step(tmp_path: Path) -> None:
    done = launch(tmp_path, "stopped", 2)
    assert [d.returncode for d in done] == [75, 75], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    steps = {(tmp_path / f"stopped_{rank}").read_text() for rank in (0, 1)}
    assert len(steps) == 1
    assert (tmp_path / "checkpoints" / f"step_{int(steps.pop()):08d}" / "manifest.json").is_file()
