"""Recipes and overrides in, a checked configuration or one clear error out."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from paddlecore import config
from paddlecore.config import build, compose
from paddlecore.errors import ConfigError
from paddlecore.schema import Optim, RunConfig

CONFIGS = Path(__file__).parents[3] / "configs"

BASE = """\
# @package _global_
train: {max_epochs: 3, clip_norm: 1.5}
optim: {lr: 1e-2, weight_decay: 0.1}
"""
TOY = """\
# @package _global_
defaults:
  - rec/_base_toy
about: {title: Toy net}
model: {_target_: torchvision.models.AlexNet, dropout: 0.2}
task: {_target_: paddlecore.task.Task}
data: {_target_: paddlecore.data.DataModule, batch_size: 1e2}
train: {max_epochs: 4}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A config tree with the real engine files, one recipe and its shared file."""
    root = tmp_path / "configs"
    shutil.copytree(CONFIGS / "debug", root / "debug")
    shutil.copy(CONFIGS / "train.yaml", root / "train.yaml")
    (root / "recipe" / "rec").mkdir(parents=True)
    (root / "recipe" / "rec" / "_base_toy.yaml").write_text(BASE)
    (root / "recipe" / "rec" / "toy.yaml").write_text(TOY)
    return root


def refused(root: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(["recipe=rec/toy", *overrides], root=root)
    return str(caught.value)


def own_recipe(root: Path, text: str) -> str:
    path = root.parent / "mine.yaml"
    path.write_text(text)
    return f"recipe={path}"


# --- the defaults


def test_train_yaml_equals_the_schema() -> None:
    written = config.load_record(CONFIGS / "train.yaml")
    assert written.pop("defaults") == ["_self_", {"recipe": None}, {"debug": None}]
    schema = dataclasses.asdict(RunConfig(optim=dataclasses.asdict(Optim())))
    del schema["recipe"], schema["debug"]
    assert config.flatten(written) == config.flatten(schema)


@pytest.mark.parametrize("name", ["train", "debug/smoke", "debug/overfit", "debug/profile"])
def test_every_key_has_a_comment(name: str) -> None:
    sections = {"train:", "data:", "init:", "defaults:", "- _self_"}
    for line in (CONFIGS / f"{name}.yaml").read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#") and line.strip() not in sections:
            assert re.search(r"\S # \S", line), line


def test_debug_files_are_those_of_the_schema() -> None:
    (field,) = (f for f in dataclasses.fields(RunConfig) if f.name == "debug")
    assert {p.stem for p in (CONFIGS / "debug").glob("*.yaml")} == set(field.metadata["choices"])


# --- layers


def test_layers_lie_over_one_another(root: Path) -> None:
    cfg = compose(["recipe=rec/toy", "debug=smoke", "train.log_every=7"], root=root)
    assert cfg.train.precision == "fp32"  # engine
    assert (cfg.train.clip_norm, cfg.optim["weight_decay"]) == (1.5, 0.1)  # shared file
    assert cfg.train.max_epochs == 4  # recipe over shared file
    assert cfg.train.max_steps == 2  # debug
    assert cfg.train.log_every == 7  # command line over debug
    assert (cfg.recipe, cfg.debug, cfg.about.title) == ("rec/toy", "smoke", "Toy net")
    assert cfg.data["batch_size"] == 100 and isinstance(cfg.data["batch_size"], int)
    assert cfg.optim["schedule"] == dataclasses.asdict(Optim())["schedule"]


def test_values_follow_hydras_grammar(root: Path) -> None:
    overrides = ["optim.freeze=[a.*,b]", "optim.betas=[0.8, 0.9]", "init.weights='a b'", "train.max_steps=1e3"]
    overrides += ["optim.groups=[{match: 'a*', lr_scale: 0.1, weight_decay: 0}]", "optim.groups.0.lr=1e-4"]
    overrides += ["output_dir=runs/x", "train.clip_norm=null", "about={title: New}"]
    cfg = compose(["recipe=rec/toy", *overrides], root=root)
    assert (cfg.optim["freeze"], cfg.optim["betas"]) == (["a.*", "b"], [0.8, 0.9])
    assert (cfg.init.weights, cfg.output_dir, cfg.train.clip_norm) == ("a b", "runs/x", None)
    assert cfg.train.max_steps == 1000 and isinstance(cfg.train.max_steps, int)
    assert cfg.optim["groups"] == [{"match": "a*", "lr_scale": 0.1, "weight_decay": 0, "lr": 1e-4}]
    assert cfg.about.title == "New"


def test_a_list_takes_the_place_of_a_mapping_inside_a_section() -> None:
    given = ["recipe=rec/deepfm_table", "data.categorical=[who]", "data.categorical=[shop, page]", "data.dense=[price]"]
    data = config.compose(given).data
    assert data["categorical"] == ["shop", "page"] and data["dense"] == ["price"]
    merged = config.compose([given[0], "data.categorical={shop: {}}"]).data["categorical"]
    assert list(merged) == ["user", "friend", "item", "page", "shop"]


def test_numbers_as_keys_of_names_are_text() -> None:
    labels = config.compose(["recipe=nlp/textcnn_mr", "data.labels={0: neg, 1: pos}"]).data["labels"]
    assert labels == {"0": "neg", "1": "pos"}
    with pytest.raises(ConfigError, match=r"data\.labels: expected list\[str\] | dict\[str, str\]"):
        config.compose(["recipe=nlp/textcnn_mr", "data.labels={0: neg, 1: 2}"])


def test_a_mapping_takes_the_place_of_a_list_inside_a_section(root: Path) -> None:
    table = "{_target_: paddlerec.data.TableData, label: clicked, categorical: [shop, page]}"
    own = own_recipe(root, re.sub("data: .*", f"data: {table}", TOY))
    maps = {"shop": {"min_count": 2}}
    assert compose([own, "data.categorical={shop: {min_count: 2}}"], root=root).data["categorical"] == maps
    assert "model.dropout: expected float, got {'a': 1}" in refused(root, "model.dropout={a: 1}")
    assert "optim.groups: expected list" in refused(root, "optim.groups={a: 1}")


def test_phases_lie_over_the_optimiser(root: Path) -> None:
    gen, disc = "{lr: 1e-4, schedule: {kind: cosine}}", "{_target_: torch.optim.SGD, momentum: 0.9}"
    phases = f"optim.phases={{gen: {gen}, disc: {disc}}}"
    cfg = compose(["recipe=rec/toy", "optim.schedule.warmup_steps=5", phases], root=root)
    assert cfg.optim["phases"]["gen"]["schedule"] == cfg.optim["schedule"] | {"kind": "cosine"}
    assert cfg.optim["phases"]["disc"] == {"_target_": "torch.optim.SGD", "momentum": 0.9}
    message = refused(root, "optim.phases={disc: {_target_: torch.optim.SGD, betas: [0.9, 0.9]}, gen: {phases: {}}}")
    assert "optim.phases.disc.betas: torch.optim.sgd.SGD has no such option" in message
    assert "optim.phases.gen.phases" in message


def test_recipe_of_ones_own(root: Path) -> None:
    cfg = compose([own_recipe(root, TOY), "train.log_every=5"], root=root)
    assert (cfg.model["dropout"], cfg.train.clip_norm, cfg.train.log_every) == (0.2, 1.5, 5)
    again = compose([own_recipe(root, TOY.replace("0.2", "0.3"))], root=root)
    assert again.model["dropout"] == 0.3  # the first one is not remembered
    assert config.default_run_dir(cfg).startswith("runs/own/mine-")


def test_listing(root: Path) -> None:
    assert config.list_recipes(root) == ["rec/toy"]
    assert config.recipe_path("rec/toy", root) == root / "recipe/rec/toy.yaml"
    assert config.recipe_files("rec/toy", root) == [root / "recipe/rec" / f for f in ("toy.yaml", "_base_toy.yaml")]
    assert config.read_recipe("rec/toy", root)["train"] == {"max_epochs": 4, "clip_norm": 1.5}
    assert (config.config_root() / "train.yaml").is_file()


def test_configs_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paddlecore" / "_configs").mkdir(parents=True)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "paddlecore" / "config.py"))
    assert config.config_root() == tmp_path / "paddlecore" / "_configs"


# --- what is refused


def test_what_other_programs_call_an_option_is_known_of_options_that_there_are() -> None:
    options = {*config.flatten(RunConfig()), *(f"optim.{n}" for n in config.flatten(dataclasses.asdict(Optim())))}
    options |= {f"{section}._target_" for section in ("model", "task", "data")} | {"data.source", "optim.weight_decay"}
    assert set(config._ALSO_CALLED) <= options


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.max_step=3", ["train.max_step: train has no such option", "'train.max_steps'", "command line"]),
        ("max_steps=3", ["max_steps:", "'train.max_steps'"]),
        ("lr=3", ["'optim.lr'"]),
        ("batch_size=3", ["'data.batch_size'"]),
        ("trian.precision=bf16", ["trian", "'train'"]),
        ("model.num_clases=3", ["torchvision.models.alexnet.AlexNet has no such option", "'model.num_classes'"]),
        ("model.classes_num=3", ["'model.num_classes'"]),
        ("model.classes=3", ["'model.num_classes'"]),
        ("data.bach=3", ["'data.batch_size'"]),
        ("data.bach_size=3", ["'data.batch_size'"]),
        ("optim.learningrate=3", ["optim.learningrate", "did you mean 'optim.lr'?"]),
        ("optim.type=adam", ["did you mean 'optim._target_'?"]),
        ("optim.patience=3", ["did you mean 'optim.schedule.patience' or 'train.early_stop'?"]),
        ("train.fp16=true", ["did you mean 'train.precision'?"]),
        ("data.path=rows.csv", ["did you mean 'data.source'?"]),
        ("train.gpus=2", ["did you mean 'device'?"]),
        ("model.num_classes=0", ["model.num_classes: must be at least 1, got 0"]),
        ("data.workers=-1", ["data.workers: must be at least 0, got -1"]),
        ("task.model=3", ["task.model", "has no such option"]),  # the engine gives it
        ("optim.weight_decy=3", ["'optim.weight_decay'"]),
        ("optim.params=3", ["optim.params", "has no such option"]),
        ("optim.schedule.kid=step", ["'optim.schedule.kind'"]),
        ("optim.groups=[{lr_scale: 1}]", ["optim.groups.0.match: not given"]),
        ("optim.groups=[{match: a, lr_scal: 1}]", ["'optim.groups.0.lr_scale'"]),
        ("optim.groups=[{match: a, lr: -1}]", ["optim.groups.0.lr: must be at least 0"]),
        ("train.max_steps=1.5", ["expected int | None, got 1.5 (float)"]),
        ("train.max_steps=true", ["expected int | None, got True (bool)"]),
        ("train.compile=1", ["expected bool, got 1 (int)"]),
        ("train.compile=yes", ["expected bool, got 'yes' (str)"]),
        ("train.max_steps=0", ["must be at least 1, got 0"]),
        ("train.precision=fp61", ["expected fp32 or bf16 or fp16, got 'fp61'", "did you mean 'fp16'"]),
        ("train.trackers=[wandb,mlfow]", ["got 'mlfow'", "did you mean 'mlflow'"]),
        ("train.clip_norm=nan", ["nan is not a value"]),
        ("train.clip_norm=0", ["train.clip_norm: must be above 0, got 0"]),
        ("train.ema=1.0", ["train.ema: must be below 1, got 1"]),
        ("seed=9223372036854775808", ["seed: must be below 9223372036854775808"]),
        ("output_dir=~/runs", ["~ is not replaced here; write $HOME"]),
        ("init.weights=", ["init.weights: is empty", "leave it out"]),
        ("optim.lr=-1", ["optim.lr: must be at least 0"]),
        ("optim.lr=fast", ["expected float, got 'fast'"]),
        ("optim.eps=small", ["optim.eps: expected float, got 'small'"]),
        ("optim.betas=[0.9]", ["optim.betas: expected tuple"]),
        ("optim._target_=torch.optim.Adan", ["no class 'Adan'", "'Adam'"]),
        ("optim._target_=torch.optim.Lion", ["no class 'Lion'", "it has", "AdamW"]),
        ("model.dropout=high", ["model.dropout: expected float, got 'high'"]),
        ("data.workers=two", ["data.workers: expected int"]),
        ("train=3", ["train: expected a section of options, got 3"]),
        ("model=null", ["model"]),
        ("seed.x=3", ["seed: expected int"]),
        ("device=gpu", ["device: expected auto, cpu, cuda or cuda:<n>, got 'gpu'"]),
        ("train.max_epochs=null", ["never end"]),
        ("init.resume=???", ["init.resume: must be given a value"]),
        ("init.weights=${oc.env:HOME}", ["interpolation is not allowed"]),
        ("init.weights='${now:%Y}'", ["interpolation is not allowed"]),
        ("model._partial_=true", ["model._partial_: only _target_ is understood"]),
        ("hydra.run.dir=x", ["Hydra's own options are not open"]),
        ("recipe@x=3", ["Hydra's own options are not open"]),
        ("~train.max_steps", ["cannot be deleted"]),
        ("+train.max_steps=3", ["without the +"]),
        ("++train.max_steps=3", ["without the +"]),
        ("train.max_steps", ["expected key=value"]),
        ("--multirun", ["a sweep is several commands"]),
        ("--train.max_steps=3", ["without the dashes"]),
        ("train..max_steps=3", ["is not the name of an option"]),
        ("seed=1,2", ["seed: one value, please"]),
        ("seed=choice(1,2)", ["seed: one value, please"]),
        ("train.trackers=[wandb", ["train.trackers", "cannot be read as a value"]),
        ("debug=smok", ["expected overfit or profile or smoke; did you mean 'smoke'"]),
        ("recipe=rec/toi", ["no recipe 'rec/toi'; did you mean 'rec/toy'"]),
        ("recipe=toy", ["did you mean 'rec/toy'"]),
        ("recipe=../toy", ["did you mean 'rec/toy'"]),
        ("recipe=xyzzy", ["recipes:\n  rec/toy"]),
        ("recipe=null", ["which recipe?", "rec/toy"]),
        ("recipe=nofile.yaml", ["there is no such file"]),
    ],
)
def test_refused_override(root: Path, override: str, parts: list[str]) -> None:
    message = refused(root, override)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("text", ["runs/é ü 中文", "runs/lr=0.1", "/a/#3; b", "Grüße"])
def test_text_needs_no_quotes(root: Path, text: str) -> None:
    cfg = compose(["recipe=rec/toy", f"output_dir={text}", f"init.weights={text}"], root=root)
    assert cfg.output_dir == cfg.init.weights == text
    assert "optim.lr: expected float, got 'é'" in refused(root, "optim.lr=é")


def test_without_a_recipe_all_are_listed(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)python tools/check_data.py recipe=.*rec/toy"):
        compose(["seed=3"], verb="check-data", root=root)


def test_all_problems_at_once_and_where_they_come_from(root: Path) -> None:
    (root / "recipe/rec/_base_toy.yaml").write_text(BASE + "seed: -2\n")
    (root / "recipe/rec/toy.yaml").write_text(TOY + "init: {weight: x}\n")
    for extra in ("train.compile=3", "train.trackers=[x]"):  # without and with Hydra
        lines = refused(root, "optim.lrr=1", extra).splitlines()
        assert lines[0] == "4 problems:"
        assert any("seed: must be at least 0, got -2 [" in line and line.endswith("_base_toy.yaml]") for line in lines)
        assert any("'init.weights'" in line and line.endswith("toy.yaml]") for line in lines)
        assert sum(line.endswith("[command line]") for line in lines) == 2


def test_data_must_be_complete_but_sizes_of_a_model_come_later(root: Path) -> None:
    plan = "{_target_: paddlecore.data.Plan, batch_size: 3}"
    message = refused(root, "model=" + plan, "data=" + plan)
    assert "data.size: not given, and paddlecore.data.Plan requires it" in message
    assert "model.size" not in message


def test_what_is_missing_is_missing_from_the_recipe(root: Path) -> None:
    """Not from the file it shares with others."""
    (root / "recipe/rec/toy.yaml").write_text(TOY.replace("DataModule, batch_size: 1e2", "Plan"))
    lines = refused(root, "debug=smoke").splitlines()
    assert any("data.size: not given" in line and line.endswith("rec/toy.yaml]") for line in lines), lines


def test_sections_inside_sections_are_checked(root: Path) -> None:
    inner = "{_target_: torchvision.models.AlexNet, num_clases: 3}"
    for value in (inner, f"[{inner}]", f"{{a: {inner}}}"):
        message = refused(root, f"model.num_classes={value}")
        assert "num_clases: torchvision.models.alexnet.AlexNet has no such option" in message
    assert "os.system is not allowed" in refused(root, "model.num_classes=[{a: {_target_: os.system}}]")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: ${oc.env:HOME}", "model: interpolation is not allowed"),
        ("model: {a: ['${x}']}", "model.a.0: interpolation is not allowed"),
        ("model: {'${x}': 1}", "model.${x}: interpolation is not allowed"),
        ("model: {_target_: os.system}", "os.system is not allowed"),
        ("hydra: {run: {dir: x}}", "hydra: cannot be set in a file"),
        ("debug: smoke", "debug: cannot be set in a file"),
        ("defaults: [rec/_base_none]", "one shared file (rec/_base_toy)"),
        ("defaults: [rec/_base_toy, rec/_base_toy]", "one shared file"),
        ("defaults: [{override /hydra/launcher: x}]", "one shared file"),
        ("defaults: ['${oc.env:HOME}']", "interpolation is not allowed"),
        ("defaults: [_self_, rec/_base_toy]", "one shared file"),
        ("defaults: x", "defaults: expected a list"),
        ("model: !!python/object/apply:os.system ['touch ran']", "cannot be read as plain YAML"),
        ("model: !!python/name:os.system", "cannot be read as plain YAML"),
        ("model: !!python/object/apply:pathlib.PosixPath [a]", "cannot be read as plain YAML"),
        ("model: !!binary YQ==", "only plain values are allowed, got a bytes"),
        ("model: !!set {a, b}", "only plain values are allowed, got a set"),
        ("model: &a [*a]", "aliases (*name) are not allowed"),
        ("model: {a: 1, a: 2}", "the key 'a' is twice"),
        ("model: {a: .nan}", "model.a: nan is not a value"),
        ("model: {on: 1}", "a key must be text, got True"),
        ("model: {_args_: [1]}", "only _target_ is understood"),
        ("- a", "must hold `key: value` lines"),
        ("a: [", "cannot be read as plain YAML"),
        ("model: " + "[" * 1000, "cannot be read as plain YAML"),
        ("model: " + "[" * 30 + "]" * 30, "nested too deeply"),
    ],
)
def test_refused_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, part: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        compose([own_recipe(root, text)], root=root)
    assert part in str(caught.value) and "mine.yaml" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_shared_file_shares_no_other(root: Path) -> None:
    (root / "recipe/rec/_base_toy.yaml").write_text(BASE + "defaults: [rec/_base_toy]\n")
    assert "_base_toy.yaml: a shared file cannot have defaults of its own" in refused(root)


def test_recipe_of_the_tree_needs_its_header(root: Path) -> None:
    (root / "recipe/rec/toy.yaml").write_text(TOY.replace("_global_", "hydra"))
    assert "the first line must be `# @package _global_`" in refused(root)


def test_torch_is_never_loaded_and_hydra_only_where_needed(root: Path) -> None:
    code = f"""
    import sys
    from pathlib import Path
    from paddlecore import config
    root = Path({str(root)!r})
    def heavy():
        return {{m for m in ("torch", "numpy", "hydra", "paddlecore.data") if m in sys.modules}}
    config.help_text(["recipe=rec/toy"], root=root)
    try:
        config.compose(["recipe=rec/toy", "train.max_step=3", "model.x=3"], root=root)
    except config.ConfigError:
        assert not heavy(), heavy()
    else:
        raise SystemExit("accepted")
    config.compose(["recipe=rec/toy"], root=root)
    assert heavy() == {{"hydra"}}, heavy()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=CONFIGS.parent)


def test_hydra_leaves_no_trace(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    compose(["recipe=rec/toy"], root=root)
    assert not GlobalHydra.instance().is_initialized()
    assert list((tmp_path / "here").iterdir()) == []


def test_a_program_of_hydras_own_composes_too(root: Path) -> None:
    """As under @hydra.main: what it has begun is there afterwards."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import getbase

    with hydra.initialize_config_dir(str(root), version_base="1.2"):
        program = GlobalHydra.instance().hydra
        assert compose(["recipe=rec/toy", "seed=5"], root=root).seed == 5
        with pytest.raises(ConfigError):
            compose(["recipe=rec/toy", "seed=[5]"], root=root)
        assert GlobalHydra.instance().hydra is program
        assert str(getbase()) == "1.2"


def test_threads_compose_at_the_same_time(root: Path) -> None:
    own = own_recipe(root, TOY.replace("Toy net", "Own net"))
    with ThreadPoolExecutor(4) as threads:
        configs = threads.map(lambda n: compose([own if n % 2 else "recipe=rec/toy", f"seed={n}"], root=root), range(8))
        found = [(c.seed, c.about.title) for c in configs]
    assert found == [(n, "Own net" if n % 2 else "Toy net") for n in range(8)]


# --- building


def test_build_fills_in_what_the_constructor_takes() -> None:
    plan = build({"_target_": "paddlecore.data.Plan", "batch_size": 4}, "data", size=10, batch_size=99, classes=3)
    assert (plan.size, plan.batch_size) == (10, 4)
    section = {"_target_": "paddlecore.data.Plan", "batch_size": 4}
    assert config.resolved(section, "data", size=10, classes=3) == section | {"size": 10}


def test_build_makes_inner_sections_first() -> None:
    inner = {"_target_": "paddlecore.data.Plan", "size": 3, "batch_size": 1}
    outer = build({"_target_": "paddlecore.data.FirstBatches", "plan": inner, "batches": 1}, "data")
    assert outer.steps(0) == 1


def test_build_says_what_is_missing_or_refused() -> None:
    plan = {"_target_": "paddlecore.data.Plan", "batch_size": 0}
    with pytest.raises(ConfigError, match="Plan also requires size; .* gives classes; set data.size=..."):
        build(plan, "data", classes=3)
    with pytest.raises(ConfigError, match="data: .*Plan refuses its arguments: there is no 'siz'; did you mean 'size'"):
        build({**plan, "siz": 3}, "data")
    with pytest.raises(ConfigError, match="data: .*Plan refuses its arguments: batch_size must be at least"):
        build(plan, "data", size=3)
    with pytest.raises(ConfigError, match="model: .*MLP refuses its arguments: .*negative dimension"):  # a RuntimeError
        build({"_target_": "torchvision.ops.MLP", "in_channels": -1, "hidden_channels": [2]}, "model")
    with pytest.raises(ConfigError, match="model: .*SASRec refuses its arguments: .*by zero"):  # a ZeroDivisionError
        build({"_target_": "paddlerec.models.SASRec", "num_items": 3, "heads": 0}, "model")
    with pytest.raises(ConfigError, match="model: .*refuses its arguments: .*depht"):
        build({"_target_": "torchvision.models.resnet18", "depht": 3}, "model")
    with pytest.raises(ConfigError, match="model._target_"):
        build({"depth": 3}, "model")


def test_a_class_of_another_kind_is_refused_before_it_is_called(tmp_path: Path) -> None:
    """A mix-up of a recipe's sections; and in a file from elsewhere, a class that writes where it is told to."""
    from torch import nn

    log = tmp_path / "metrics.jsonl"
    log.write_text("kept")
    section = {"_target_": "paddlecore.journal.Journal", "folder": tmp_path}
    with pytest.raises(ConfigError, match=r"model._target_: expected a class derived from .*Module, got .*\.Journal"):
        build(section, "model", nn.Module)
    assert log.read_text() == "kept"
    assert build({"_target_": "torchvision.models.squeezenet1_0"}, "model", nn.Module).num_classes == 1000


@pytest.mark.parametrize(
    "target, option",
    [
        ("models.squeezenet1_1", {"weights": "DEFAULT"}),
        ("models.squeezenet1_1", {"pretrained": True}),
        ("models.detection.ssdlite320_mobilenet_v3_large", {"weights_backbone": "DEFAULT"}),
        ("datasets.MNIST", {"root": "here", "download": True}),
        ("models.get_model", {"name": "squeezenet1_1", "weights": "DEFAULT"}),
    ],
)
def test_torchvision_downloads_nothing(target: str, option: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    asked: list[object] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *given, **_: asked.append(given) or 1 / 0)
    with pytest.raises(
        ConfigError, match="would fetch and unpickle|neither a class nor a function of a models package"
    ):
        build({"_target_": f"torchvision.{target}", **option}, "model")
    assert not asked


def test_torchvisions_detectors_start_without_the_weights_they_would_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import MobileNet_V3_Large_Weights

    monkeypatch.setattr(MobileNet_V3_Large_Weights, "get_state_dict", lambda *_, **__: 1 / 0)
    build({"_target_": "torchvision.models.detection.ssdlite320_mobilenet_v3_large", "num_classes": 3}, "model")


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.optimx.Adam", "paddlecorex.A",
        "torch.optim.lr_scheduler.os.system", "torch.optim.lr_scheduler.types.FunctionType", "torchvision.os",
        "torchvision.torch", "torchvision.torch.load", "torchvision.extension.os", "paddlecore.config.re.compile",
        "paddlecore.config.yaml.unsafe_load", "paddlecore.config.Path", "paddlecore.data.Tensor",
        "paddlecore.signature.cache", "paddlecore.config", "paddlecore.config.build", "paddlecore.config.ALLOWED_ROOTS",
        "torchvision.datasets.utils.download_and_extract_archive", "torchvision.io.write_file",
        "torch.optim.Adam.__init__", "torch.optim.__builtins__.eval", "torch.optim..Adam", "torch.optim.Adam ", "",
        "torch.optim.Adam\n", ".torch.optim.Adam", "tōrch.optim.Adam", None, 3, ["torch.optim.Adam"],
    ],
)  # fmt: skip
def test_class_that_may_not_be_built(target: Any) -> None:
    with pytest.raises(ConfigError, match="model._target_"):
        build({"_target_": target}, "model")


@pytest.mark.parametrize(
    "target", ["torch.optim.Adam", "torch.optim.Adafactor", "torchvision.models.resnet18", "paddlecore.task.Task"]
)
def test_class_that_may_be_built(target: str) -> None:
    assert callable(config.load_class(target, "model._target_"))


# --- as data


def test_dump_reads_back(root: Path, tmp_path: Path) -> None:
    title = "about.title='yes: 2001-01-01'"
    cfg = compose(["recipe=rec/toy", "init.weights='1e-3'", "optim.lr=1e-5", title], root=root)
    (tmp_path / "run_config.yaml").write_text(config.dump(cfg))
    assert config.load_record(tmp_path / "run_config.yaml") == config.to_dict(cfg)
    assert config.flatten(cfg)["optim.schedule.kind"] == "constant"


def test_record_is_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "run_config.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(ConfigError, match="run_config.yaml cannot be read"):
        config.load_record(path)
    assert not (tmp_path / "made").exists()


def test_run_folder_depends_on_what_changes_the_result(root: Path) -> None:
    cfg = compose(["recipe=rec/toy"], root=root)

    def folder(key: str, value: Any) -> str:
        changed = copy.deepcopy(cfg)
        *sections, last = key.split(".")
        owner: Any = changed
        for section in sections:
            owner = owner[section] if isinstance(owner, dict) else getattr(owner, section)
        owner.__setitem__(last, value) if isinstance(owner, dict) else setattr(owner, last, value)
        return config.default_run_dir(changed)

    first = config.default_run_dir(cfg)
    assert re.fullmatch(r"runs/rec/toy-[0-9a-f]{6}", first)
    neutral = {"output_dir", "device", "init.resume", "data.workers"} | {f"about.{f}" for f in vars(cfg.about)}
    neutral |= {f"train.{n}" for n in ("max_steps", "max_epochs", "log_every", "save_every", "keep", "trackers")}
    neutral |= {"train.profile", "train.rank_timeout"}
    neutral |= {"init.into", "init.average", "init.vocabulary"}  # they say nothing where there are no weights
    for key in {*config.flatten(cfg), *neutral} - {"recipe"}:
        assert (folder(key, "other") == first) == (key in neutral), key
    assert folder("seed", 1.0) == first  # the same number


# --- help


def test_help_has_every_engine_option_and_the_recipe(root: Path) -> None:
    text = config.help_text(root=root)
    assert max(len(line) for line in text.splitlines() if "=..." not in line) <= 100  # there is no terminal to fit
    for key in config.flatten(dataclasses.asdict(RunConfig(optim=dataclasses.asdict(Optim())))):
        assert key.startswith("about.") or key in ("model", "task", "data") or f"  {key}=" in text, key
    assert "rec/toy" in text and "Toy net" in text
    text = config.help_text(["recipe=rec/toy"], root=root)
    assert "model.dropout=0.2" in text and "data.batch_size=100" in text and "model.num_classes=1000" in text
    assert "task.model" not in text
    text = config.help_text([own_recipe(root, TOY.replace("AlexNet", "AlexNets"))], root=root)
    assert "model: torchvision.models has no class 'AlexNets'; did you mean " in text and "data.batch_size" in text
