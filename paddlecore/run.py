"""train, evaluate, predict, check_data, bench: build the parts of a recipe in order, nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore import checkpoint, config, distributed, hub, inference, optim, pictures
from paddlecore.data import DataModule, FirstBatches, Loader, Subset
from paddlecore.errors import CheckpointError, ConfigError, DataError, nearest
from paddlecore.files import read_json, read_object, write_json
from paddlecore.journal import Journal, Tape, environment, finite
from paddlecore.metric import Metric
from paddlecore.optim import LRSchedule
from paddlecore.schema import RunConfig
from paddlecore.signature import signature_of
from paddlecore.task import Task
from paddlecore.trainer import Trainer, peak_memory
from paddlecore.trainer import evaluate as evaluate_task

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def train(cfg: RunConfig) -> dict[str, Any]:
    """Train a recipe, or go on where its run folder stands; return what result.json then holds."""
    with _job(cfg) as device, contextlib.ExitStack() as held:
        if cfg.debug == "smoke" and distributed.rank() == 0:
            print(
                "dry run (debug=smoke): two steps of everything; the scores mean nothing", file=sys.stderr, flush=True
            )
        folder, last = _agreed_folder(cfg, held)
        trainer, data = build_trainer(cfg, device, folder, last)
        if trainer.journal is not None:
            held.callback(trainer.journal.close)
        outcome = trainer.fit()
        result = distributed.on_first(lambda: _finished_result(folder, outcome["step"]))
        return _result(cfg, trainer, data, outcome, folder) if result is None else result


def evaluate(cfg: RunConfig, split: str | None = None, report: Path | None = None, worst: int = 16) -> dict[str, Any]:
    """Score weights (init.weights, else the recipe's own run or artefact); metrics, signatures and rows.

    Args:
        split: by default `test`, or the last one of data that has no test split.
        report: a folder for the metrics' figures and a sheet of the `worst` rows (see `paddlecore.pictures`).
    """
    with _job(cfg) as device:
        task, data, where = _trained(cfg, device, read=True)
        if cfg.train.channels_last:
            task.to(memory_format=torch.channels_last)
        if split is None:
            split = "test" if "test" in data.splits else data.splits[-1]
        elif split not in data.splits:
            raise ConfigError(f"split={split}: these data have {', '.join(data.splits)}{nearest(split, data.splits)}")
        rows = data.rows(split)
        limit, batch_size = cfg.train.max_eval_batches, data.eval_batch_size
        metrics = task.metrics()
        wrong = pictures.Worst(task, batch_size) if report and pictures.drawable(data) else None
        if report and not wrong and all(type(m).figure is Metric.figure for m in metrics):
            raise ConfigError(f"report={report}: {cfg.recipe} has neither figures nor pictures")
        started = time.perf_counter()
        scores = evaluate_task(
            task,
            rows,
            batch_size,
            device=device,
            precision=cfg.train.precision,
            workers=data.workers,
            limit=limit,
            channels_last=cfg.train.channels_last,
            on_batch=wrong.add if wrong else None,
            metrics=metrics,
        )
        result = {
            "recipe": cfg.recipe,
            "weights": str(where),
            **({"average": cfg.init.average} if cfg.init.average > 1 else {}),
            "split": split,
            "rows": len(rows) if limit is None else min(len(rows), limit * batch_size),
            **finite(scores),
            **({"best_possible": data.bounds()} if split == "test" and data.bounds() else {}),
            "signatures": [m.signature for m in metrics],
            "seconds": round(time.perf_counter() - started, 3),
        }
        if report is not None:
            shown = wrong.rows(worst) if wrong else []
            if distributed.rank() == 0:
                samples = (data.encode(data.sample(split, row)[0]) for row, _ in shown)
                answers = [inference.answer(task, data, [sample], device)[0] for sample in samples]
                files = pictures.write_report(report, data, split, metrics, shown, answers)
                result["report"] = [str(report / name) for name in files]
        return result


def predict(
    cfg: RunConfig, inputs: Iterable[Any] | None = None, draw: Path | None = None, batch_size: int | None = None
) -> Iterator[dict[str, Any]]:
    """One dict for each raw input, in order; the data module's own examples where `inputs` is None.

    A folder among the inputs stands for the files in it that the data module can read, hidden ones left out. `draw` is
    a folder for a picture and a JSON file of each. An input that cannot be used is answered by {"input": ...,
    "error": ...}.

    Up to `batch_size` inputs (default: data.eval_batch_size, at most 32) go through the model together; see
    `inference.answers`.

    Raises:
        DataError: at the end, if inputs could not be used, without data.on_bad_row=skip.
    """
    with _job(cfg) as device:
        predictor = Predictor(cfg, device)
        data = predictor.data
        if draw is not None and type(data).picture is DataModule.picture:
            raise ConfigError(f"draw={draw}: {type(data).__name__} has no pictures to draw")
        raws = data.examples() if inputs is None else (raw for given in inputs for raw in _files(data, given))
        number, unusable, first = 0, 0, ""
        for number, (raw, answer) in enumerate(predictor.stream(raws, batch_size), start=1):
            if isinstance(answer, DataError):
                first, unusable = first or str(answer), unusable + 1
                yield {"input": raw, "error": str(answer)}
                continue
            if draw is not None and distributed.rank() == 0:
                pictures.write_prediction(data, draw, number - 1, raw, answer)
            yield {"input": raw, **answer}
        if unusable and data.bad_rows.on_bad_row == "error":
            said = f"{unusable} of {number} inputs cannot be used, the first: " if number > 1 else ""
            raise DataError(f"{said}{first}\n  the answers say so; data.on_bad_row=skip ends without this error")


class Predictor:
    """Trained weights that answer raw inputs, for your own program; made by `load_predictor`.

    Attributes:
        task, data: what the recipe is made of, ready to predict.
    """

    def __init__(self, cfg: RunConfig, device: torch.device) -> None:
        # weights are drawn before they are loaded; the caller's draws go on as if they had not been
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self.task, self.data, _ = _trained(cfg, device, read=False)
        self.device = device

    def __call__(self, *inputs: Any, batch_size: int | None = None) -> list[dict[str, Any]]:
        """One dict for each input, in order; what an input may be says the `encode` of the data module. Up to
        `batch_size` of them (default: data.eval_batch_size, at most 32) go through the model together.

        Raises:
            DataError: an input cannot be used; with data.on_bad_row=skip its answer is {"error": ...} instead.
        """
        answers = []
        for number, (_, answer) in enumerate(self.stream(inputs, batch_size), start=1):
            if isinstance(answer, DataError):
                if self.data.bad_rows.on_bad_row == "error":
                    raise DataError(f"input {number} of {len(inputs)}: {answer}") from answer
                answer = {"error": str(answer)}
            answers.append(answer)
        return answers

    def stream(
        self, inputs: Iterable[Any], batch_size: int | None = None
    ) -> Iterator[tuple[Any, dict[str, Any] | DataError]]:
        """Each of any number of inputs and its answer, in order, while they are read; see `inference.answers`."""
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        size = batch_size or min(self.data.eval_batch_size, 32)
        return inference.answers(self.task, self.data, inputs, size, self.device)


def load_predictor(recipe: str, *options: str) -> Predictor:
    """What `predict` does, with the weights loaded once.

        translate = load_predictor("nlp/transformer_multi30k", "task.beam=8")
        translate("A dog runs.", "Two men sit.")  # [{"translations": [{"text": ..., "score": ...}]}, {...}]

    Args:
        recipe: its name.
        options: as on the command line, e.g. device=cpu, or init.weights=<run, artefact or recipe>; without it the
            weights are those of a run of these options under runs/ if there is one, else the published ones.

    Raises:
        ConfigError, CheckpointError: as on the command line.
    """
    cfg = config.compose([f"recipe={recipe}", *options], verb="predict")
    return Predictor(cfg, distributed.choose(cfg.device))


def _files(data: DataModule, given: Any) -> list[Any]:
    """The input itself, or, where it is a folder and inputs are files, the paths of those in it."""
    if not (data.input_endings and isinstance(given, (str, Path)) and os.path.isdir(given)):
        return [given]
    there = (p for p in Path(given).iterdir() if p.is_file() and not p.name.startswith("."))
    found = sorted(str(p) for p in there if p.suffix.lower() in data.input_endings)
    if not found:
        raise ConfigError(f"input={given}: the folder has no files ending in {', '.join(data.input_endings)}")
    return found


def export_vectors(cfg: RunConfig, folder: Path) -> dict[str, Any]:
    """Write what the task's `export` gives: each tensor as <folder>/<name>.npy, anything else as <name>.json.

    Raises:
        ConfigError: the task has nothing to export.
    """
    with _job(cfg) as device:
        task, _, where = _trained(cfg, device, read=False)
        task.eval()
        with torch.no_grad():
            exported = task.export()
        if not exported:
            raise ConfigError(f"vectors={folder}: {type(task).__name__} has no vectors of items to write")
        shapes = distributed.on_first(lambda: _write_exported(exported, folder))
        return {"recipe": cfg.recipe, "weights": str(where), "folder": str(folder), "files": shapes}


def _write_exported(exported: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """See `export_vectors`. Returns each file's shape or length."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, Any] = {}
    for name, value in exported.items():
        if isinstance(value, torch.Tensor):
            np.save(folder / f"{name}.npy", value.detach().float().cpu().numpy())
            shapes[f"{name}.npy"] = list(value.shape)
        else:
            write_json(folder / f"{name}.json", value)
            shapes[f"{name}.json"] = len(value)
    return shapes


def check_data(cfg: RunConfig, draw: Path | None = None, samples: int = 16) -> dict[str, Any]:
    """Read all the data of a recipe, name what is wrong with it, and return its statistics.

    `draw` is a folder for a sheet of `samples` annotated rows of each split.
    """
    data = _data(cfg)
    if draw is not None and not pictures.drawable(data):
        raise ConfigError(f"draw={draw}: {type(data).__name__} has no samples to draw")
    data.prepare()
    drawn = [str(path) for path in pictures.write_samples(data, draw, samples)] if draw is not None else []
    return {"recipe": cfg.recipe, **data.describe(), **({"drawn": drawn} if drawn else {})}


def bench(cfg: RunConfig, steps: int = 100) -> dict[str, Any]:
    """Training speed of a recipe: the median of five windows after a warm-up, and the share of time waiting for data.

    Writes nothing.
    """
    every = max(steps // 5, 1)
    cfg.train.log_every, cfg.train.max_steps, cfg.train.max_epochs = every, 6 * every, None
    cfg.train.early_stop = None
    tape = Tape()
    with _job(cfg) as device:
        trainer, data = build_trainer(cfg, device)
        trainer.valid, trainer.journal = None, tape
        trainer.fit()
    windows, waits = sorted(tape.of("train", "examples_per_s")[1:]), tape.of("train", "data_wait")[1:]
    return {
        "recipe": cfg.recipe,
        "device": str(device),
        "precision": cfg.train.precision,
        "batch_size": data.batch_size,
        "examples_per_s": windows[len(windows) // 2],
        "slowest": windows[0],
        "fastest": windows[-1],
        "data_wait": sum(waits) / len(waits),
        "memory_gb": tape.of("train", "memory_gb")[-1],
        "threads": torch.get_num_threads(),
    }


# ---------------------------------------------------------------------------------------------------- the parts


@contextlib.contextmanager
def _job(cfg: RunConfig) -> Iterator[torch.device]:
    with contextlib.ExitStack() as after:  # the caller's program goes on as it was
        if cfg.train.deterministic:
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            mode, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
            after.callback(setattr, torch.backends.cudnn, "benchmark", benchmark)
            after.callback(torch.use_deterministic_algorithms, mode, warn_only=warn_only)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield after.enter_context(distributed.job(cfg.device, cfg.train.rank_timeout))


def _data(cfg: RunConfig) -> DataModule:
    data: DataModule = config.build(cfg.data, "data", DataModule, seed=cfg.seed)
    return data


def _prepare(data: DataModule) -> None:
    """Rank 0 first: it may download and fill a cache, which the others then find."""
    distributed.on_first(data.prepare)
    if distributed.rank() != 0:
        data.prepare()
    elif said := data.bad_rows.summary():
        print(f"warning: {said}", file=sys.stderr, flush=True)


def _trained(cfg: RunConfig, device: torch.device, *, read: bool) -> tuple[Task, DataModule, Path]:
    """Task and data of finished weights, and where those are; `read`: the data set itself is needed."""
    where = _weights(cfg)
    artefact = hub.read_weights(where, cfg.init.average)
    cfg.data = _as_trained(cfg, artefact, "data")
    theirs, ours = ((section or {}).get("_target_", "") for section in (artefact.recipe.get("data"), cfg.data))
    if not read and theirs and theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
        raise ConfigError(f"the weights in {artefact.path} are of {theirs}, and this recipe reads input as {ours} does")
    data = _data(cfg)
    if not read and data.vocabulary_state and not artefact.data_state:
        raise ConfigError(
            f"{artefact.path} holds weights alone, and their vocabulary is needed, too: name their run, checkpoint or "
            "artefact folder"
        )
    _restore(data, artefact)
    if read:
        _prepare(data)
    for name in ("model", "task"):
        setattr(cfg, name, _as_trained(cfg, artefact, name, data.spec))
    task = _task(cfg, data)
    load_exact(task, artefact, artefact.path, cfg.init.into)
    task.to(device).for_inference(cfg.train.precision, cfg.train.channels_last)
    return task, data, artefact.path


_LOADING = ("workers", "eval_batch_size")  # options of the machine, whatever the weights


def _as_trained(cfg: RunConfig, artefact: hub.Artefact, name: str, spec: Container[str] = ()) -> dict[str, Any]:
    """The section `name` of `cfg`, but what this recipe's weights were trained with where nobody asks for other values.

    Many options change no tensor's shape - heads, anchors, the size of images, which rows are held out: with the
    recipe's values such weights load, and give other answers, or are scored on rows that they know. `spec` are sizes,
    which follow from the data.
    """
    here: dict[str, Any] = getattr(cfg, name)
    if artefact.recipe.get("recipe") != cfg.recipe:
        return here
    made = {key: value for key, value in artefact.recipe[name].items() if key not in spec and key not in _LOADING}
    if artefact.card:  # which does not tell where the data were
        made.pop("source", None)
    own = config.read_recipe(cfg.recipe).get(name) or {}
    given = {option.split(".")[1] for option in cfg.asked if option.startswith(f"{name}.")}
    asked = {key: value for key, value in here.items() if key in given or value != own.get(key, ...)}
    if made["_target_"].rpartition(".")[2] == here["_target_"].rpartition(".")[2]:
        signature = signature_of(here["_target_"])  # weights may be older, with options that are gone
        made = {key: value for key, value in made.items() if signature.open or key in signature}
        made["_target_"] = here["_target_"]
    elif "_target_" in asked:
        return here
    else:
        here = {}  # the recipe's options are of another class
    section = here | made | asked
    # weights tell these even where they were left at their defaults
    always = getattr(config.load_class(section["_target_"], name), "input_options", ())
    new = {k: v for k, v in section.items() if v != here.get(k, ...) and (k in here or k not in always)}
    if taken := [f"{name}.{key}={config.as_option(value)}" for key, value in new.items()]:
        print(f"as {artefact.path} was trained: {' '.join(taken)}", file=sys.stderr, flush=True)
    return section


def _restore(data: DataModule, artefact: hub.Artefact, without: Sequence[str] = ()) -> None:
    """Take over what the data of these weights have learned, but for the keys `without`.

    Raises:
        ConfigError: the weights were made with other options than those of `data`, or on data of which it can take over
            nothing.
    """
    made = artefact.recipe.get("data") or {}
    for name in () if data.vocabulary_state in without else data.input_options:
        here = getattr(data, name)
        if (there := made.get(name, here)) != here:
            shown, wanted = (f"data.{name}={str(value).lower()}" for value in (here, there))
            raise ConfigError(f"{shown}, but the weights in {artefact.path} were made with {wanted}; give that")
    try:
        data.restore({k: v for k, v in artefact.data_state.items() if k not in without})
    except (KeyError, TypeError, ValueError) as error:
        theirs, ours = str(made.get("_target_")), type(data).__name__
        if theirs.rpartition(".")[2] == ours:
            raise
        raise ConfigError(
            f"the weights in {artefact.path} are of {theirs}, and {ours} cannot take over what that learned; to start "
            "from the tensors alone, copy model.safetensors out of that folder and name the copy"
        ) from error


def _fine_tuned(cfg: RunConfig, task: Task, data: DataModule, pretrained: hub.Artefact) -> str:
    """Load what fits of pretrained weights; the report, and how far the two vocabularies agree."""
    state, said = pretrained.state_dict, ""
    if cfg.init.vocabulary == "data":
        other = config.build(pretrained.recipe["data"], "data", DataModule)  # of tables: with their columns
        other.restore(pretrained.data_state)
        before, after = other.vocabulary(), data.vocabulary()
        state = hub.by_token(task, state, before, after)
        both = len(set(before).intersection(after))
        said = (
            f"\nvocabulary: {both:,} of {len(after):,} tokens are also in that of the weights; the others start afresh"
        )
    elif data.vocabulary_state in pretrained.data_state and (share := data.unknown_share()):
        said = (
            f"\nvocabulary: {share:.1%} of the {data.vocabulary_of} are not in that of the weights; "
            "init.vocabulary=data makes a new one"
        )
    return f"{hub.load_state(task, state, into=cfg.init.into)}{said}"


def _task(cfg: RunConfig, data: DataModule) -> Task:
    torch.manual_seed(cfg.seed)
    model = config.build(cfg.model, "model", torch.nn.Module, **data.spec)
    task: Task = config.build(cfg.task, "task", Task, model=model, **data.spec)
    return task


def build_trainer(
    cfg: RunConfig, device: torch.device, folder: Path | None = None, last: Path | None = None
) -> tuple[Trainer, DataModule]:
    """Every part of a training run. `folder` None writes nothing; `last` is the checkpoint to go on from."""
    data = _data(cfg)
    pieces = cfg.train.accumulate * distributed.world_size()
    if data.batch_size < pieces:
        raise ConfigError(
            f"data.batch_size={data.batch_size} cannot be split over train.accumulate={cfg.train.accumulate} x "
            f"{distributed.world_size()} ranks; it is the size of the whole step"
        )
    pretrained = None
    if last is not None:
        data.restore(read_json(last / "data.json")["state"])
    elif cfg.init.weights is not None:
        pretrained = hub.read_weights(cfg.init.weights, cfg.init.average)
        if (anew := cfg.init.vocabulary == "data") and data.vocabulary_state not in pretrained.data_state:
            raise ConfigError(
                f"init.vocabulary=data: {pretrained.path} has no vocabulary that {type(data).__name__} could make anew"
            )
        _restore(data, pretrained, without=("labels", "examples", *([data.vocabulary_state] if anew else [])))
    _prepare(data)
    task = _task(cfg, data)
    if pretrained is not None:
        report = _fine_tuned(cfg, task, data, pretrained)
        if distributed.rank() == 0:
            print(f"init.weights={cfg.init.weights}\n{report}", file=sys.stderr, flush=True)
    task.to(device)

    rows = data.rows("train")
    plan = data.plan(rows)
    valid = data.rows("valid") if "valid" in data.splits else None
    if cfg.train.overfit_batches:
        plan = FirstBatches(plan, cfg.train.overfit_batches)
        valid = Subset(rows, plan.order(0))
    loader = Loader(rows, plan, accumulate=cfg.train.accumulate, workers=data.workers, pin=device.type == "cuda")
    optimizers = {phase: optim.build(task, cfg.optim, phase, globs) for phase, globs in task.phases.items()}
    per_epoch = plan.steps(0)
    ends = [cfg.train.max_steps, cfg.train.max_epochs and cfg.train.max_epochs * per_epoch]
    total = min((e for e in ends if e is not None), default=None)
    schedules = {
        phase: LRSchedule(optim.laid_over(cfg.optim, phase)["schedule"], total, per_epoch) for phase in task.phases
    }
    trainer = Trainer(
        task,
        optimizers,
        schedules,
        loader,
        cfg.train,
        device=device,
        seed=cfg.seed,
        folder=folder,
        resume_from=last,
        valid=valid,
        eval_batch_size=data.eval_batch_size,
        journal=_journal(cfg, folder, last, total) if folder is not None else None,
        records=_records(cfg, data),
        fingerprint=data.fingerprint(),
    )
    return trainer, data


def _records(cfg: RunConfig, data: DataModule) -> dict[str, Any]:
    """What a checkpoint holds beside weights: the data's state, and the recipe with the sizes it was built with."""
    return {
        "data": {"_target_": cfg.data["_target_"], "state": data.state()},
        "recipe": {
            "recipe": cfg.recipe,
            "model": config.resolved(cfg.model, "model", **data.spec),
            "task": config.resolved(cfg.task, "task", **data.spec),
            # those options by which weights are refused stand there even where they were left at their defaults
            "data": {**cfg.data, **{name: getattr(data, name) for name in data.input_options}},
            "identity": config.identity(cfg),
        },
    }


def _journal(cfg: RunConfig, folder: Path, last: Path | None, total: int | None) -> Journal | None:
    """The run folder with its journal, from the checkpoint `last` on; a new one also says how it was made. Rank 0's."""
    opened: list[Journal] = []

    def begin() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        step = int(last.name[5:]) if last is not None else 0
        if _result_of(folder).get("steps", 0) > step:  # its weights are gone; those of this run will have their own
            (folder / "result.json").unlink()
        if last is None:
            (folder / "run_config.yaml").write_text(config.dump(cfg), encoding="utf-8")
            write_json(folder / "environment.json", environment())
        journal = Journal(
            folder,
            resume_step=step,
            trackers=cfg.train.trackers,
            run_name=folder.name,
            total_steps=total,
            config=config.flatten(cfg),
        )
        opened.append(journal)

    distributed.on_first(begin)
    return opened[0] if opened else None


# ---------------------------------------------------------------------------------------------------- the folder


def _agreed_folder(cfg: RunConfig, held: contextlib.ExitStack) -> tuple[Path, Path | None]:
    """The run folder, kept from other jobs while `held` is open, and the checkpoint to go on from. Rank 0 decides:
    others may see a network disk a little later.
    """

    def decide() -> tuple[Path, Path | None]:
        folder = _run_folder(cfg)
        held.enter_context(_locked(folder))
        return folder, _last_checkpoint(cfg, folder)

    return distributed.on_first(decide)


def _run_folder(cfg: RunConfig) -> Path:
    """The folder of this run, which need not exist.

    Raises:
        ConfigError: options that contradict each other, or a folder that they do not allow.
    """
    if cfg.init.resume not in ("auto", "never"):
        folder = Path(cfg.init.resume)
        if not (folder / "checkpoints").is_dir():
            raise ConfigError(f"init.resume={cfg.init.resume} is not a run folder (it has no checkpoints/)")
        if cfg.output_dir is not None and Path(cfg.output_dir).resolve() != folder.resolve():
            raise ConfigError(
                f"init.resume={cfg.init.resume} goes on in that folder, so output_dir={cfg.output_dir} cannot be "
                "another; leave one of the two out, or take weights alone with init.weights"
            )
        return folder
    folder = Path(cfg.output_dir or config.default_run_dir(cfg))
    if cfg.init.resume == "auto" or not checkpoint.steps(folder / "checkpoints"):
        return folder
    if cfg.output_dir is not None:
        raise ConfigError(f"init.resume=never, but output_dir={folder} already holds a run; give another folder")
    number = 2
    while checkpoint.steps(Path(f"{folder}-{number}") / "checkpoints"):
        number += 1
    return Path(f"{folder}-{number}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make `folder` and keep it from other jobs, by a lock that the kernel lifts however this process ends.

    The lock is POSIX's, of this process alone: flock's would be inherited by data workers, which outlive a killed
    process by seconds. Where the file system has no locks, a warning says so.

    Raises:
        ConfigError: another process trains into the folder, or it cannot be made.
    """
    path = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", buffering=0)
    except OSError as error:
        raise ConfigError(f"output_dir={folder} cannot be made: {error.strerror}") from None
    with file:
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "the system has no POSIX locks")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = path.read_text(encoding="utf-8", errors="replace").strip() or "which is just starting"
                raise ConfigError(
                    f"another process trains into {folder} ({holder}); wait until it has ended, or give another "
                    "output_dir"
                ) from None
            print(
                f"warning: {folder} cannot be locked ({error.strerror}); see that no other process trains into it",
                file=sys.stderr,
                flush=True,
            )
        with contextlib.suppress(OSError):  # a full disk: saving will say so
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def _last_checkpoint(cfg: RunConfig, folder: Path) -> Path | None:
    """The last whole checkpoint in the run folder, if there is any.

    Raises:
        ConfigError: the run there is of another recipe or other options; names those that differ.
        CheckpointError: every checkpoint in it is damaged.
    """
    last = checkpoint.latest(folder / "checkpoints")
    if last is None:
        return None
    theirs = read_json(last / "recipe.json").get("identity", {})
    ours = json.loads(json.dumps(config.identity(cfg)))
    if differing := config.differing(theirs, ours):
        shown = "\n  ".join(f"{k}: there {theirs.get(k)!r}, here {ours.get(k)!r}" for k in differing[:10])
        raise ConfigError(
            f"{folder} holds a run with other options:\n  {shown}\n  give another output_dir, and instead of "
            f"init.resume, where its weights are wanted, init.weights={folder}"
        )
    return last


def _weights(cfg: RunConfig) -> str | Path:
    """init.weights; else the recipe's own run folder; else, where no folder was named, the recipe's artefact."""
    if cfg.init.weights is not None:
        return cfg.init.weights
    own = Path(cfg.output_dir or config.default_run_dir(cfg))
    if checkpoint.steps(own / "checkpoints"):
        return own
    if cfg.output_dir is not None:
        raise ConfigError(
            f"output_dir={own} holds no checkpoint; train first, name weights with init.weights=<folder or recipe>, or "
            "leave output_dir out for the recipe's own run or published weights"
        )
    if (published := hub.artefact_folder(cfg.recipe)) is None:
        raise ConfigError(
            f"no weights: there is neither a run of {cfg.recipe} with these options in {own} nor a published artefact; "
            "train first, or name them with init.weights=<folder or recipe>"
        )
    return published


def load_exact(task: Task, artefact: hub.Artefact, where: Path, into: str = "model") -> None:
    """Weights for evaluation and prediction have to fit wholly.

    Raises:
        CheckpointError: with the report of what does not.
    """
    report = hub.load_state(task, artefact.state_dict, into=into)
    if not report.complete:
        raise CheckpointError(f"the weights in {where} do not fit this recipe's model:\n{report}")


# ---------------------------------------------------------------------------------------------------- the result


def _result_of(folder: Path) -> dict[str, Any]:
    """What result.json holds; empty if there is none."""
    path = folder / "result.json"
    return read_object(path) if path.is_file() else {}


def _finished_result(folder: Path, step: int) -> dict[str, Any] | None:
    result = _result_of(folder)
    return result if result.get("steps") == step else None


def _result(
    cfg: RunConfig, trainer: Trainer, data: DataModule, outcome: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Score the best checkpoint on the test split and write result.json."""
    best = outcome["best"]
    test: dict[str, float] = {}
    if "test" in data.splits and not cfg.train.overfit_batches:
        if best is not None:
            chosen = folder / "checkpoints" / f"step_{best['step']:08d}"
            trainer.task.load_state_dict(hub.read_artefact(chosen).state_dict)  # the average, where there is one
            trainer.ema = None  # at the end it is another average than the one that was loaded
        test = trainer.evaluate(data.rows("test"))
    result = {
        "recipe": cfg.recipe,
        "run": str(folder),
        "seed": cfg.seed,
        "steps": outcome["step"],
        "epochs": outcome["epoch"],
        "final": finite(outcome["final"]),
        "best": finite(best),
        "test": finite(test),
        "parameters": sum(p.numel() for p in trainer.task.parameters()),
        "seconds": round(outcome["seconds"], 3),
        "examples_per_second": round(outcome["rows"] / max(outcome["seconds"], 1e-9), 1),
        "peak_memory_bytes": peak_memory(trainer.device),
        "ranks": distributed.world_size(),
    }
    if data.bounds():
        result["best_possible"] = data.bounds()
    distributed.on_first(lambda: write_json(folder / "result.json", result))
    if test and trainer.journal is not None:  # last, since without a result the same command would log it again
        trainer.journal.log(outcome["step"], trainer.epochs_done(), "test", test)
    return result
