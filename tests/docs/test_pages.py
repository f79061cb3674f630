"""The site builds without a warning, and what is generated is up to date."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from paddlecore import cli, config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees"),
         str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-3000:]
    made = {path.name for path in (tmp_path / "html" / "models").glob("*.html")}
    assert {f"{name.replace('/', '_')}.html" for name in config.list_recipes()} <= made
    options = (tmp_path / "html" / "options.html").read_text(encoding="utf-8")
    assert "train.accumulate" in options and "&lt;suite&gt;" in options


def test_a_page_of_each_recipe_shows_its_file_and_its_arguments(generate: ModuleType) -> None:
    for name in config.list_recipes():
        page = generate.recipe_page(name)
        assert f"_target_: {config.read_recipe(name)['model']['_target_']}" in page
        assert "| `data.batch_size` | `int` |" in page


def test_the_readmes_table_is_that_of_the_cards(generate: ModuleType) -> None:
    """If this fails: python docs/generate.py --readme"""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert generate.readme(text) == text
    assert all(f"`{row['recipe']}`" in text for row in cli.zoo_rows())


def test_every_guide_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem in index or page.stem == "index"
