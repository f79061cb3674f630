"""Models by name, and the weights that go with them: find, check, load with a report, publish.

An artefact is a folder with model.safetensors, data.json (vocabularies, label names, normalisation) and card.json
(scores and where they come from). What is written in it is a record: its class names pass `config.check_target` before
use, its weights are compared with their sha256, and nothing in it can run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import math
import re
import shlex
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddlecore import config
from paddlecore.errors import CheckpointError, ConfigError, nearest, some
from paddlecore.files import read_object, sha256_of, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

SUITES = {"rec": "paddlerec", "cv": "paddlecv", "nlp": "paddlenlp"}
PIECE = 7 * 2**20  # bytes
_LONG = 1000  # values of a list that a card alone leaves out
BITS = (3, 4, 5, 6, 7, 8, 16, 32)  # that a number of published weights may have; below 16 see `packing`
BARE = (".safetensors", ".pth", ".pt")  # endings of files of tensors that other programs write
_log = logging.getLogger("paddlecore")


# ---------------------------------------------------------------------------------------------------- names


def list_models(
    *, suite: str | None = None, task: str | None = None, data: str | None = None, pretrained: bool = False
) -> list[str]:
    """Every name that `create_model` takes: recipes (`rec/deepfm_frappe`), model classes (`rec/DeepFM`), and the
    architectures of classes that are made of several (`cv/resnet50`).

    Args:
        suite: rec, cv or nlp; default: all.
        task: only recipes of this kind of problem, e.g. ctr.
        data: only recipes on this data set.
        pretrained: only names that have trained weights.

    A class has no task or data set of its own and no weights, so the last three leave recipes only.

    Raises:
        ConfigError: there is no such suite, or no recipe of this task or on this data set; names the nearest.
    """
    chosen, every = _suites(suite), task is None and data is None
    recipes = config.list_recipes() if every else config.recipes_of(task=task, data=data)  # the latter reads them all
    names = [name for name in recipes if name.split("/")[0] in chosen and (not pretrained or artefact_folder(name))]
    if every and not pretrained:
        names += [f"{short}/{name}" for short in chosen for name in (*_classes(short), *_architectures(short))]
    return names


def _suites(suite: str | None) -> list[str]:
    if suite is not None and suite not in SUITES:
        raise ConfigError(f"suite={suite!r}: expected {', '.join(SUITES)}")
    return [suite] if suite else list(SUITES)


def _classes(suite: str) -> list[str]:
    return sorted(getattr(importlib.import_module(f"{SUITES[suite]}.models"), "__all__", []))


def _architectures(suite: str) -> dict[str, str]:
    """Architecture -> the class that takes it as its option `architecture`, and lists it as `architectures`."""
    models = importlib.import_module(f"{SUITES[suite]}.models")
    return {a: name for name in _classes(suite) for a in getattr(getattr(models, name, None), "architectures", ())}


def create_model(
    name: str, *, pretrained: bool | str | Path = False, suite: str | None = None, **sizes: Any
) -> nn.Module:
    """A model as a plain module, in training mode, on the CPU.

    Args:
        name: a recipe (`rec/deepfm_frappe`), which brings its sizes along, or a class (`rec/DeepFM`, or `deepfm` where
            only one suite has it; case does not matter), or an architecture (`cv/resnet50`, `resnet50`).
        pretrained: True = the published weights of that recipe; or where weights are: an artefact, checkpoint or run
            folder, or another recipe's name (sizes that are not given are then those of the weights); or a bare file of
            tensors by the names of this model, or a folder with one: torchvision's files for its architectures.
        suite: look in this one only: rec, cv or nlp.
        sizes: constructor arguments, over those of the recipe. Where they change a weight's shape (`num_classes=5`),
            that weight keeps its fresh initialisation, and the log says so.

    Raises:
        ConfigError: no such model (names the nearest), a size is missing or unknown.
        CheckpointError: the weights are damaged, or none of them fits.
    """
    import torch

    recipe, own = _find(name, suite)
    artefact = None
    if pretrained:
        if pretrained is True and recipe is None:
            raise ConfigError(
                f"{name} has no weights of its own; give pretrained=<folder or file of weights>, or name a recipe "
                f"({_published(list_models(pretrained=True))})"
            )
        # True is not the recipe's name: a folder called so that happens to be here is not meant
        artefact = read_artefact(_published_folder(str(recipe)) if pretrained is True else resolve(pretrained))
    section = dict(own)
    # a bare file of tensors says nothing of sizes
    recorded = artefact.recipe.get("model") if artefact is not None else read_card(recipe or "").get("model")
    if isinstance(recorded, dict):
        # Sizes that come from the data stand in the record only. The class does not: it is never taken from a file of
        # weights.
        record = {k: v for k, v in recorded.items() if k != "_target_"}
        if str(recorded.get("_target_")).rpartition(".")[2] == own["_target_"].rpartition(".")[2]:
            section = {**own, **record} if artefact is not None else {**record, **own}
    section |= sizes
    model: nn.Module = config.build(section, "model", torch.nn.Module)
    if artefact is not None:
        report = load_state(model, artefact.state_dict)
        _log.log(logging.INFO if report.complete else logging.WARNING, "%s: %s", name, report)
    return model


def _find(name: str, suite: str | None) -> tuple[str | None, dict[str, Any]]:
    """The recipe, if `name` is one, and the section that says what to build."""
    short, _, last = name.rpartition("/")
    if short and suite is not None and short != suite:
        raise ConfigError(f"{name} is not of the suite {suite}; paddlecore.hub.create_model looks in all")
    suite = suite or short or None
    recipe = f"{suite}/{last}" if suite else name
    known = config.list_recipes()
    if not short and suite is None and len(found := [r for r in known if r.endswith("/" + name)]) == 1:
        recipe = found[0]
    if recipe in known:
        return recipe, dict(config.read_recipe(recipe)["model"])
    sections: list[dict[str, Any]] = []
    for s in _suites(suite):
        sections += [{"_target_": f"{SUITES[s]}.models.{c}"} for c in _classes(s) if c.lower() == last.lower()]
        if last in (architectures := _architectures(s)):
            sections.append({"_target_": f"{SUITES[s]}.models.{architectures[last]}", "architecture": last})
    if len(sections) == 1:
        return None, sections[0]
    if sections:
        raise ConfigError(f"{name} is in several suites; say which: {', '.join(s['_target_'] for s in sections)}")
    everything = list_models(suite=suite)
    close = nearest(name, everything) or nearest(last, [n.split("/")[1] for n in everything])
    raise ConfigError(f"there is no model {name!r}{close or '; list_models() gives the names'}")


def _published(names: Sequence[str]) -> str:
    return some(names, 5) or "none is published"


# ---------------------------------------------------------------------------------------------------- loading


@dataclass
class LoadReport:
    """What became of each tensor, by the names of the module; `str()` of it is meant to be read."""

    loaded: list[str] = field(default_factory=list)
    reinitialised: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Shapes differ: (name, shape in the file, shape in the module). The module keeps what it was initialised with."""
    missing: list[str] = field(default_factory=list)
    """In the module but not in the file: initialised afresh too."""
    unused: list[str] = field(default_factory=list)
    """In the file but not in the module."""

    @property
    def complete(self) -> bool:
        """Every tensor of the module comes from the file, and the file holds no other."""
        return not (self.reinitialised or self.missing or self.unused)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.reinitialised) + len(self.missing)
        lines = [f"loaded {len(self.loaded)} of {total} tensors"]
        shapes = [f"{name}: {list(here)} here, {list(there)} in the file" for name, there, here in self.reinitialised]
        for what, names in (("re-initialised", shapes), ("missing in the file", self.missing), ("unused", self.unused)):
            if names:
                lines.append(f"  {what}: {len(names)}")
                lines += [f"    {name}" for name in names[:10]]
                lines += [f"    ... and {len(names) - 10} more"] if len(names) > 10 else []
        return "\n".join(lines)


def load_pretrained(module: nn.Module, where: str | Path, *, strict: bool = False) -> LoadReport:
    """Load weights into `module`, which may have another head than they were trained with.

    Args:
        module: a model or a task; its dtype and device stay as they are.
        where: an artefact, checkpoint or run folder, or a recipe's name.
        strict: refuse unless every tensor fits.

    Raises:
        CheckpointError: damaged, nothing fits, or (strict) anything does not; the module is then unchanged.
        ConfigError: nothing is found at `where`.
    """
    path = resolve(where)
    artefact = read_artefact(path)
    report = _compare(module, artefact.state_dict)
    if strict and not report.complete:
        raise CheckpointError(f"{path} does not fit this {type(module).__name__}:\n{report}")
    return load_state(module, artefact.state_dict)


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, into: str = "model") -> LoadReport:
    """Copy what fits of a task's state dict into a task or a model.

    Args:
        into: the part of a task that the weights of `state`'s model are for, e.g. `model.backbone`.

    Raises:
        CheckpointError: not one tensor fits; the module is unchanged.
        ConfigError: the task has no such part.
    """
    import torch

    if into != "model":
        parts = [name for name, _ in module.named_modules() if name]
        if into not in parts:
            raise ConfigError(f"init.into={into}: the task has no such part{nearest(into, parts)}")
        state = {f"{into}.{name[6:]}": value for name, value in state.items() if name.startswith("model.")}
    given = _known_names(module, state)
    report = _compare(module, state)
    own = module.state_dict()
    if own and not report.loaded:
        raise CheckpointError(f"these weights are not those of a {type(module).__name__}:\n{report}")
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(given[name])  # casts float16 of an artefact to the module's own type
    return report


def by_token(
    module: nn.Module, state: Mapping[str, Tensor], before: Sequence[str], after: Sequence[str]
) -> dict[str, Tensor]:
    """`state` for a task with another vocabulary: in tensors of a row for each token, those of tokens that both
    vocabularies have are taken to their new places, and the others are `module`'s.

    Args:
        before: tokens by their ids, of `state`.
        after: the same of `module`.
    """
    import torch

    places = {token: place for place, token in enumerate(before)}
    pairs = [(places[token], place) for place, token in enumerate(after) if token in places]
    there, here = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
    moved, own = dict(state), module.state_dict()
    for name, value in state.items():
        if name in own and (len(before), *own[name].shape[1:]) == value.shape and len(own[name]) == len(after):
            moved[name] = own[name].clone().index_copy_(0, here, value[there].to(own[name].dtype))
    return moved


def _names_for(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, a task's, by the names of `module`: a model's lack the `model.`, and the task's own are left out.

    That of a module with a part called `model` has its names already.
    """
    from paddlecore.task import Task

    if isinstance(module, Task):
        return {name: value for name, value in state.items() if name not in module.run_state}
    own_part = {name for name in module.state_dict() if name.startswith("model.")}
    if not any(name.startswith("model.") for name in state) or not own_part.isdisjoint(state):
        return dict(state)
    return {name[6:]: value for name, value in state.items() if name.startswith("model.")}


def _known_names(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `_names_for`, with names that a published file still has, and the model says how to read in `older_names`."""
    own, rules = module.state_dict(), getattr(getattr(module, "model", module), "older_names", ())
    found = {}
    for name, value in _names_for(module, state).items():
        for pattern, ours in rules if name not in own else ():
            name = re.sub(pattern, ours, name)
        found[name] = value
    return found


def _compare(module: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    given = _known_names(module, state)
    own = _names_for(module, module.state_dict())
    report = LoadReport(unused=[name for name in given if name not in own])
    for name, tensor in own.items():
        if name not in given:
            # a batch norm's count of batches matters only where its averages are cumulative; many files leave it out
            if not name.endswith("num_batches_tracked"):
                report.missing.append(name)
        elif given[name].shape != tensor.shape:
            report.reinitialised.append((name, tuple(given[name].shape), tuple(tensor.shape)))
        else:
            report.loaded.append(name)
    return report


# ---------------------------------------------------------------------------------------------------- artefacts


@dataclass
class Artefact:
    """Trained weights and all that is needed to use them."""

    path: Path
    card: dict[str, Any]  # empty for a checkpoint that is not published
    recipe: dict[str, Any]  # {"recipe": name, "model": {...}, "task": {...}, "data": {...}}, class names checked
    data_state: dict[str, Any]  # what DataModule.restore takes
    state_dict: dict[str, Tensor]  # of the task: a model's own names stand behind `model.`


def pretrained_root() -> Path:
    """The folder of the artefacts: inside the package in an installed wheel, beside it in a checkout."""
    installed = Path(__file__).resolve().parent / "_pretrained"
    return installed if installed.is_dir() else installed.parent.parent / "pretrained"


def artefact_folder(recipe: str) -> Path | None:
    """Where a recipe's published weights are; None if there are none, even if there is a card."""
    folder = pretrained_root() / recipe
    return folder if (folder / "card.json").is_file() and (folder / "data.json").is_file() else None


def _published_folder(recipe: str) -> Path:
    if (folder := artefact_folder(recipe)) is None:
        raise ConfigError(
            f"{recipe} has no published weights; train it (paddlesuite train recipe={recipe}) and give its run folder"
        )
    return folder


def read_card(recipe: str) -> dict[str, Any]:
    """A recipe's card; empty if nothing is published for it. It may stand alone: see `write_artefact`."""
    card = pretrained_root() / recipe / "card.json"
    return read_object(card) if card.is_file() else {}


def resolve(where: str | Path) -> Path:
    """The artefact or checkpoint folder, or the bare file of tensors, that `where` means.

    An artefact or a checkpoint folder is itself, and so is a file of tensors that belongs to neither; a run folder
    means its best checkpoint, without validation its last; a recipe's name means its published weights. Whether they
    are whole is not looked at: a damaged one is never replaced by another, whose score would be taken for the run's.

    Raises:
        ConfigError: neither a folder with weights nor a recipe with any; names the nearest.
        CheckpointError: a run folder without the checkpoint that it means.
    """
    path = Path(where)
    if path.is_file() and path.suffix in BARE:
        if not any((path.parent / name).is_file() for name in ("card.json", "manifest.json")):
            return path
        path = path.parent
    if (path / "card.json").is_file() or (path / "manifest.json").is_file():
        return path
    if (path / "checkpoints").is_dir():
        return _of_run(path)
    name = str(where)
    folder = artefact_folder(name)
    if folder is not None:
        return folder
    if path.exists():
        bare = [file for file in path.iterdir() if file.suffix in BARE] if path.is_dir() else []
        if len(bare) == 1:
            return bare[0]
        raise ConfigError(
            f"{path} holds no weights: expected card.json (an artefact), manifest.json (a checkpoint), "
            f"checkpoints/ (a run) or one file of tensors ({', '.join(BARE)})"
        )
    recipes = config.list_recipes()
    if name in recipes:
        return _published_folder(name)
    published = [r for r in recipes if artefact_folder(r)]
    raise ConfigError(
        f"no weights at {name!r}: neither a file, a folder nor a published recipe{nearest(name, published)} "
        f"(published: {_published(published)})"
    )


def _of_run(run: Path) -> Path:
    from paddlecore import checkpoint

    root = run / "checkpoints"
    if not (found := checkpoint.steps(root)):
        raise CheckpointError(f"{run} holds no checkpoint yet")
    for record in (run / "best.json", run / "last.json"):  # after the last one damaged ones may lie, see `prune`
        if record.is_file():
            name = str(read_object(record).get("checkpoint"))
            if name not in (folder.name for folder in found):
                raise CheckpointError(f"{record} names {name}, which is not there; {checkpoint.whole(root)}")
            return root / name
    return found[-1]


def read_artefact(path: str | Path) -> Artefact:
    """Read an artefact or a checkpoint folder, everything checked. An EMA's weights are preferred to the raw ones.

    Of a bare file of tensors (`BARE`) only `state_dict` is known: its tensors are taken for those of a model, unless
    they have the names of a task's, as those of a model.safetensors taken out of its folder.

    Raises:
        CheckpointError: a file is missing, damaged or altered; names it and says what to do.
        ConfigError: a class name in it is not allowed.
    """
    from paddlecore import checkpoint, packing

    path = Path(path)
    if path.is_file():
        tensors = packing.unpack(checkpoint.load_foreign(path), path)
        if not any(name.startswith("model.") for name in tensors):
            tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
        return Artefact(path, {}, {}, {}, tensors)
    where = path / "card.json"
    if where.is_file():
        card = read_object(where)
        weights = _published_weights(path, card)
        sections = {"model": "model", "task": "task_config", "data": "data"}
        record = {"recipe": card.get("recipe", ""), **{name: card.get(key) for name, key in sections.items()}}
    else:
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}\n  {checkpoint.whole(path.parent)}") from None
        where = path / "recipe.json"
        card, record = {}, read_object(where)
        weights = [path / ("ema.safetensors" if (path / "ema.safetensors").is_file() else "model.safetensors")]
    for section in ("model", "task", "data"):
        if not isinstance(record.get(section), dict):
            raise CheckpointError(f"{where} has no section {section!r}; it is not an artefact of this project")
        config.check_target(record[section].get("_target_"), f"{where}: {section}._target_")
    state = read_object(path / "data.json").get("state")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / 'data.json'} has no 'state'")
    tensors = packing.unpack(checkpoint.load_tensors(*weights), weights[0])
    _tie(tensors, card.get("tied", {}), where)
    return Artefact(path, card, record, state, tensors)


def _published_weights(path: Path, card: Mapping[str, Any]) -> list[Path]:
    """The pieces of an artefact's model.safetensors, after a look at all of its files.

    Raises:
        CheckpointError: one is missing, or has not the sha256 of the card.
    """
    files = card.get("files")
    if files == {}:
        raise CheckpointError(
            f"{path} is a card without weights; train them (`{card.get('command')}`) and give the run folder"
        )
    if not isinstance(files, dict) or "data.json" not in files or not any(f.startswith("model.saf") for f in files):
        raise CheckpointError(f"{path / 'card.json'} does not list its files with their sha256 (`files`)")
    for file, digest in files.items():
        if Path(file).name != file or not (path / file).is_file():
            raise CheckpointError(f"{path / file} is missing; fetch or publish the artefact again")
        if sha256_of(path / file) != digest:
            raise CheckpointError(
                f"{path / file} does not have the sha256 of its card: it is damaged or was altered; "
                "fetch or publish the artefact again"
            )
    return [path / file for file in sorted(files) if file.startswith("model.safetensors")]


def _tie(tensors: dict[str, Tensor], tied: Any, where: Path) -> None:
    """Put back the names that `_tied` left out; `tied` is what the file `where` says of them."""
    if not isinstance(tied, dict):
        raise CheckpointError(f"{where}: `tied` must map names to names, got {tied!r}")
    for name, other in tied.items():
        if not isinstance(other, str) or other not in tensors:
            raise CheckpointError(f"{where}: {name} is to be {other} (`tied`), which is not in the file")
        tensors[name] = tensors[other]


def _tied(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of matrices that an earlier one equals, with its name: an output layer that shares the embedding."""
    first: dict[tuple[tuple[int, ...], bytes], str] = {}
    found = {}
    for name, tensor in weights.items():
        if tensor.dim() > 1:
            content = hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest()
            other = first.setdefault((tuple(tensor.shape), content), name)
            if other != name:
                found[name] = other
    return found


def read_weights(where: str | Path, average: int = 1) -> Artefact:
    """What `resolve` finds, read; or, of a run folder, its last `average` checkpoints as one.

    Floating-point tensors become the mean, taken in float32 (Vaswani et al., 2017, section 6.1); all else, as counts of
    batches, is the last one's, and so is what goes with the weights. Batch norms' running statistics are averaged like
    weights, which is right only as nearly as the checkpoints are alike.

    Raises:
        ConfigError: `average` of something that is no run, that has too few checkpoints, or whose weights are averages
            already (`train.ema`).
        CheckpointError: a checkpoint is damaged.
    """
    if average == 1:
        return read_artefact(resolve(where))
    from paddlecore import checkpoint

    run, option = Path(where), f"init.average={average}"
    if not (run / "checkpoints").is_dir():
        raise ConfigError(f"{option} is of the last checkpoints of a run, and {where} is no run folder")
    found = checkpoint.steps(run / "checkpoints")
    # beside the last ones the best is kept, which may lie far back
    keep = read_object(found[-1] / "trainer.json").get("keep") if found else None
    kept = min(len(found), keep if isinstance(keep, int) else average)
    if kept < average:
        raise ConfigError(
            f"{option}: {run} has kept its last {kept} checkpoint{'s' * (kept != 1)}; train with train.keep={average}"
        )
    if (found[-1] / "ema.safetensors").is_file():
        raise ConfigError(f"{option}: the weights of {run} are averages already; train with train.ema=null")
    last = read_artefact(found[-1])
    for name, tensor in last.state_dict.items():
        if tensor.is_floating_point():
            last.state_dict[name] = tensor.float()
    for folder in found[-average:-1]:
        for name, tensor in read_artefact(folder).state_dict.items():
            if tensor.is_floating_point():
                last.state_dict[name] += tensor
    for tensor in last.state_dict.values():
        if tensor.is_floating_point():
            tensor /= average
    return last


# ---------------------------------------------------------------------------------------------------- publishing


def write_artefact(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str | None = None,
    bits: int = 32,
    notes: str = "",
    over: str = "seed",
    average: int = 1,
    score: Callable[[Path], None] | None = None,
    weights: bool = True,
) -> Path:
    """Make an artefact from finished runs of one recipe that differ in nothing but their seed (or another option).

    The weights are those of the first run's best checkpoint (the EMA's where there is one); the card gives mean and
    standard deviation (with n - 1) over all of them.

    Args:
        runs: run folders, each with its result.json.
        out: folder to write, e.g. pretrained/rec/deepfm_frappe; an artefact that is there is replaced.
        recipe: that they are runs of; default: any.
        bits: of a number: 32, 16 (float16), or 3 to 8 (integers, in large matrices; see `packing`). Scoring `out`
            again shows whether that costs anything.
        notes: free text for the card.
        over: the option that differs between the runs: seed, or e.g. data.fold in a cross-validation.
        average: the weights are the mean of the run's last `average` checkpoints; see `read_weights`. Of one run only,
            since the runs' own scores, which mean and deviation are made of, are those of their best checkpoints.
        score: called with the artefact while it is still in a folder beside `out`, see `record_scores`. If it fails,
            `out` stays as it was.
        weights: false = once they are scored, only the card stays: of weights that are too large to ship, it still says
            what was reached, and how.

    Raises:
        ConfigError: a run is not finished, the runs are of different recipes or options, `average` cannot be had, or
            `out` holds something else than an artefact, or there is no format of so many bits.
        CheckpointError: a checkpoint is damaged.
    """
    folders, out = [Path(run) for run in runs], Path(out)
    check_bits(bits)
    if out.exists() and not (out / "card.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out={out} is there and is not an artefact, so it is not replaced; give another folder")
    if not folders:
        raise ConfigError("which runs? Give at least one run folder")
    if average > 1 and len(folders) > 1:
        raise ConfigError(f"init.average={average}: give one run; the scores of {len(folders)} are not of averages")
    results, identities = _finished(folders, over)
    if recipe is not None and results[0]["recipe"] != recipe:
        raise ConfigError(f"{folders[0]} is a run of {results[0]['recipe']}, not of {recipe}")
    first = read_weights(folders[0], average)
    metrics, spread = _scores(results, over)
    if average > 1:  # the split that is scored again; the run's own scores are not those of its averaged weights
        main = "test" if "test" in metrics else "valid"
        metrics = {name: scores for name, scores in metrics.items() if name == main}
    name, value = str(results[0]["recipe"]), identities[0].get(over)
    with _in_place_of(out) as part:
        tied = _write_weights(part, first, bits)
        target = first.recipe["data"]["_target_"]
        write_json(part / "data.json", {"_target_": target, "state": first.data_state}, compact=True)
        card = {
            "recipe": name,
            **_described(name, first),
            "metrics": metrics,
            "best_possible": results[0].get("best_possible"),
            "signatures": None,  # with the scores of what was stored
            "seeds": spread,
            "weights_run": {over: value, **({"average": average} if average > 1 else {})},
            "files": {file.name: sha256_of(file) for file in sorted(part.iterdir())},
            "weights_dtype": f"float{bits}" if bits > 8 else f"int{bits}, the rest float16",
            **({"tied": tied} if tied else {}),
            "data_sha256": read_object(first.path / "trainer.json").get("data", {}).get("fingerprint", ""),
            "labels": list(first.data_state.get("labels") or ()) or None,
            "parameters": results[0]["parameters"],
            **_commands(name, identities[0], config.load_record(folders[0] / "run_config.yaml")),
            "train_seconds": results[0]["seconds"],
            **_made_on(read_object(folders[0] / "environment.json")),
            "notes": notes,
        }
        write_json(part / "card.json", card)
        if score is not None:
            score(part)
        if not weights:
            _keep_the_card(part)
    return out


def check_bits(bits: int) -> None:
    """Raises ConfigError: weights are not stored in so many bits a number."""
    if bits not in BITS:
        raise ConfigError(f"bits={bits}: numbers are stored in 32, 16, or 3 to 8 bits")


@contextlib.contextmanager
def _in_place_of(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place if all goes well.

    No folder can be renamed over a full one, so that takes two steps.
    """
    out = out.resolve()  # `.` has no name
    part, old = (out.with_name(f".{out.name}.{ending}") for ending in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        try:
            part.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_weights(folder: Path, weights: Artefact, bits: int) -> dict[str, str]:
    """<folder>/model.safetensors, whole or in pieces. Returns the names that it leaves out; see `_tied`."""
    from paddlecore import checkpoint, packing

    carried = config.load_class(weights.recipe["task"]["_target_"], "task").run_state
    tensors = {name: tensor for name, tensor in weights.state_dict.items() if name not in carried}
    if bits == 16:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    tied = _tied(tensors)
    stored = {name: tensor for name, tensor in tensors.items() if name not in tied}
    file = folder / "model.safetensors"
    checkpoint.save_tensors(file, packing.pack(stored, bits) if bits < 16 else stored)
    _cut(file)
    return tied


def _cut(file: Path) -> None:
    """Store a file that is larger than `PIECE` as <name>.00, <name>.01, ...: many hosts refuse large files. The numbers
    are of one length, for pieces are put together in the order of their names."""
    content = file.read_bytes()
    if len(content) > PIECE:
        starts = range(0, len(content), PIECE)
        for number, start in enumerate(starts):
            name = f"{file.name}.{number:0{max(len(str(len(starts) - 1)), 2)}d}"
            file.with_name(name).write_bytes(content[start : start + PIECE])
        file.unlink()


def _finished(folders: Sequence[Path], over: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """result.json and the options of each run.

    Raises:
        ConfigError: one is not finished, or they do not differ in `over` and in nothing else.
    """
    results, identities = [], []
    for folder in folders:
        if not (folder / "result.json").is_file():
            raise ConfigError(f"{folder} is not a finished run: it has no result.json")
        result = read_object(folder / "result.json")
        last = read_object(folder / "last.json").get("checkpoint")
        if last != f"step_{result['steps']:08d}":
            raise ConfigError(
                f"{folder} is not a finished run: its result.json is of step {result['steps']}, and it has gone on to "
                f"{last}; give its command again"
            )
        results.append(result)
        record = read_object(_of_run(folder) / "recipe.json")
        identities.append({k: v for k, v in record.get("identity", {}).items() if k != "recipe"})
    for folder, result, identity in zip(folders, results, identities, strict=True):
        differing = [name for name in config.differing(identity, identities[0]) if name != over]
        if result["recipe"] != results[0]["recipe"] or differing:
            alone = len(differing) == 1 and identity.get(over) == identities[0].get(over)
            hint = f"; if that is meant, give over={differing[0]}" if alone else ""
            raise ConfigError(
                f"{folder} is not a run of the same recipe and options as {folders[0]}; they differ in "
                f"{', '.join(differing) or 'the recipe'}{hint}"
            )
    if not any(over in identity for identity in identities):
        raise ConfigError(f"over={over}: the runs have no such option{nearest(over, identities[0])}")
    values = [identity.get(over) for identity in identities]
    if len(set(map(str, values))) != len(values):
        raise ConfigError(f"two of the runs have the same {over}: {values}")
    return results, identities


def _scores(results: Sequence[dict[str, Any]], over: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The first run's metrics by split, and mean and deviation over all of them on the last split."""
    splits: list[dict[str, dict[str, float]]] = []
    for result in results:
        best = (result.get("best") or {}).get("metrics") or result.get("final") or {}
        splits.append({name: values for name, values in (("valid", best), ("test", result.get("test"))) if values})
    if len(results) == 1:
        return splits[0], None
    main = "test" if "test" in splits[0] else "valid"
    spread = {}
    for name in splits[0].get(main, {}):
        scores = [split[main][name] for split in splits]
        if all(score is not None and math.isfinite(score) for score in scores):
            spread[name] = {"mean": statistics.fmean(scores), "sd": statistics.stdev(scores)}
    return splits[0], {"n": len(results), "over": over, "split": main, "metrics": spread}


def _described(recipe: str, weights: Artefact) -> dict[str, Any]:
    """What a card says of the recipe, and the arguments that its parts were built with."""
    about = config.about(recipe) if recipe in config.list_recipes() else {}
    data = weights.recipe["data"]
    if "source" in data:
        data = {**data, "source": "auto"}  # the place of the data on one machine does not belong on a card
    return {
        **{name: about.get(name, "") for name in ("title", "paper", "task", "dataset", "licence")},
        "target": about.get("expected", ""),
        "model": weights.recipe["model"],
        "task_config": weights.recipe["task"],
        "data": data,
    }


def _made_on(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Commit, machine and versions of a run, from its environment.json."""
    threads = f"{environment.get('threads')} threads"
    return {
        "commit": environment.get("commit"),
        "hardware": ", ".join([*environment.get("gpus", []), str(environment.get("cpu")), threads]),
        "versions": environment.get("versions", {}),
    }


def _keep_the_card(folder: Path) -> None:
    """Delete the weights and what belongs to them."""
    card = read_object(folder / "card.json")
    for file in card["files"]:
        (folder / file).unlink()
    # the rest that only weights need, and that may be long: names of labels, vocabularies, frequencies of words
    card |= {"files": {}, "weights_dtype": None, "eval_command": None, "task_config": None, "labels": None}
    card["model"] = {k: v for k, v in card["model"].items() if not (isinstance(v, list) and len(v) > _LONG)}
    card.pop("tied", None)
    write_json(folder / "card.json", card)


def record_scores(folder: Path, split: str, metrics: Mapping[str, float | None], signatures: Any) -> None:
    """Put what the stored weights themselves score on `split`, and its signatures, into the card in `folder`. What they
    scored before they were rounded stays beside it."""
    card = read_object(folder / "card.json")
    rounded = card["weights_dtype"] != "float32" and "average" not in card["weights_run"]  # runs do not score averages
    if rounded and (before := card["metrics"].get(split)) and before != metrics:
        card["before_rounding"] = {split: before}
    card["metrics"][split], card["signatures"] = dict(metrics), signatures
    write_json(folder / "card.json", card)


def _commands(recipe: str, identity: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> dict[str, str]:
    """For a shell: `command` makes the run again, with the recipe, the seed, and each option that is not the recipe's
    own; `eval_command` scores the artefact, and needs those options that decide what is built.

    `asked` are all options as the run ended with them: its length need not be a part of its identity.
    """
    options, published = [], recipe in config.list_recipes()
    if published:
        composed = config.compose([f"recipe={recipe}"])
        own = json.loads(json.dumps(config.identity(composed)))
        identity = {**identity, **_lengths(asked or {})}
        for name in config.differing(identity, {**own, **_lengths(config.to_dict(composed))}):
            if name in identity and name not in ("seed", "recipe", "data.source"):
                value = identity[name]
                if isinstance(value, str) and Path(value).is_absolute():  # one machine's folders mean nothing elsewhere
                    value = f"<folder>/{Path(value).name}"
                options.append(f"{name}={config.as_option(value)}")
    built = [option for option in options if option.startswith(("model.", "task.", "data."))]
    weights = f"init.weights={recipe if published else '<this folder>'}"
    return {
        "command": shlex.join(["paddlesuite", "train", f"recipe={recipe}", f"seed={identity.get('seed')}", *options]),
        "eval_command": shlex.join(["paddlesuite", "eval", f"recipe={recipe}", weights, *built]),
    }


def _lengths(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"train.{k}": v for k, v in options.get("train", {}).items() if k in ("max_steps", "max_epochs")}


def card_markdown(card: Mapping[str, Any]) -> str:
    """A card as a piece of a page: scores, how to get them again, size, licence."""
    lines = ["| split | metric | score |", "|---|---|---|"]
    spread = card.get("seeds") or {}
    for split, metrics in card.get("metrics", {}).items():
        for name, value in metrics.items():
            score = figure(value) if isinstance(value, float) else str(value)
            if name in spread.get("metrics", {}) and split == spread.get("split"):
                score += f" ({_over(spread, name)})"
            lines.append(f"| {split} | {name} | {score} |")
    seconds = card.get("train_seconds")
    weights = " ".join(v for k, v in card.get("files", {}).items() if k.startswith("model.safetensors"))
    run = ", ".join(f"{name}={value}" for name, value in (card.get("weights_run") or {}).items())
    stored = f"{card.get('weights_dtype')}, of the run with {run}, sha256 `{weights}`"
    exact = (scores for metrics in card.get("before_rounding", {}).values() for scores in metrics.items())
    before = [f"{name} {figure(value)}" for name, value in exact if isinstance(value, float)]
    rows = [
        ("expected", card.get("target")),
        ("before the weights were rounded", ", ".join(before)),
        ("parameters", f"{card['parameters']:,}" if card.get("parameters") else None),
        ("training time", f"{seconds:.0f} s on {card.get('hardware')}" if seconds else None),
        ("trained with", f"`{card['command']}`" if card.get("command") else None),
        ("scored with", f"`{card['eval_command']}`" if card.get("eval_command") else None),
        ("commit", f"`{card['commit']}`" if card.get("commit") else None),
        ("weights", stored if weights else "not part of this; the command above makes them"),
        ("licence of the data", card.get("licence")),
        ("notes", card.get("notes")),
    ]
    lines += ["", *(f"- {name}: {value}" for name, value in rows if value)]
    return "\n".join(lines) + "\n"


def card_score(card: Mapping[str, Any]) -> str:
    """The metric that the card's target names, else its first, on its last split; empty without a card.

    E.g. `auc 0.9841 ± 0.0003`.
    """
    metrics = card.get("metrics") or {}
    split = "test" if "test" in metrics else next(iter(metrics), None)
    if split is None or not metrics[split]:
        return ""
    words = str(card.get("target", "")).replace(",", " ").split()
    name = next((word for word in words if word in metrics[split]), next(iter(metrics[split])))
    value = metrics[split][name]
    spread = (card.get("seeds") or {}).get("metrics", {}).get(name)
    if spread:
        return f"{name} {figure(spread['mean'])} ± {figure(spread['sd'], spread['mean'])}"
    return f"{name} {figure(value)}" if value is not None else ""  # a score that is not defined


def figure(value: float, scale: float | None = None) -> str:
    """A score as people write it: with four places, with two where it (or `scale`) runs to a hundred, as BLEU does."""
    return f"{value:.2f}" if abs(value if scale is None else scale) >= 10 else f"{value:.4f}"


def _over(spread: Mapping[str, Any], name: str) -> str:
    found, over = spread["metrics"][name], spread["over"]
    what = "seeds" if over == "seed" else f"runs over {over}"
    return f"mean {figure(found['mean'])}, sd {figure(found['sd'], found['mean'])} of {spread['n']} {what}"
