"""Whatever is typed or written, the answer is a configuration or a ConfigError, and nothing of it is executed."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from paddlecore import config
from paddlecore.config import compose
from paddlecore.errors import ConfigError
from paddlecore.schema import Optim, RunConfig

CONFIGS = Path(__file__).parents[3] / "configs"
TOY = """\
# @package _global_
model: {_target_: torchvision.models.AlexNet, dropout: 0.2}
task: {_target_: paddlecore.task.Task}
data: {_target_: paddlecore.data.DataModule, batch_size: 100}
"""
OPTIONS = sorted(config.flatten(dataclasses.asdict(RunConfig(optim=dataclasses.asdict(Optim())))))
few = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "configs"
    shutil.copytree(CONFIGS / "debug", root / "debug")
    shutil.copy(CONFIGS / "train.yaml", root / "train.yaml")
    (root / "recipe" / "rec").mkdir(parents=True)
    (root / "recipe" / "rec" / "toy.yaml").write_text(TOY)
    return root


def composes(overrides: list[str], root: Path) -> RunConfig | None:
    try:
        cfg = compose(overrides, root=root)
    except ConfigError as error:
        assert str(error)
        return None
    assert config._Checker([], [], []).run_config(config.to_dict(cfg)) == cfg  # what comes out is itself accepted
    return cfg


WORDS = st.from_regex(r"[A-Za-z_/][A-Za-z0-9_/.-]{0,12}", fullmatch=True)
NUMBERS = st.one_of(
    st.integers(-(10**17), 10**17).map(str),
    st.floats(-1e6, 1e6).map(repr),
    st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,3})?[eE][-+]?[0-9]{1,3}", fullmatch=True),
)
PLAIN = st.one_of(
    WORDS, NUMBERS, st.sampled_from(["null", "NULL", "true", "False", "yes", "on", "inf", "nan", "-0", "007"])
)
KEYS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(
        ["model.dropout", "data.batch_size", "model._target_", "data.seed", "optim.groups.0.lr", "task.model"]
    ),
    st.from_regex(r"[a-z_]{1,6}(\.[a-z_0-9]{1,6}){0,2}", fullmatch=True),
)


@many
@given(PLAIN)
def test_plain_values_read_as_hydra_reads_them(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    tree = config._plain_overrides([("a.b", text)])
    if tree is not None:
        theirs = OverridesParser.create().parse_override(f"++a.b={text}").value()
        assert (tree, type(tree["a"]["b"])) == ({"a": {"b": theirs}}, type(theirs))


@few
@given(st.lists(st.tuples(KEYS, PLAIN), min_size=1, max_size=4))
@example([("task", "0"), ("task.model", "0")])
def test_the_quick_merge_is_hydras(root: Path, pairs: list[tuple[str, str]]) -> None:
    pairs = config._pairs([f"{k}={v}" for k, v in pairs if k not in ("recipe", "debug")])[0]
    plain = config._plain_overrides(pairs)
    if plain is not None:
        layers = [config._train_layer(root), *config._recipe_layers("rec/toy", root)]
        ours = config._merge([*(layer.values for layer in layers), plain])
        theirs = config._hydra(root, "rec/toy", None, pairs, {})
        assert repr(ours) == repr({k: theirs[k] for k in ours})  # repr: nan, and int against float
        assert ours.keys() == theirs.keys()


@many
@given(st.lists(st.tuples(KEYS, PLAIN), max_size=3), st.sampled_from([[], ["debug=smoke"]]))
@example([("seed", "10000000000000000000000000000000000000000")], [])
@example([("model._target_", "os.system")], [])
@example([("model._target_", "torch.optim.lr_scheduler.os.system")], [])
@example([("optim", "x"), ("optim.lr", "3")], [])
@example([("model", "x"), ("model.a.b", "3")], [])
def test_plain_overrides(root: Path, pairs: list[tuple[str, str]], more: list[str]) -> None:
    composes(["recipe=rec/toy", *(f"{k}={v}" for k, v in pairs), *more], root)


VALUES = st.one_of(
    st.text(max_size=20),
    st.text("[]{}(),:'\"\\$~=!@?a1.- ", max_size=12),
    st.recursive(
        PLAIN,
        lambda i: st.lists(i, max_size=3).map(lambda v: f"[{','.join(v)}]") | i.map("{{k: {}}}".format),
        max_leaves=4,
    ),
)


@few
@given(KEYS | st.text(max_size=12), VALUES)
@example("optim.freeze", "[" * 2000)
@example("optim.groups", "[{match: a, lr_scale: {}}]")
@example("optim.groups", "[[]]")
@example("optim.phases", "{a: 3}")
@example("optim.phases", "null")
@example("optim.schedule", "[1]")
@example("optim.groups.9.lr", "3")
@example("optim.groups.x.lr", "3")
@example("model", "{1: 2}")
@example("model", "{_target_: [a]}")
@example("optim._target_", "[torch.optim.Adam]")
@example("optim._target_", "null")
@example("init.weights", "\ud800")
@example("init.weights", "\x00")
@example("recipe", "/dev/null/x.yaml")
@example("recipe", "/.yaml")
@example("debug", "../train")
@example("train.trackers", "[[wandb]]")
@example("train.clip_norm", "inf")
def test_any_override(root: Path, key: str, value: str) -> None:
    composes(["recipe=rec/toy", f"{key}={value}"], root)
    assert composes([f"{key}={value}", "train.max_step=3"], root) is None


@few
@given(st.lists(st.text(max_size=15), max_size=3))
def test_any_arguments(root: Path, overrides: list[str]) -> None:
    composes(overrides, root)


AMBIGUOUS = st.sampled_from(["1e-3", "2001-01-01", "yes", "null", "1:30", "<<", "=", "a: b", "# x", "08", "~"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12) | AMBIGUOUS
PLAIN_DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc~1:# \n", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@many
@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), PLAIN_DATA, max_size=3))
def test_a_record_reads_back_unchanged(tmp_path: Path, data: dict[str, Any]) -> None:
    cfg = RunConfig(model=data, optim={"x": [data, data]})
    path = tmp_path / "run_config.yaml"
    path.write_text(config.dump(cfg), encoding="utf-8")
    assert repr(config.load_record(path)) == repr(config.to_dict(cfg))


FRAGMENTS = st.sampled_from(
    ["model:", "data:", "train:", "optim:", "defaults:", "_target_:", " ", "\n", "\n  ", "- ", "{", "}", "[", "]", ", "]
    + [": ", "&a ", "*a", "<<: ", "!!python/object/apply:os.mkdir [ran]", "!!python/name:os.system", "!!int ", "!!set "]
    + ["!!float ", "!!timestamp ", "!!map ", "!x ", "? ", "| ", "%YAML 9\n", "---\n", "...", "1e3", ".nan", "'", '"']
    + ["${a}", "???", "torch.optim.Adam", "rec/_base_x", "null", "max_steps", "\t", "\ufeff", "0x", "1:1"]
)


@many
@given(st.binary(max_size=40) | st.lists(FRAGMENTS, max_size=15).map(lambda parts: "".join(parts).encode()))
@example(b"!!int ''")
@example(b"a: !!float x")
@example(b"a: !!timestamp 3")
@example(b"? [a]\n: b")
@example(b"a: " + b"9" * 5000)
@example(TOY.encode() + b"train: {max_steps: " + b"9" * 400 + b"}")
@example(b"\xff\xfea\x00")
@example(b"[]: a")
@example(b"model: {a: 1, <<: {a: 2}}")
def test_any_recipe_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(content)
    composes(["recipe=mine.yaml", "optim.freeze=[a]"], root)
    Path("mine.yaml").write_bytes(TOY.encode() + content)
    composes(["recipe=mine.yaml"], root)
    try:
        config.load_record("mine.yaml")
        config.help_text(["recipe=mine.yaml"], root=root)
    except ConfigError:
        pass
    assert not Path("ran").exists()


class Canary:
    made = 0

    def __init__(self, *args: Any) -> None:
        Canary.made += 1


@pytest.mark.parametrize("tag", ["object:{}", "object/new:{}", "object/apply:{}", "name:{}"])
def test_a_tag_never_makes_an_object(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.setitem(sys.modules, "canary", sys.modules[__name__])
    text = f"a: !!python/{tag.format('canary.Canary')} []"
    (tmp_path / "mine.yaml").write_text(text)
    assert composes([f"recipe={tmp_path / 'mine.yaml'}"], root) is None
    assert Canary.made == 0
    if "apply" in tag:
        yaml.load(text, yaml.UnsafeLoader)
        assert Canary.made == 1  # the canary does sing where a loader is careless
        Canary.made = 0


PARTS = st.sampled_from(
    "torch optim torchvision paddlecore config models os system subprocess sys yaml load Adam __init__ __builtins__ "
    "eval lr_scheduler types warnings Path nn ops Any math functools partial data np json".split()
)
TARGETS = st.text(max_size=15) | st.lists(PARTS, max_size=5).map(".".join)


@many
@given(TARGETS)
def test_any_target(target: str) -> None:
    try:
        found = config.load_class(target, "model._target_")
    except ConfigError as error:
        assert str(error).startswith("model._target_: ")
    else:  # what is let through is ours, or an optimiser's or torchvision's own
        assert found.__module__.startswith(config.ALLOWED_ROOTS) and target.startswith(config.ALLOWED_ROOTS)
        assert isinstance(found, type) or ".models" in found.__module__
