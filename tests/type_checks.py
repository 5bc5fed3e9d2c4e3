"""Types are checked as the library's functions are called: wrong annotations are errors in every test.

jaxtyping checks the shapes of tensors as well. That costs a call more than most functions of the tracer do, which no
annotation of theirs needs: their packages have beartype alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from beartype import BeartypeConf
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

LIBRARY = Path(__file__).parents[1] / "earlycrop"
WITHOUT_SHAPES = ("graph", "tracing", "utils")
"""Packages of the library without a shape in an annotation."""
NAMED_TUPLES = ("earlycrop.tracing.operation",)
"""Modules of them with a named tuple, whose annotations beartype cannot find."""


def install() -> None:
    """Have what is imported from now on checked. The library itself must not be imported yet."""
    if "earlycrop" in sys.modules:
        raise RuntimeError("earlycrop was imported before tests.type_checks could have it checked")
    parts = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    beartype_packages(
        [f"earlycrop.{part}" for part in WITHOUT_SHAPES],
        conf=BeartypeConf(claw_is_pep526=False, claw_skip_package_names=NAMED_TUPLES),
    )
    shaped = sorted(parts - {"__init__", *WITHOUT_SHAPES})
    install_import_hook([*(f"earlycrop.{part}" for part in shaped), *NAMED_TUPLES], "beartype.beartype")
