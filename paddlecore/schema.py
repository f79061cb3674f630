"""Every option of the engine: name, type, default, meaning and unit, in one place.

The `model`, `task`, `data` and `optim` sections also name a class with `_target_`; their other keys are the
arguments of that class's constructor and are checked against its signature (see `config.py`). This module imports
nothing but the standard library, so that a mistyped option is refused before torch is loaded.
"""

from __future__ import annotations

import operator
from dataclasses import Field, dataclass, field
from typing import Any


def opt(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    unit: str = "",
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its documentation: `choices` the values allowed, `low` the least number allowed, `above`
    and `below` bounds that are not allowed themselves.
    """
    bounds = {words: n for words, n in (("at least", low), ("above", above), ("below", below)) if n is not None}
    meta = {"help": help, "choices": choices, "unit": unit, "bounds": bounds}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


def outside(field: Field[Any], value: Any) -> str | None:
    """Why a number does not suit the bounds of a field; None if it does."""
    holds = {"at least": operator.ge, "above": operator.gt, "below": operator.lt}
    for words, number in field.metadata.get("bounds", {}).items():
        if not holds[words](value, number):
            return f"must be {words} {number}, got {value}"
    return None


@dataclass
class About:
    """What a recipe is; shown by `zoo`, printed on the card, never read by the engine."""

    title: str = opt("", "one line: model and data set")
    paper: str = opt("", "authors, year, title, venue")
    task: str = opt("", "kind of problem, e.g. ctr, image-classification, text-classification")
    dataset: str = opt("", "name of the data set")
    expected: str = opt("", "score to expect, with the metric's name")
    time: str = opt("", "wall time to expect and on what")
    licence: str = opt("", "licence of the data, where it restricts what may be done with the weights")


@dataclass
class Schedule:
    """The learning rate as a factor of each group's `lr`. Steps are optimiser steps, all counted from 0."""

    kind: str = opt(
        "constant",
        "shape after the warm-up",
        choices=("constant", "step", "plateau", "cosine", "linear", "inverse_sqrt"),
    )
    warmup_steps: int = opt(0, "length of a linear warm-up to the full rate", unit="steps", low=0)
    total_steps: int | None = opt(None, "end of cosine and linear; default: the length of the run", unit="steps", low=1)
    every_steps: int | None = opt(None, "step: multiply by `factor` after this many", unit="steps", low=1)
    every_epochs: int | None = opt(None, "step: the same in epochs", unit="epochs", low=1)
    factor: float = opt(0.1, "step and plateau: what the rate is multiplied by", low=0)
    patience: int = opt(0, "plateau: evaluations without improvement that are let pass", unit="evaluations", low=0)
    min_delta: float = opt(0.0, "plateau: an improvement must be larger than this", low=0)
    min_factor: float = opt(0.0, "the factor never falls below this", low=0)


@dataclass
class Optim:
    """Engine keys of the `optim` section; every other key goes to the constructor of `_target_`."""

    _target_: str = opt("torch.optim.AdamW", "optimiser class")
    lr: float = opt(1e-3, "learning rate", low=0)
    schedule: Schedule = field(default_factory=Schedule, metadata={"help": "learning-rate schedule"})
    groups: list[dict[str, Any]] = opt(
        [],
        "parameter groups: {match: glob over parameter names, lr_scale: factor, + optimiser options}; first match wins",
    )
    freeze: list[str] = opt([], "globs of parameter names that are not trained")
    tables: str = opt(
        "dense",
        "update rule of embedding tables: dense = the arithmetic of the optimiser above; rows = touched rows only",
        choices=("dense", "rows"),
    )
    tables_rule: str = opt(
        "adam",
        "rows: adam = lazy Adam with decay of the moments for missed steps; dense_adam = dense Adam's arithmetic, its "
        "steps without a gradient made up for at a row's next lookup; adagrad = row-wise; sgd",
        choices=("adam", "dense_adam", "adagrad", "sgd"),
    )
    tables_weight_decay: float = opt(0.0, "L2 on embedding tables: adds decay * weight to the gradient", low=0)
    tables_decay_rows: str = opt("batch", "rows that the L2 above touches", choices=("batch", "all"))
    phases: dict[str, Any] = opt({}, "options by phase of a task with several (GANs), laid over the ones above")


GROUP_KEYS = {"match": "str", "lr": "float", "lr_scale": "float"}
"""The engine's own keys of a parameter group, and their types."""


@dataclass
class Train:
    """The loop."""

    max_epochs: int | None = opt(10, "stop after this many passes over the data", unit="epochs", low=1)
    max_steps: int | None = opt(None, "stop after this many optimiser steps", unit="steps", low=1)
    accumulate: int = opt(1, "micro-batches per optimiser step; data.batch_size stays the size of the step", low=1)
    precision: str = opt("fp32", "arithmetic of forward and backward", choices=("fp32", "bf16", "fp16"))
    compile: bool = opt(False, "torch.compile the task's model")
    channels_last: bool = opt(False, "NHWC memory format for image batches and convolutions")
    activation_checkpointing: bool = opt(False, "recompute activations of the model's blocks in backward")
    clip_norm: float | None = opt(None, "largest L2 norm of the whole gradient; default: not clipped", above=0)
    ema: float | None = opt(
        None, "decay of an exponential moving average of the weights, used to evaluate", low=0, below=1
    )
    log_every: int = opt(100, "interval of a log line", unit="steps", low=1)
    eval_every: int | None = opt(None, "interval of an evaluation; default: each epoch", unit="steps", low=1)
    save_every: int | None = opt(None, "interval of a checkpoint; default: at each evaluation", unit="steps", low=1)
    keep: int = opt(2, "newest checkpoints kept, beside the best", low=1)
    best_metric: str | None = opt(None, "validation metric that selects the best checkpoint; default: the task's first")
    early_stop: int | None = opt(None, "stop after this many evaluations without a better best_metric", low=1)
    max_eval_batches: int | None = opt(None, "evaluate on this many batches only", unit="batches", low=1)
    deterministic: bool = opt(False, "refuse operators that are not reproducible (slower on a GPU)")
    overfit_batches: int = opt(0, "train and evaluate on the first batches only, over and over", unit="batches", low=0)
    profile: bool = opt(False, "trace steps 10-20 into the run folder and print where the time goes")
    rank_timeout: float = opt(30.0, "a rank that gives no sign for this long is lost", unit="seconds", low=1)
    trackers: list[str] = opt([], "also log to these (extras): wandb, mlflow", choices=("wandb", "mlflow"))


@dataclass
class Init:
    """Where a run starts from."""

    weights: str | None = opt(
        None, "artefact, checkpoint or run folder, a recipe name, or a file of tensors: weights only, with a report"
    )
    into: str = opt("model", "part of the task that a file's or another model's weights are for, e.g. model.backbone")
    vocabulary: str = opt(
        "weights",
        "of texts, tables, sessions: weights = that of the weights; data = a new one; what is in both keeps its vector",
        choices=("weights", "data"),
    )
    average: int = opt(1, "average the weights of this many of a run's last checkpoints (see train.keep)", low=1)
    resume: str = opt("auto", "auto = go on in the run folder if it holds a checkpoint; never; or a run folder")


@dataclass
class RunConfig:
    """One run. `model`, `task` and `data` are checked against the classes they name."""

    recipe: str = opt("", "<suite>/<name>: a file under configs/recipe")
    output_dir: str | None = opt(None, "run folder; default: runs/<recipe>-<hash of what changes the result>")
    seed: int = opt(1, "seed of weights, order, augmentation and dropout", low=0, below=2**63)
    device: str = opt("auto", "auto, cpu, cuda or cuda:<n>")
    debug: str | None = opt(
        None, "smoke = two steps of everything; overfit = one batch; profile", choices=("smoke", "overfit", "profile")
    )
    about: About = field(default_factory=About, metadata={"help": "what the recipe is"})
    model: dict[str, Any] = opt({}, "the network")
    task: dict[str, Any] = opt({}, "loss, metrics, prediction")
    data: dict[str, Any] = opt({}, "where the data comes from and how it is batched")
    optim: dict[str, Any] = opt({}, "optimiser, groups, schedule")
    train: Train = field(default_factory=Train, metadata={"help": "the loop"})
    init: Init = field(default_factory=Init, metadata={"help": "weights and resuming"})

    def __post_init__(self) -> None:
        self.asked: frozenset[str] = frozenset()  # full names of what the command line gave; no option itself
