"""Sphinx: `make docs`. The options and model pages are generated here, so that they cannot fall behind the code."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import generate  # noqa: E402

from paddlecore import __version__  # noqa: E402

generate.write()

project = "paddle-suite"
author = "the paddle-suite authors"
release = version = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"paddle-suite {__version__}"
nitpicky = True
