"""What holds for the whole tree: imports point one way, the wheel works elsewhere, options keep their names."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddlecore import config
from paddlecore.schema import Optim, RunConfig
from paddlecore.signature import signature_of

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("paddlerec", "paddlecv", "paddlenlp")
PACKAGES = ("paddlecore", *SUITES)


def tracked(*patterns: str) -> list[Path]:
    """Files under version control; in an unpacked sdist, all files."""
    shown = subprocess.run(["git", "-C", str(ROOT), "ls-files", *patterns], capture_output=True, text=True)
    names = shown.stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def sources(package: str) -> Iterator[tuple[str, ast.Module]]:
    """(dotted name, tree) of each module of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(name: str, tree: ast.Module, *, at_start: bool = False) -> set[str]:
    """Modules that `name` imports; `at_start`: only those its own import loads, not those inside functions."""
    found = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if at_start and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide which way they point"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo.extend(ast.iter_child_nodes(node))
    return found


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


# ---------------------------------------------------------------------------------------------------- arrows

# For each kind of module of a suite: the kinds of its own suite that it may import.
MAY_IMPORT = {
    "models": ("models", "layers"),
    "layers": ("layers",),
    "metrics": ("metrics",),
    "tasks": ("tasks", "metrics", "layers"),
    "data": ("data", "metrics"),  # generated data knows the best value that a metric can take
}


def test_a_suite_never_imports_another() -> None:
    for suite in SUITES:
        others = [other for other in SUITES if other != suite]
        for name, tree in sources(suite):
            wrong = [m for m in imports(name, tree) if within(m, *others)]
            assert not wrong, f"{name} imports {wrong}"


def test_inside_a_suite_imports_point_one_way() -> None:
    seen = 0
    for suite in SUITES:
        for name, tree in sources(suite):
            parts = name.split(".")
            if len(parts) < 2:
                continue
            assert parts[1] in MAY_IMPORT, f"{name}: a suite has the rooms {', '.join(MAY_IMPORT)}"
            allowed = [f"{suite}.{kind}" for kind in MAY_IMPORT[parts[1]]]
            for module in imports(name, tree):
                if within(module, suite):
                    seen += 1
                    assert within(module, *allowed), f"{name} imports {module}"
    assert seen > 10  # the walk has seen something


def test_the_engine_knows_no_suite() -> None:
    for name, tree in sources("paddlecore"):
        wrong = [m for m in imports(name, tree) if within(m, *SUITES)]
        assert not wrong, f"{name} imports {wrong}"


def test_models_and_layers_take_only_finished_parts_of_the_engine() -> None:
    """No config, trainer, task, data, journal: a model is a plain module that anyone can use."""
    allowed = tuple(f"paddlecore.{part}" for part in ("errors", "sparse", "linear", "dropout", "distributed"))
    for suite in SUITES:
        for name, tree in sources(suite):
            if name.split(".")[1:2] in (["models"], ["layers"]):
                wrong = [m for m in imports(name, tree) if within(m, "paddlecore") and not within(m, *allowed)]
                assert not wrong, f"{name} imports {wrong}"


def test_only_config_knows_hydra() -> None:
    for package in PACKAGES:
        for name, tree in sources(package):
            wrong = [m for m in imports(name, tree) if within(m, "hydra", "omegaconf")]
            assert not wrong or name == "paddlecore.config", f"{name} imports {wrong}"


def test_slow_packages_are_imported_where_they_are_used() -> None:
    for package in PACKAGES:
        for name, tree in sources(package):
            loaded = imports(name, tree, at_start=True)
            slow = ("matplotlib", "pandas", "pyarrow", "tensorboard", "torch.utils.tensorboard", "hydra", "sklearn")
            wrong = [m for m in loaded if within(m, *slow)]
            assert not wrong, f"{name} imports {wrong} when it is imported; put that into the function that needs it"


def test_importing_models_loads_no_trainer_config_or_logger() -> None:
    code = (
        "import sys, paddlerec.models, paddlecv.models, paddlenlp.models\n"
        "heavy = ('hydra', 'omegaconf', 'tensorboard', 'pandas', 'pyarrow', 'matplotlib', 'paddlecore.trainer',"
        " 'paddlecore.run', 'paddlecore.task', 'paddlecore.data', 'paddlecore.journal', 'paddlecore.config')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_tools_hold_no_logic() -> None:
    tools = sorted((ROOT / "tools").glob("*.py"))
    assert tools
    for path in tools:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 30, path.name
        kinds = {type(node) for node in ast.walk(ast.parse(text))}
        assert not kinds & {ast.For, ast.While, ast.FunctionDef, ast.ClassDef, ast.Try}, path.name


# ---------------------------------------------------------------------------------------------------- text


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    home = r"(?<![\w.<])/(?:home|root|tmp|work|Users)/\w"
    # in pieces, so that this file does not name them either
    registry = "|".join((r"(?:py" r"pi|python" r"hosted|download\.py" r"torch)\.org", "index.url=", "find.links="))
    files = tracked()
    if not files:
        pytest.skip("not a checkout")
    for path in files:
        if path == Path(__file__) or ".safetensors" in path.name or path.suffix in (".png", ".jpg"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(f"{home}|{registry}", line)
            allowed = path.parent.name == "core" and path.name.startswith("test_")  # invented paths in tests
            assert not found or allowed, f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_licence_is_apache_and_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text) > 11_000
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "Apache-2.0"' in project


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    def canonical(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(r'^    "([^"]+)",$', project.split("dependencies = [")[1].split("]\n")[0], re.M)
    wanted += re.findall(r'^    "([^"]+)",$', project.split("dev = [")[1].split("\n]")[0], re.M)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line) for line in lines if not line.startswith("#")}
    missing = {canonical(w) for w in wanted} - pinned - {"paddle-suite"}
    assert len(wanted) > 20 and not missing


def test_every_extra_is_asked_for_where_it_is_used() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^([\w-]+) = \[", project.split("[project.optional-dependencies]")[1].split("\n[")[0], re.M)
    text = "".join(file.read_text(encoding="utf-8") for file in tracked() if file.suffix in (".py", ".md"))
    unused = {e for e in extras if f"paddle-suite[{e}]" not in text}
    to_come = {"serve", "demo", "sweep", "rec-dist", "video", "quant"}
    assert unused == to_come | {"docs", "dev"}


def test_ci_and_make_agree_on_the_command(tmp_path: Path) -> None:
    """`.ci/run` takes the command of `make test`, and leaves nothing in the environment that changes a result."""
    checkout = tmp_path / "checkout"
    (checkout / ".ci").mkdir(parents=True)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (checkout / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    (checkout / "Makefile").write_text(
        "setup:\n\t@true\ntest:\n\t@echo data=$$PADDLE_DATA threads=$$OMP_NUM_THREADS path=$$PYTHONPATH; exit 7\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "9", "PYTHONPATH": "x", "PADDLE_DATA": "y", "WORLD_SIZE": "2"}
    shown = subprocess.run(["sh", ".ci/run"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert shown.returncode == 7
    assert shown.stdout == f"data={tmp_path / 'shared' / 'data'} threads= path=\n" and shown.stderr == ""


def test_an_environment_that_was_interrupted_while_it_was_made_is_completed(tmp_path: Path) -> None:
    """venv makes the interpreter first and pip last; one without pip has to be made again."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, line in ((".venv/bin/python", "exit 1"), ("stub", "printf '#!/bin/sh\\n' > .venv/bin/python")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["make", "setup", "PYTHON=./stub"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".venv" / ".installed").is_file()


# ---------------------------------------------------------------------------------------------------- options


def option_names() -> list[str]:
    """Every public option: the engine's, and those of each class that a recipe names."""
    names = {f"engine {name}" for name in engine_options()}
    for recipe in config.list_recipes():
        cfg = config.compose([f"recipe={recipe}"])
        for section in (cfg.model, cfg.task, cfg.data):
            signature = signature_of(section["_target_"])
            names |= {f"{signature.target} {name}" for name in signature.names}
    return sorted(names)


def engine_options() -> list[str]:
    def walk(section: object, prefix: str) -> Iterator[str]:
        assert dataclasses.is_dataclass(section)
        for field in dataclasses.fields(section):
            value = Optim() if prefix == "" and field.name == "optim" else getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                yield from walk(value, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name

    return list(walk(RunConfig(), ""))


def test_public_option_names_are_frozen() -> None:
    """Renaming or removing an option breaks users' commands. After adding one: PADDLE_UPDATE_GOLDEN=1 pytest <this>."""
    golden = ROOT / "tests" / "golden" / "options.txt"
    now = option_names()
    if os.environ.get("PADDLE_UPDATE_GOLDEN"):
        golden.write_text("\n".join(now) + "\n", encoding="utf-8")
    frozen = golden.read_text(encoding="utf-8").splitlines()
    assert sorted(set(frozen) - set(now)) == [], "options that are gone or renamed"
    assert sorted(set(now) - set(frozen)) == [], "new options: run with PADDLE_UPDATE_GOLDEN=1"


def test_every_option_of_a_class_says_what_it_is() -> None:
    """In the `Args:` of its docstring, which the pages of the recipes show."""
    for recipe in config.list_recipes():
        cfg = config.compose([f"recipe={recipe}"])
        for section in (cfg.model, cfg.task, cfg.data):
            signature = signature_of(section["_target_"])
            assert [p.name for p in signature.parameters if not p.doc] == [], signature.target


# ---------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist), built from the tracked files alone, without a download."""
    folder = tmp_path_factory.mktemp("built")
    files = tracked()
    if not files:
        pytest.skip("not a checkout")
    copy = folder / "copy"
    for path in files:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    shown = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-2000:]
    return next((folder / "dist").glob("*.whl")), next((folder / "dist").glob("*.tar.gz"))


def test_wheel_and_sdist_hold_what_is_tracked(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in tracked("paddlecore", "paddlerec", "paddlecv", "paddlenlp", "configs", "pretrained"):
        inside = path.relative_to(ROOT).as_posix()
        inside = re.sub("^configs/", "paddlecore/_configs/", re.sub("^pretrained/", "paddlecore/_pretrained/", inside))
        assert inside in names, inside
    assert not [n for n in names if n.startswith(("tests/", "tools/", "docs/"))]
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    whole = ("benchmarks", "configs", "docs", "pretrained", "tests", "tools", "Makefile", "constraints.txt")
    for path in tracked(*PACKAGES, *whole):
        assert path.relative_to(ROOT).as_posix() in packed, path


def test_the_wheel_trains_away_from_the_checkout(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed in an environment of its own, which only borrows the dependencies of this one."""
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    # A path named in a .pth file has its own .pth files ignored, so an editable install there stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--force-reinstall", str(built[0])],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PADDLE_DATA")}
    command = home / "bin" / "paddlesuite"
    shown = subprocess.run(
        [command, "train", "recipe=rec/deepfm_toy", "train.max_steps=3", "train.max_eval_batches=1", "output_dir=run"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-3000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3 and (tmp_path / "run" / "checkpoints" / "step_00000003").is_dir()
    where = subprocess.run(
        [python, "-c", "import paddlecore, paddlecore.config as c; print(paddlecore.__file__, c.config_root())"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.count(str(site)) == 2
    zoo = subprocess.run([command, "zoo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert len(zoo.stdout.splitlines()) == len(config.list_recipes()) + 1
