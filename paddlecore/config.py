"""Recipes and command lines in, a typed `RunConfig` out; and `build`, the one place where a name becomes a class.

Options come in layers: configs/train.yaml, the recipe (over the one shared file it may name), a debug file, the command
line. Hydra composes them; everything is then checked against `schema.py` and against the constructors' signatures, read
from source, so that a mistake is refused before torch is loaded. Importing this module loads neither Hydra nor torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import os
import re
import shutil
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paddlecore.errors import ConfigError, nearest
from paddlecore.schema import GROUP_KEYS, Optim, RunConfig, Schedule, outside
from paddlecore.signature import Signature, check_value, integers, least, signature_of, split_target

# What a recipe may name. `build` also holds the `__module__` of what it found against this list.
ALLOWED_ROOTS = ("paddlecore", "paddlerec", "paddlecv", "paddlenlp", "torch.optim", "torchvision")

_GIVEN_BY_ENGINE = {"model": (), "task": ("model",), "data": ()}  # constructor arguments that no config can give

# What other programs call an option, without `_` and in lower case, where that is not like its name.
_ALSO_CALLED = {
    "model._target_": "name type arch architecture",
    "task._target_": "name type",
    "data._target_": "name type dataset",
    "data.source": "path root dir folder file datapath dataroot datadir datafolder",
    "optim._target_": "name type optimizer optimiser",
    "optim.lr": "learningrate",
    "optim.weight_decay": "wd l2",
    "optim.schedule.kind": "scheduler lrscheduler",
    "optim.schedule.patience": "patience",
    "train.max_steps": "iterations iters maxiter maxiters",
    "train.precision": "amp fp16 bf16 half dtype",
    "train.clip_norm": "gradclip clipgrad maxgradnorm clipgradnorm gradclipval gradientclipval",
    "train.early_stop": "patience",
    "train.trackers": "wandb mlflow logger",
    "init.weights": "checkpoint ckpt pretrained loadfrom",
    "output_dir": "out outdir logdir savedir workdir",
    "device": "gpu gpus ngpus cuda accelerator",
    "seed": "randomseed manualseed",
}

# Options that do not change what a run computes, only where, how long and how loudly.
_NOT_IDENTITY = (
    "output_dir", "device", "init.resume", "train.max_steps", "train.max_epochs", "train.log_every", "train.keep",
    "train.trackers", "train.profile", "train.rank_timeout", "train.save_every", "data.workers",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Files


def config_root() -> Path:
    """The folder of the configs: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def list_recipes(root: Path | None = None) -> list[str]:
    """All recipes as "<suite>/<name>", sorted. Files that start with `_` are shared parts, not recipes."""
    folder = (root or config_root()) / "recipe"
    return sorted(f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*.yaml") if not p.name.startswith("_"))


def recipes_of(
    *, suite: str | None = None, task: str | None = None, data: str | None = None, root: Path | None = None
) -> dict[str, dict[str, Any]]:
    """The recipes of a suite, kind of problem and data set, each with its `about` section; case does not matter.

    Raises:
        ConfigError: one of them no recipe has; names the nearest, and all there are.
    """
    found = {name: about(name, root) for name in list_recipes(root)}
    facts = {
        "suite": {name: name.split("/")[0] for name in found},
        "task": {name: str(said.get("task", "")) for name, said in found.items()},
        "data": {name: str(said.get("dataset", "")) for name, said in found.items()},
    }
    for key, value in (("suite", suite), ("task", task), ("data", data)):
        if value is None:
            continue
        known = sorted({*facts[key].values()} - {""})
        if value.lower() not in map(str.lower, known):
            raise ConfigError(f"no recipe has {key}={value}{nearest(value, known)} (there are {', '.join(known)})")
        found = {name: said for name, said in found.items() if facts[key][name].lower() == value.lower()}
    return found


def recipe_path(name: str, root: Path | None = None) -> Path:
    """The file of a recipe; `name` is "<suite>/<name>" or the path of a user's own file, which ends in .yaml.

    Raises:
        ConfigError: there is none; names the nearest, or lists all.
    """
    if name.endswith(".yaml"):
        if not Path(name).is_file():
            raise ConfigError(f"recipe={name}: there is no such file")
        return Path(name)
    known = list_recipes(root)
    if name not in known:
        raise ConfigError(f"there is no recipe {name!r}{_near_recipe(name, known) or _listing(known)}")
    return (root or config_root()) / "recipe" / f"{name}.yaml"


def recipe_files(name: str, root: Path | None = None) -> list[Path]:
    """The file of a recipe, and after it the shared file that it names, if it does."""
    return [layer.path for layer in reversed(_recipe_layers(name, root or config_root()))]


def read_recipe(name: str, root: Path | None = None) -> dict[str, Any]:
    """A recipe over the shared file it names, as plain data: what is written, without the engine's defaults."""
    return _merge(layer.values for layer in _recipe_layers(name, root or config_root()))


def about(name: str, root: Path | None = None) -> dict[str, Any]:
    """What a recipe says of itself, by the names of `schema.About`; empty where it says nothing."""
    said = read_recipe(name, root).get("about")
    return said if isinstance(said, dict) else {}


def _near_recipe(name: str, known: list[str]) -> str:
    close = [k for k in known if k.rpartition("/")[2] == name.rpartition("/")[2]]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else nearest(name, known)


def _listing(recipes: list[str]) -> str:
    return "; recipes:" + "".join(f"\n  {r}" for r in recipes) if recipes else "; there are no recipes here"


class _Loader(yaml.SafeLoader):
    """Plain values only: no tags that make objects, no aliases (which can blow up), no key twice, 1e-3 is a number."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = parent.start_mark if parent is not None else None
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = (
            [k for k, _ in node.value if isinstance(k, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else []
        )
        for i, key in enumerate(keys):
            if any(key.value == other.value for other in keys[:i]):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is twice", key.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None  # PyYAML loses rare line ends otherwise
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.text)


for _class in (_Loader, _Dumper):  # as OmegaConf reads: dates are text, and a number needs no dot before its exponent
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _class.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_bytes().decode("utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except Exception as error:  # PyYAML also lets ValueError, IndexError and RecursionError through
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{_shown(path)} cannot be read as plain YAML: {reason}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{_shown(path)} must hold `key: value` lines, got a {type(values).__name__}")
    return values


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _not_plain(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(key, why) for all in `value` that is not plain data: configs describe, they never compute."""
    if depth > 20:
        yield key, "nested too deeply"
    elif isinstance(value, dict):
        for name, inner in value.items():
            full = f"{key}.{name}" if key else str(name)
            if not isinstance(name, (str, int)) or isinstance(name, bool):
                yield full, f"a key must be text, got {name!r}; quote it"
            elif isinstance(name, str) and re.fullmatch(r"_\w+_", name) and name != "_target_":
                yield full, "only _target_ is understood here"
            elif isinstance(name, str) and "${" in name:
                yield full, "interpolation is not allowed"
            else:
                yield from _not_plain(inner, full, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _not_plain(inner, f"{key}.{i}", depth + 1)
    elif isinstance(value, str):
        if "${" in value:
            yield key, f"interpolation is not allowed, got {value!r}; write the value itself"
        elif value == "???":
            yield key, "must be given a value"
    elif isinstance(value, float):
        if value != value:
            yield key, "nan is not a value"
    elif value is not None and not isinstance(value, (bool, int)):
        yield key, f"only plain values are allowed, got a {type(value).__name__}"


@dataclasses.dataclass
class _Layer:
    label: str  # what an error calls it
    values: dict[str, Any]
    path: Path


def _layer(path: Path, own: bool = False) -> tuple[_Layer, list[Any]]:
    """A config file, checked to be plain data, and its defaults list. `own`: it is the user's, not of the tree."""
    values, label = _read(path), _shown(path)
    problems = [f"{key}: {why}" for key, why in _not_plain(values)]
    for name in ("hydra", "recipe", "debug"):
        if name in values:
            problems.append(f"{name}: cannot be set in a file")
    if not own and not re.match(r"# @package _global_\s*\n", path.read_text("utf-8")):
        problems.append("the first line must be `# @package _global_`")
    defaults = values.pop("defaults", None)
    if defaults is not None and not isinstance(defaults, list):
        problems.append(f"defaults: expected a list, got {defaults!r}")
    if problems:
        raise ConfigError(_joined([f"{label}: {p}" for p in problems]))
    return _Layer(label, values, path), defaults or []


def _recipe_layers(name: str, root: Path) -> list[_Layer]:
    layer, defaults = _layer(recipe_path(name, root), own=name.endswith(".yaml"))
    if defaults and defaults[-1] == "_self_":
        defaults.pop()
    if not defaults:
        return [layer]
    match = re.fullmatch(r"\w+/_base_\w+", str(defaults[0]), re.ASCII)
    if len(defaults) > 1 or match is None or not (root / "recipe" / f"{match[0]}.yaml").is_file():
        shared = sorted(f"{p.parent.name}/{p.stem}" for p in (root / "recipe").glob("*/_base_*.yaml"))
        raise ConfigError(
            f"{layer.label}: defaults: a recipe may name one shared file ({', '.join(shared) or 'there are none'}) and "
            f"then _self_; got {defaults}"
        )
    base, above = _layer(root / "recipe" / f"{match[0]}.yaml")
    if above:
        raise ConfigError(f"{base.label}: a shared file cannot have defaults of its own")
    return [base, layer]


def _merge(trees: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Later over earlier: sections are merged, all else is replaced; as Hydra does."""
    merged: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            below = merged.get(key)
            if isinstance(value, dict):
                value = _merge([below if isinstance(below, dict) else {}, value])
            merged[key] = value
    return merged


# ---------------------------------------------------------------------------------------------------------------------
# Composing


def compose(overrides: Sequence[str], *, verb: str = "train", root: Path | None = None) -> RunConfig:
    """The configuration of a run from `key=value` strings, one of which is `recipe=<suite>/<name>` or a .yaml file.

    Values follow Hydra's grammar: 3, 1e-3, true, null, text, 'quoted text', [a,b], {k: v}.

    Raises:
        ConfigError: with every problem that was found, one a line: key, value, what was expected, where it came from.
    """
    root = root or config_root()
    pairs, problems = _pairs(overrides)
    chosen: dict[str, str | None] = {"recipe": None, "debug": None}
    for key, text in pairs:
        if key in chosen:
            chosen[key] = None if text in ("", "null") else text
    recipe, debug = chosen["recipe"], chosen["debug"]
    pairs = [(key, text) for key, text in pairs if key not in chosen]
    if recipe is None:
        usage = f"which recipe? Add recipe=<suite>/<name>, e.g. {command(verb)} recipe=rec/deepfm_toy"
        raise ConfigError(_joined([*problems, usage if problems else usage + _listing(list_recipes(root))]))
    layers = [_train_layer(root), *_recipe_layers(recipe, root)]
    if debug is not None:
        known = [p.stem for p in sorted((root / "debug").glob("*.yaml"))]
        if debug not in known:
            raise ConfigError(f"debug={debug}: expected {_or(known)}{nearest(debug, known)}")
        layers.append(_layer(root / "debug" / f"{debug}.yaml")[0])

    checker = _Checker(layers, [key for key, _ in pairs], problems)
    plain = _plain_overrides(pairs)
    if plain is not None or problems:
        # Hydra takes a third of a second to load; a mistake in simple values is found without it
        _finish(checker, _merge([*(layer.values for layer in layers), plain or {}]), recipe, debug)
    checker = _Checker(layers, [key for key, _ in pairs], [])
    raw = _hydra(root, recipe, debug, pairs, _merge(layer.values for layer in layers))
    config = _finish(checker, raw, recipe, debug)
    config.asked = frozenset(key for key, _ in pairs)
    return config


def _finish(checker: _Checker, raw: dict[str, Any], recipe: str, debug: str | None) -> RunConfig:
    config = checker.run_config({**raw, "recipe": recipe, "debug": debug})
    if checker.problems:
        raise ConfigError(_joined(checker.problems))
    return config


def _train_layer(root: Path) -> _Layer:
    path = root / "train.yaml"
    values = _read(path)
    values.pop("defaults", None)
    return _Layer(_shown(path), values, path)


def command(verb: str) -> str:
    """How a verb is called in a checkout."""
    return f"python tools/{verb.replace('-', '_')}.py"


def _pairs(overrides: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """`key=value` strings in two, and what is wrong with those that are not."""
    pairs, problems = [], []
    for override in overrides:
        key, equals, text = override.partition("=")
        shown = override if len(override) <= 80 else override[:77] + "..."
        if override.startswith("~"):
            problems.append(f"{shown!r}: options cannot be deleted; set one to null, or to its default")
        elif override.startswith("+"):
            problems.append(f"{shown!r}: write key=value, without the +")
        elif override in ("-m", "--multirun"):
            problems.append(f"{shown!r}: a sweep is several commands; for lr in 0.1 0.2; do ... optim.lr=$lr; done")
        elif override.startswith("--"):
            problems.append(f"{shown!r}: write key=value, without the dashes")
        elif not equals:
            example = f"recipe={override}" if override in list_recipes() else "train.max_steps=100"
            problems.append(f"{shown!r}: expected key=value, e.g. {example}")
        elif key.split(".")[0] == "hydra" or "@" in key or "/" in key:
            problems.append(f"{shown!r}: Hydra's own options are not open")
        elif not re.fullmatch(r"[A-Za-z_][\w-]*(\.([A-Za-z_][\w-]*|[0-9]+))*", key, re.ASCII):
            problems.append(f"{shown!r}: {key!r} is not the name of an option")
        elif "${" in text:
            problems.append(f"{shown!r}: interpolation is not allowed; write the value itself")
        elif text.startswith("~"):
            problems.append(f"{shown!r}: ~ is not replaced here; write $HOME, which the shell replaces")
        elif not override.isprintable():
            problems.append(f"{shown!r}: there are characters in it that are not text")
        else:
            pairs.append((key, text if key in ("recipe", "debug") else _quoted(text)))
    return pairs, problems


def _quoted(text: str) -> str:
    """`text` between quotes where it can only be text, such as a path with é, = or # in it, but Hydra's grammar would
    refuse it without them."""
    foreign = re.search(r"[^\x20-\x7e]|[=#&;!^`<>]", text) and not re.search(r"""['"\\()\[\]{},$]""", text)
    return f'"{text}"' if foreign else text


def _plain_overrides(pairs: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The overrides as a tree if all values are plain words and numbers, which read the same to Hydra; else None."""
    tree: dict[str, Any] = {}
    for key, text in pairs:
        *parents, last = key.split(".")
        if any(part.isdigit() for part in (*parents, last)):
            return None  # an index into a list
        if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text):
            value: Any = int(text)
        elif re.fullmatch(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,20}([eE][-+]?[0-9]{1,4})?|[eE][-+]?[0-9]{1,4})", text):
            value = float(text)
        elif text.lower() in ("true", "false", "null"):
            value = {"true": True, "false": False, "null": None}[text.lower()]
        elif re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_/.-]*", text) and text.lower() not in ("nan", "inf"):
            value = text
        else:
            return None
        node = tree
        for part in parents:
            if not isinstance(node.setdefault(part, {}), dict):
                return None  # a section that is a value first, and then a section again
            node = node[part]
        node[last] = value
    return tree


_OWN = "_own_recipe"  # what Hydra knows a user's own file as
_HYDRA = threading.Lock()


def _replaced(pairs: list[tuple[str, str]], below: dict[str, Any]) -> list[str]:
    """Hydra's words for taking away what a list or a mapping inside a section takes the place of where it is of the
    other kind: Hydra would merge the two. `data.categorical` of a table, for one, may be either."""
    words: list[str] = []
    for key, text in pairs:
        section, *inner = key.split(".")
        there: Any = below.get(section)
        for part in inner:
            there = there.get(part) if isinstance(there, dict) else None
        other = {"[": dict, "{": list}.get(text.lstrip()[:1])
        if inner and other is not None and isinstance(there, other):
            words.append(f"~{key}")
    return list(dict.fromkeys(words))


@contextlib.contextmanager
def _hydra_alone() -> Iterator[None]:
    """Hydra's state is one for the process: no other thread's use comes in between, and where the program that calls
    this is itself one of Hydra's, it finds what it had."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    with _HYDRA:
        program, version = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        GlobalHydra.instance().hydra = None
        try:
            yield
        finally:
            GlobalHydra.instance().hydra, VersionBase.instance().version_base = program, version


def _hydra(
    root: Path, recipe: str, debug: str | None, pairs: list[tuple[str, str]], below: dict[str, Any]
) -> dict[str, Any]:
    """The composed options as plain data. The files have been read and found plain before Hydra sees them; `below` is
    what they say."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parser, problems = OverridesParser.create(), []
    for key, text in pairs:
        try:
            if parser.parse_override(f"++{key}={text}").is_sweep_override():
                ways = "a list is written [a,b], a sweep is several commands"
                problems.append(f"{key}: one value, please, got {text!r}; {ways}")
        except Exception as error:  # whatever a grammar can raise on free text
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(f"{key}: {text!r} cannot be read as a value ({reason}); quote text as '{key}=\"...\"'")
    if problems:
        raise ConfigError(_joined(problems))
    name = _OWN if recipe.endswith(".yaml") else recipe
    groups = [f"recipe={name}", *([f"debug={debug}"] if debug else [])]
    words = groups + _replaced(pairs, below) + [f"++{key}={text}" for key, text in pairs]
    try:
        with _hydra_alone():
            if name == _OWN:
                ConfigStore.instance().store(_OWN, _read(Path(recipe)), group="recipe", package="_global_")
            with hydra.initialize_config_dir(str(root.resolve()), version_base="1.3"):
                composed = hydra.compose("train", words)
        plain = OmegaConf.to_container(composed, resolve=False)
    except Exception as error:  # Hydra and OmegaConf have no common base for theirs
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ConfigError(f"cannot compose {recipe}: {reason}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Checking


def _joined(problems: list[str]) -> str:
    return problems[0] if len(problems) == 1 else "\n  - ".join([f"{len(problems)} problems:", *problems])


def _or(names: Iterable[Any]) -> str:
    return " or ".join(map(str, names))


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_has_target(v) for v in value.values())
    return isinstance(value, list) and any(_has_target(v) for v in value)


def _integral(value: Any) -> Any:
    """`value` with 1e3 as 1000, in lists and sections too."""
    if isinstance(value, dict):
        return {k: _integral(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_integral(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Checker:
    """Holds composed options against the schema and the constructors, and collects all that is wrong."""

    def __init__(self, layers: list[_Layer], command_line: list[str], problems: list[str]) -> None:
        self.layers, self.command_line = layers, command_line
        self.problems = list(problems)
        self.known: dict[str, None] = {}  # every option there is, in order
        self.unknown: list[tuple[str, str, list[str]]] = []  # (key, whose, names it has)

    def origin(self, key: str) -> str:
        if any(key == k or key.startswith(k + ".") or k.startswith(key + ".") for k in self.command_line):
            return "command line"
        for layer in reversed(self.layers):
            flat = [k for k, value in flatten(layer.values).items() if value != {}]
            if any(key == k or key.startswith(k + ".") or k.startswith(key + ".") for k in flat):
                return layer.label
        # something is missing: from the recipe, which stands over the defaults and a shared file, and under debug/
        return next(layer for layer in reversed(self.layers) if layer.path.parent.name != "debug").label

    def problem(self, key: str, message: str) -> None:
        self.problems.append(f"{key}: {message} [{self.origin(key)}]")

    def run_config(self, raw: dict[str, Any]) -> RunConfig:
        for key, why in _not_plain(raw):
            self.problem(key, why)
        config: RunConfig = self.schema(RunConfig, {k: v for k, v in raw.items() if k != "optim"}, "")
        config.optim = self.optim(raw.get("optim", {}))
        for name, reserved in _GIVEN_BY_ENGINE.items():
            setattr(config, name, self.section(raw.get(name), name, reserved, complete=name == "data"))
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", str(config.device)):
            self.problem("device", f"expected auto, cpu, cuda or cuda:<n>, got {config.device!r}")
        if config.train.max_epochs is None and config.train.max_steps is None:
            self.problem("train.max_steps", "the run would never end; set train.max_epochs or train.max_steps")
        for key, whose, names in self.unknown:
            self.problem(key, f"{whose} has no such option{self.suggest(key, names)}")
        return config

    def schema(self, cls: type, raw: Any, prefix: str) -> Any:
        """A dataclass of `schema.py` from plain options."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        self.known.update(dict.fromkeys(prefix + name for name in fields))
        values = {}
        for name, value in self.items(raw, prefix):
            if name in fields:
                values[name] = self.field(fields[name], value, prefix + name)
            else:
                self.unknown.append((prefix + name, prefix.rstrip(".") or "a run", list(fields)))
        return cls(**values)

    def items(self, raw: Any, prefix: str) -> list[tuple[str, Any]]:
        if isinstance(raw, dict):
            return [(str(name), value) for name, value in raw.items()]
        self.problem(prefix.rstrip("."), f"expected a section of options, got {raw!r}")
        return []

    def field(self, field: dataclasses.Field[Any], value: Any, key: str) -> Any:
        self.known[key] = None
        if dataclasses.is_dataclass(field.default_factory):
            return self.schema(field.default_factory, value, key + ".")
        value, why = _fit(str(field.type), value)
        choices = field.metadata.get("choices")
        for item in value if isinstance(value, list) else [value]:
            if why is None and choices and item is not None and item not in choices:
                why = f"expected {_or(choices)}, got {item!r}{nearest(str(item), choices)}"
            elif why is None and item == "" and field.default is None:
                why = "is empty (an unset shell variable?); leave it out, or give null"
            elif why is None and item is not None:
                why = outside(field, item)
        if why is not None:
            self.problem(key, why)
        return value

    def target(self, target: Any, key: str) -> Signature | None:
        try:
            check_target(target, key)
            return signature_of(target)
        except ConfigError as error:
            text = str(error)
            self.problem(key, text.removeprefix(f"{key}: "))
            return None

    def section(self, raw: Any, key: str, reserved: Sequence[str] = (), complete: bool = True) -> dict[str, Any]:
        """A section that names a class. `complete`: all that the constructor requires must be there."""
        options = dict(self.items({} if raw is None else raw, key + "."))
        self.known[f"{key}._target_"] = None
        if "_target_" not in options:
            self.problem(f"{key}._target_", "not given: the class to build, as <module>.<class>")
            return options
        signature = self.target(options["_target_"], f"{key}._target_")
        if signature is None:
            return options
        names = [n for n in signature.names if n not in reserved]
        self.known.update(dict.fromkeys(f"{key}.{n}" for n in names))
        for name, value in options.items():
            if name != "_target_":
                options[name] = self.argument(signature, names, name, value, f"{key}.{name}")
        for name in names if complete else ():
            if name != "seed" and signature[name].required and name not in options:
                self.problem(f"{key}.{name}", f"not given, and {signature.target} requires it")
        return options

    def argument(self, signature: Signature, names: list[str], name: str, value: Any, key: str) -> Any:
        """One constructor argument of the class that a section names."""
        if name in names:
            value = self.value(signature[name].annotation, value, key)
            if (low := least(signature[name])) is not None:
                low = low if key.startswith("model.") else 0  # only a network has no use for 0 where others are usual
                for number in integers(value):
                    if number < low:
                        self.problem(key, f"must be at least {low}, got {number}")
            return value
        if not signature.open or name in signature:  # the latter: reserved for the engine
            self.unknown.append((key, signature.target, names))
        return self.value(None, value, key)

    def value(self, annotation: str | None, value: Any, key: str) -> Any:
        if isinstance(value, dict) and "_target_" in value:
            return self.section(value, key)
        if _has_target(value):
            if isinstance(value, dict):
                return {k: self.value(None, v, f"{key}.{k}") for k, v in value.items()}
            return [self.value(None, v, f"{key}.{i}") for i, v in enumerate(value)]
        value, why = _fit(annotation, value)
        if why is not None:
            self.problem(key, why)
        return value

    def optim(self, raw: Any) -> dict[str, Any]:
        """The `optim` section, defaults filled in: engine keys by the schema, the others by the constructor."""
        defaults = dataclasses.asdict(Optim())
        given = self.optim_options(raw, "optim.", defaults["_target_"])
        phases = given.get("phases", {})
        target = given.get("_target_", defaults["_target_"])
        given["phases"] = {
            name: self.optim_options(phase, f"optim.phases.{name}.", target)
            for name, phase in self.items(phases, "optim.phases.")
        }
        merged = _merge([defaults, given])
        for phase in merged["phases"].values():
            if "schedule" in phase:  # a phase lays single keys over the schedule, too
                phase["schedule"] = _merge([merged["schedule"], phase["schedule"]])
        return merged

    def optim_options(self, raw: Any, prefix: str, target: Any) -> dict[str, Any]:
        options = dict(self.items(raw, prefix))
        signature = self.target(options.get("_target_", target), f"{prefix}_target_")
        fields = {f.name: f for f in dataclasses.fields(Optim) if prefix == "optim." or f.name != "phases"}
        own = [n for n in signature.names if n not in ("params", "lr")] if signature else []
        self.known.update(dict.fromkeys(prefix + n for n in (*fields, *own)))
        for name, value in options.items():
            key = prefix + name
            if name == "groups" and isinstance(value, list):
                options[name] = [self.group(signature, own, g, f"{key}.{i}") for i, g in enumerate(value)]
            elif name == "schedule":
                given = value if isinstance(value, dict) else {}
                checked = dataclasses.asdict(self.schema(Schedule, value, key + "."))
                options[name] = {k: v for k, v in checked.items() if k in given}
            elif name in fields:
                options[name] = self.field(fields[name], value, key)
            elif signature is not None:
                if name not in own and not (signature.open and name not in signature):
                    self.unknown.append((key, signature.target, [*fields, *own]))
                else:
                    options[name] = self.argument(signature, own, name, value, key)
        return options

    def group(self, signature: Signature | None, own: list[str], raw: Any, key: str) -> dict[str, Any]:
        options = dict(self.items(raw, key + "."))
        for name, value in options.items():
            if name in GROUP_KEYS:
                options[name], why = _fit(GROUP_KEYS[name], value)
                if why is None and name != "match" and value < 0:
                    why = f"must be at least 0, got {value}"
                if why is not None:
                    self.problem(f"{key}.{name}", why)
            elif signature is not None and name in own:
                options[name] = self.argument(signature, own, name, value, f"{key}.{name}")
            else:
                self.unknown.append((f"{key}.{name}", "a parameter group", [*GROUP_KEYS, *own]))
        if "match" not in options:
            self.problem(f"{key}.match", "not given: a glob over parameter names")
        return options

    def suggest(self, key: str, names: list[str]) -> str:
        """What other programs mean by `key`, or the options most like it: in its section, and anywhere by full name."""
        section, _, last = key.rpartition(".")
        plain = last.lower().replace("_", "")
        meant = [known for known, words in _ALSO_CALLED.items() if plain in words.split() and known in self.known]
        meant = [known for known in meant if known.rpartition(".")[0] == section] or meant
        if meant:
            return f"; did you mean {_or(map(repr, meant))}?"
        scored = [(0.0, "")]
        for known in dict.fromkeys([*(f"{section}.{n}" if section else n for n in names), *self.known]):
            where, _, name = known.rpartition(".")
            likeness = _likeness(last, name)
            if likeness >= 0.6:
                scored.append((likeness + 0.2 * _likeness(section, where), known))
        best = max(scored)[0]
        close = [k for score, k in sorted(scored, key=lambda s: -s[0]) if score >= max(0.6, best - 0.15)][:3]
        if close:
            return f"; did you mean {_or(map(repr, close))}?"
        return f"; it has {', '.join(names)}" if names else "; it has none"


def _likeness(a: str, b: str) -> float:
    """In [0, 1]; words may stand in another order (`dim_embed`, `embed_dim`) or be left out (`dim`)."""
    if a == b:
        return 1.0
    short, long = sorted((a.lower().split("_"), b.lower().split("_")), key=len)
    words = sum(max(_ratio(word, other) for other in long) for word in short) / len(short)
    return max(_ratio(a.lower(), b.lower()), words * (0.95 if len(short) == len(long) else 0.9))


@functools.cache
def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _fit(annotation: str | None, value: Any) -> tuple[Any, str | None]:
    """`value` as `annotation` wants it, and why it does not suit, if so.

    1e3 becomes an int where one is due, and the keys of {0: no, 1: yes} text, as those of labels are.
    """
    why = check_value(annotation, value) if annotation else None
    if annotation is None or why is None:
        return value, None
    others = [_integral(value)]
    if isinstance(value, dict):
        others.append({str(k) if type(k) is int else k: v for k, v in value.items()})
    return next(((other, None) for other in others if check_value(annotation, other) is None), (value, why))


# ---------------------------------------------------------------------------------------------------------------------
# Building


# arguments of torchvision's
_FETCHED = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "download")


def check_target(target: object, key: str = "_target_") -> None:
    """Refuse a class name that is malformed or lies outside `ALLOWED_ROOTS`; `key` is named in the error.

    Raises:
        ConfigError: see above.
    """
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target, re.ASCII):
        raise ConfigError(f"{key}: expected <module>.<class>, got {target!r}")
    allowed = f"allowed are classes under {', '.join(ALLOWED_ROOTS)}"
    if any(part.startswith("__") for part in target.split(".")):
        raise ConfigError(f"{key}: {target} is not allowed; {allowed}")
    if not _allowed(target):
        raise ConfigError(f"{key}: {target} is not allowed; {allowed}{nearest(target.split('.')[0], ALLOWED_ROOTS)}")


def _allowed(name: str) -> bool:
    return any(name == root or name.startswith(root + ".") for root in ALLOWED_ROOTS)


def load_class(target: str, key: str) -> Any:
    """The class, or the function of a `models` package, that `target` names. The only import by name in the project."""
    import importlib

    check_target(target, key)
    try:
        module, name = split_target(target)
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(f"{key}: cannot import {target}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    # torchvision.models._api has functions that look up others by name
    is_builder = inspect.isfunction(found) and re.search(r"\.models(?!\._api)", str(found.__module__))
    if not (inspect.isclass(found) or is_builder):
        what = "there is no such class" if found is None else "it is neither a class nor a function of a models package"
        raise ConfigError(f"{key}: {target} cannot be built: {what}")
    if not _allowed(str(found.__module__)):  # a module of ours may well have imported something else's classes
        raise ConfigError(f"{key}: {target} is not allowed: it is defined in {found.__module__}")
    return found


def build(section: Mapping[str, Any], where: str, kind: type = object, /, **extra: Any) -> Any:
    """Make the object that `section` describes: its `_target_` called with its other keys.

    `extra` holds what the caller can give besides: each is passed on only if the constructor has a parameter of that
    name and `section` does not set it. So `build(config.model, "model", **data.spec)` fills in sizes. Sections inside
    the section that name a class are built first, from what they say alone. `where` is the section's name in errors,
    `kind` the class that what is made has to be of: others are not called at all.

    Raises:
        ConfigError: class not allowed or of another kind, an argument missing, or refused by the constructor
            (TypeError, ValueError, and what torch and arithmetic raise for sizes that cannot be).
    """
    key = f"{where}._target_"
    if "_target_" not in section:
        raise ConfigError(f"{key}: not given: the class to build, as <module>.<class>")
    made = load_class(section["_target_"], key)
    if inspect.isclass(made) and not issubclass(made, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise ConfigError(f"{key}: expected a class derived from {wanted}, got {section['_target_']}")
    signature = signature_of(section["_target_"])
    complete = resolved(section, where, **extra)
    arguments = {
        name: _build_inside(value, f"{where}.{name}") if name in section else value
        for name, value in complete.items()
        if name != "_target_"
    }
    unknown = [] if signature.open else [name for name in arguments if name not in signature]
    if unknown:
        close = nearest(unknown[0], signature.names) or f" (it takes {', '.join(signature.names)})"
        raise ConfigError(f"{where}: {signature.target} refuses its arguments: there is no {unknown[0]!r}{close}")
    missing = [p.name for p in signature.parameters if p.required and p.name not in arguments]
    if missing:
        given = f"the engine gives {', '.join(extra)}; " if extra else ""
        raise ConfigError(
            f"{where}: {signature.target} also requires {', '.join(missing)}; {given}"
            f"set {', '.join(f'{where}.{m}=...' for m in missing)} (in code: as keywords), or choose data that have it"
        )
    if str(made.__module__).startswith("torchvision."):
        # its own downloads are pickles, and PADDLE_OFFLINE does not stop them; some take a backbone's by default
        if fetched := [name for name in _FETCHED if arguments.get(name)]:
            raise ConfigError(
                f"{where}.{fetched[0]}: torchvision would fetch and unpickle a file by itself; leave it out, and give "
                "a file of weights as init.weights=<file>"
            )
        if "weights_backbone" in signature:
            arguments["weights_backbone"] = None
    try:
        return made(**arguments)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        reason = str(error).partition("\nException raised from")[0]  # torch's own stack follows
        raise ConfigError(f"{where}: {signature.target} refuses its arguments: {reason}") from error


def resolved(section: Mapping[str, Any], where: str, /, **extra: Any) -> dict[str, Any]:
    """`section` and those of `extra` that its constructor takes and it does not set: what `build` goes by."""
    check_target(section.get("_target_"), f"{where}._target_")
    signature = signature_of(section["_target_"])
    return {**section, **{k: v for k, v in extra.items() if k in signature and k not in section}}


def _build_inside(value: Any, where: str) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        return build(value, where)
    if isinstance(value, dict):
        return {k: _build_inside(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_build_inside(v, f"{where}.{i}") for i, v in enumerate(value)]
    return value


# ---------------------------------------------------------------------------------------------------------------------
# A configuration as data


def to_dict(config: RunConfig) -> dict[str, Any]:
    """All options as nested plain data."""
    return dataclasses.asdict(config)


def flatten(config: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """All options by full name, `{"train.max_steps": 100, ...}`; lists and empty sections are values."""
    flat: dict[str, Any] = {}
    for key, value in (to_dict(config) if isinstance(config, RunConfig) else config).items():
        if isinstance(value, dict) and value:
            flat |= {f"{key}.{inner}": v for inner, v in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def as_option(value: Any) -> str:
    """A value of an option as the command line takes it: `compose` reads it back."""
    if isinstance(value, list):
        return f"[{','.join(map(as_option, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_option(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, str) and _plain_overrides([("x", value)]) != {"x": value}:
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(value, Quote.double).with_quotes()
    return _plain_text(value)


def dump(config: RunConfig) -> str:
    """The configuration as YAML, for run_config.yaml."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def load_record(path: str | Path) -> dict[str, Any]:
    """A stored run_config.yaml as plain data: a record to show and compare, never an input to `build`.

    Raises:
        ConfigError: not readable, or anything but plain values in it.
    """
    return _read(Path(path))


def identity(config: RunConfig) -> dict[str, Any]:
    """The options that change what a run computes, by full name; 1 and 1.0 are the same."""
    flat = {k: _integral(v) for k, v in flatten(config).items()}
    if config.recipe.endswith(".yaml"):
        flat["recipe"] = Path(config.recipe).stem  # the file's place does not matter, its content is here
    # a schedule that ends with the run has another curve in a longer run
    to_the_end = any(
        kind in ("cosine", "linear") and flat.get(key.removesuffix("kind") + "total_steps") is None
        for key, kind in flat.items()
        if key.startswith("optim.") and key.endswith("schedule.kind")  # also of a phase
    )
    if config.init.weights is None:
        del flat["init.into"]
    if config.init.weights is None or config.init.vocabulary == "weights":
        del flat["init.vocabulary"]
    if config.init.weights is None or config.init.average == 1:
        del flat["init.average"]
    free = [k for k in _NOT_IDENTITY if not (to_the_end and k in ("train.max_steps", "train.max_epochs"))]
    return {k: v for k, v in sorted(flat.items()) if k not in free and not k.startswith("about.")}


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The options in which two identities differ."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def default_run_dir(config: RunConfig) -> str:
    """runs/<suite>/<name>-<hash>: the same options find the same folder, so that the same command goes on."""
    canonical = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    name = f"own/{Path(config.recipe).stem}" if config.recipe.endswith(".yaml") else config.recipe
    return f"runs/{name}-{hashlib.sha256(canonical.encode()).hexdigest()[:6]}"


# ---------------------------------------------------------------------------------------------------------------------
# Help


def help_text(overrides: Sequence[str] = (), *, root: Path | None = None) -> str:
    """The part of `--help` that all verbs share: the options of the recipe if one is given, else all recipes; and those
    of the engine."""
    root = root or config_root()
    recipe = next((text for key, text in reversed(_pairs(overrides)[0]) if key == "recipe"), None)
    if recipe:
        lines = _recipe_help(recipe, root)
    else:
        lines = ["Recipes; add recipe=... to see the options of one"]
        lines += [row(name, str(about(name, root).get("title", ""))) for name in list_recipes(root)]
    return "\n".join([*lines, "", "Engine options and their defaults", *_schema_help(RunConfig(), "")])


def row(left: str, right: str) -> str:
    """An option and what it means, beside it in lines that fit the terminal (100 columns where there is none)."""
    indent = 45
    width = max(shutil.get_terminal_size((100, 24)).columns, indent + 35)
    lines = textwrap.wrap(right, width - indent, break_on_hyphens=False) or [""]
    first = f"  {left:<42} {lines[0]}" if len(left) <= 42 else f"  {left}\n{'':<{indent}}{lines[0]}"
    return "\n".join([first.rstrip(), *(f"{'':<{indent}}{line}" for line in lines[1:])])


def _plain_text(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _schema_help(section: Any, prefix: str) -> list[str]:
    lines, inner = [], []
    for field in dataclasses.fields(section):
        value, meta, key = getattr(section, field.name), field.metadata, prefix + field.name
        if key == "optim":
            value = Optim()
        if key in ("about", *_GIVEN_BY_ENGINE):
            continue  # `about` is not for setting; the others stand with the recipe
        if dataclasses.is_dataclass(value):
            inner += ["", f"{key}: {meta['help']}", *_schema_help(value, f"{key}.")]
            continue
        choices = [] if all(c in meta["help"] for c in meta["choices"]) else meta["choices"]
        facts = [meta["unit"], *(f"{words} {number}" for words, number in meta["bounds"].items()), _or(choices)]
        noted = "; ".join(f for f in facts if f)
        lines.append(row(f"{key}={_plain_text(value)}", meta["help"] + (f" ({noted})" if noted else "")))
    return lines + inner


def _recipe_help(recipe: str, root: Path) -> list[str]:
    raw = read_recipe(recipe, root)
    lines = [recipe] + [f"  {k}: {v}" for k, v in about(recipe, root).items() if v]
    for name, reserved in _GIVEN_BY_ENGINE.items():
        section = raw.get(name) or {}
        target = section.get("_target_")
        try:
            check_target(target, f"{name}._target_")
            signature = signature_of(target)
        except ConfigError as error:
            lines += ["", f"{name}: {error}"]
            continue
        lines += ["", f"{name}: {signature.target}", *(f"  {line}" for line in signature.doc.split("\n")[:1] if line)]
        for p in signature.parameters:
            if p.name in reserved:
                continue
            value = (
                _plain_text(_integral(section[p.name]))
                if p.name in section
                else (p.default or "(from the data)").strip("'")
            )
            lines.append(row(f"{name}.{p.name}={value}", p.doc or p.annotation or ""))
    return lines
