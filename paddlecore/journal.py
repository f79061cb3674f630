"""The record of a run: metrics.jsonl, TensorBoard, lines on the terminal, above a bar; W&B and MLflow if asked for.

metrics.jsonl has one JSON object a line: step, epoch, kind (train, eval, test, note) and the values by name; NaN and
infinities stand there as null. When a run resumes, lines after its checkpoint are taken away, so a run that was
stopped and one that was not leave the same record.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddlecore import __version__
from paddlecore.errors import ConfigError
from paddlecore.files import read_object, replacing

_UNITS = ("examples_per_s", "data_wait", "memory_gb", "seconds_left")  # shown in their own way, at the end of a line


class Journal:
    """Where the numbers of a run go. One process writes: rank 0.

    Args:
        folder: run folder, which exists.
        resume_step: step of the checkpoint that the run goes on from; 0 for a new run.
        terminal: show a bar below the lines; default: is stderr a terminal?
        trackers: `wandb`, `mlflow`: also log there.
        run_name: the run's name for those.
        config: the options of the run, for those.
        total_steps: length of the run, for the bar; None shows no end.

    Raises:
        ConfigError: a tracker's package is not installed, or it has no place for the run; says what to do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int = 0,
        terminal: bool | None = None,
        trackers: Sequence[str] = (),
        run_name: str = "",
        config: Mapping[str, Any] | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.folder, self.resume_step = folder, resume_step
        self._sinks: list[_Wandb | _Mlflow] = [_TRACKERS[name](folder, run_name, config or {}) for name in trackers]
        truncate(folder / "metrics.jsonl", resume_step)
        self._file = open(folder / "metrics.jsonl", "a", encoding="utf-8")
        self._tensorboard: Any = None
        self._bar: Any = None
        if sys.stderr.isatty() if terminal is None else terminal:
            from tqdm import tqdm

            self._bar = tqdm(total=total_steps, initial=resume_step, unit="step", dynamic_ncols=True, file=sys.stderr)

    def log(self, step: int, epoch: float, kind: str, values: Mapping[str, Any]) -> None:
        """Record `values` (numbers; for a note also text) at `step`, of `kind` train, eval, test or note.

        Raises:
            OSError: metrics.jsonl cannot be written; names it, also where the disk is full.
        """
        clean = finite(values)
        line = {"step": step, "epoch": epoch, "kind": kind, **clean}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = str(self.folder / "metrics.jsonl")
            raise
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in clean.items()
            if isinstance(value, (int, float)) and name != "seconds_left"
        }
        if numbers:
            if self._tensorboard is None:  # here, since its import takes a second: not before the first step
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.resume_step + 1)
            for name, number in numbers.items():
                self._tensorboard.add_scalar(name, number, step)
            for sink in self._sinks:
                sink.log(numbers, step)
        self._show(step, epoch, kind, values)

    def _show(self, step: int, epoch: float, kind: str, values: Mapping[str, Any]) -> None:
        line = f"{kind:<5} step {step}  epoch {epoch:.2f}  {human(values)}"
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:  # above the bar: behind it, all but the first numbers would be cut off at the terminal's edge
            self._bar.update(max(step - self._bar.n, 0))
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Write out everything and end the trackers' runs."""
        with contextlib.suppress(OSError):  # a line that could not be written: `log` has said so
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._bar is not None:
            self._bar.close()
        for sink in self._sinks:
            sink.close()


class Tape:
    """A journal that keeps what it is told and writes nothing."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, Any]]] = []  # step, kind, values

    def log(self, step: int, epoch: float, kind: str, values: Mapping[str, Any]) -> None:
        self.lines.append((step, kind, dict(values)))

    def of(self, kind: str, name: str) -> list[Any]:
        """The values called `name` in the lines of a kind, in order."""
        return [values[name] for _, k, values in self.lines if k == kind]

    def close(self) -> None:
        pass


def finite(value: Any) -> Any:
    """`value` with None for NaN and infinities, which JSON does not have, also inside of dicts and lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def human(values: Mapping[str, Any]) -> str:
    """Values as one readable line; speed, share of time waiting for data, memory and time left come last."""
    parts = []
    for name, value in values.items():
        if name not in _UNITS:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    if "examples_per_s" in values:
        parts.append(f"{values['examples_per_s']:,.0f} examples/s")
    if "data_wait" in values:
        parts.append(f"data {values['data_wait']:.0%}")
    if "memory_gb" in values:
        parts.append(f"{values['memory_gb']:.2f} GB")
    if "seconds_left" in values:
        left = values["seconds_left"]
        parts.append(f"left {datetime.timedelta(seconds=round(left))}" if math.isfinite(left) else "left ?")
    return "  ".join(parts)


def truncate(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to and with `step`; a last line that was cut short goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a crash
    with replacing(path) as file:
        file.writelines(kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, in order; also while the run is still writing it."""
    lines = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):  # the last one, half written
            if isinstance(value := json.loads(line), dict) and {"step", "kind"} <= value.keys():
                lines.append(value)
    return lines


def plot(folder: Path) -> Path:
    """Draw the training loss and the run's selecting metric over the steps into `folder`/curve.png.

    Raises:
        ConfigError: there is nothing to draw.
        CheckpointError: result.json is damaged.
    """
    path = folder / "metrics.jsonl"
    lines = read_metrics(path) if path.is_file() else []
    losses = [(x["step"], x["loss"]) for x in lines if x["kind"] == "train" and x.get("loss") is not None]
    evals = [x for x in lines if x["kind"] == "eval"]
    if not losses and not evals:
        raise ConfigError(f"{folder} holds no curve: {path} has no train or eval line")
    result_file = folder / "result.json"
    result = read_object(result_file) if result_file.is_file() else {}
    names = [n for x in evals[:1] for n in x if n not in ("step", "epoch", "kind")]
    main = (result.get("best") or {}).get("metric") or next(iter(names), None)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    if losses:
        left.plot(*zip(*losses, strict=True), color="tab:blue")
    left.set(xlabel="step", ylabel="training loss")
    points = [(x["step"], x[main]) for x in evals if main and x.get(main) is not None]
    if points:
        right.plot(*zip(*points, strict=True), marker="o", markersize=3, color="tab:orange", label="validation")
        best_possible = (result.get("best_possible") or {}).get(main)
        if best_possible is not None:
            right.axhline(best_possible, color="tab:gray", linestyle="--", label="best possible")
        right.legend()
    right.set(xlabel="step", ylabel=main or "")
    figure.suptitle(str(result.get("recipe") or folder.name))
    target = folder / "curve.png"
    figure.savefig(target, dpi=120)
    return target


# ---------------------------------------------------------------------------------------------------- trackers


def _extra(package: str, option: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"{option} needs the package {package}: pip install 'paddle-suite[{package}]', or leave {package} out"
        ) from None


@contextlib.contextmanager
def _opening(option: str, failure: type[Exception], remedy: str) -> Iterator[None]:
    """A tracker's own error at the start of a run, in one line with what to do."""
    try:
        yield
    except failure as error:
        raise ConfigError(f"{option}: {str(error).strip().splitlines()[0][:300]}\n  {remedy}") from error


class _Wandb:
    """Weights & Biases. The run's id is kept in the run folder, so that a resumed run goes on in the same page."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        wandb = _extra("wandb", "train.trackers=[wandb]")
        known = folder / "wandb_run.txt"
        run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else None
        remedy = "log in with `wandb login`, or keep the run on this machine with WANDB_MODE=offline"
        with _opening("train.trackers=[wandb]", wandb.Error, remedy):
            self._run = wandb.init(
                project="paddle-suite", name=name, id=run_id, resume="allow", dir=str(folder), config=dict(config)
            )
        known.write_text(self._run.id + "\n", encoding="utf-8")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """MLflow, at MLFLOW_TRACKING_URI or its default; the run's id is kept as above."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self._mlflow = _extra("mlflow", "train.trackers=[mlflow]")
        known = folder / "mlflow_run.txt"
        run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else None
        remedy = (
            "set MLFLOW_TRACKING_URI to a server or a database, e.g. sqlite:///mlflow.db, which needs "
            "pip install 'paddle-suite[mlflow]'"
        )
        with _opening("train.trackers=[mlflow]", self._mlflow.exceptions.MlflowException, remedy):
            if run_id is None:
                self._mlflow.set_experiment("paddle-suite")
            run = self._mlflow.start_run(run_id=run_id, run_name=None if run_id else name)
        known.write_text(run.info.run_id + "\n", encoding="utf-8")
        if run_id is None:
            self._mlflow.log_params({key: str(value)[:500] for key, value in config.items()})  # its limit

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


_TRACKERS: dict[str, type[_Wandb] | type[_Mlflow]] = {"wandb": _Wandb, "mlflow": _Mlflow}


# ---------------------------------------------------------------------------------------------------- environment


def environment() -> dict[str, Any]:
    """What a run ran on, for environment.json and the card: commit, versions, hardware, threads, switches."""
    import torch

    packages = ("numpy", "torch", "torchvision", "pandas", "pyarrow", "hydra-core", "safetensors", "sentencepiece")
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "paddle_suite": __version__,
        "commit": git_commit(Path(__file__).resolve().parent.parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in packages},
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
        "switches": switches(),
    }


def switches() -> dict[str, str]:
    """The environment variables that change what a run does, those that are set."""
    names = ("PADDLE_DATA", "PADDLE_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ[name] for name in names if name in os.environ}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(root: Path) -> str | None:
    """The commit of the checkout at `root`, with `+changes` where tracked files differ from it; None elsewhere."""
    if not (root / ".git").exists():
        return None  # an installed wheel may well lie inside somebody else's checkout
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def cpu_name() -> str:
    for key, value in _proc("/proc/cpuinfo"):
        if key == "model name":
            return value
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The vector and bf16 instructions that decide the speed, of those this CPU has."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
    for key, value in _proc("/proc/cpuinfo"):
        if key in ("flags", "Features"):
            have = set(value.split())
            return [flag for flag in wanted if flag in have]
    return []


def memory_bytes() -> int | None:
    """Main memory that this process may use: the machine's, or the container's limit if that is lower."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # AttributeError: Windows has no sysconf
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(total, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def _proc(path: str) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pairs = [line.partition(":") for line in file]
    except OSError:
        return []
    return [(key.strip(), value.strip()) for key, _, value in pairs]
