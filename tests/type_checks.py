"""Types are checked as the library's functions are called: wrong annotations are errors in every test.

jaxtyping checks the shapes of tensors as well, and can be switched off. A call through it costs more than most
functions of the tracer do, which are called most and annotate no shape: they have beartype alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from beartype import BeartypeConf
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

LIBRARY = Path(__file__).parents[1] / "earlycrop"
CALLED_MOST = ("tracing", "utils.meta", "utils.meta_shapes")
"""Packages and modules of the library that have beartype alone."""
OTHERS = ("earlycrop.tracing.operation", "earlycrop.tracing.module_calls")
"""Modules of them with a named tuple, whose annotations beartype cannot find, and with closures, which it keeps."""


def install() -> None:
    """Check what is imported from now on. Call it before anything imports the library."""
    if "earlycrop" in sys.modules:
        raise RuntimeError("earlycrop was imported before tests.type_checks could have it checked")
    every = {".".join(path.relative_to(LIBRARY).with_suffix("").parts) for path in LIBRARY.rglob("*.py")}
    fast = {name for name in every if name.startswith(CALLED_MOST) and f"earlycrop.{name}" not in OTHERS}
    beartype_packages(
        [f"earlycrop.{name}" for name in CALLED_MOST],
        conf=BeartypeConf(claw_is_pep526=False, claw_skip_package_names=OTHERS),
    )
    rest = sorted(f"earlycrop.{name}" for name in every - fast if not name.endswith("__init__"))
    install_import_hook(rest, "beartype.beartype")
