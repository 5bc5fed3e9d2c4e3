"""The documentation's settings: ``make docs`` builds it, and every warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from earlycrop import __version__ as release
from earlycrop.utils.torchvision_compat import load_torchvision

load_torchvision()  # Lightning imports it, also where its operators do not load

project, author = "earlycrop", "The earlycrop developers"
copyright = author
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "pydata_sphinx_theme"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_sidebars = {"*": [], "guides/*": []}  # these pages have none below them
html_show_sourcelink = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False


def setup(app: Any) -> None:
    """Let docstrings write |x| for absolute values, which docutils would read as a reference."""
    app.connect("autodoc-process-docstring", _escape_bars, priority=900)


def _escape_bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    parts = (re.split(r"(``.*?``)", line) for line in lines)
    lines[:] = ["".join(p if p.startswith("``") else p.replace("|", r"\|") for p in line) for line in parts]
