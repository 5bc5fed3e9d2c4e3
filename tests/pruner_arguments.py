"""Arguments of a pruner as tests give them: flat, with the fields of its options among them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from earlycrop import PrunerOptions


def with_options(**arguments: Any) -> dict[str, Any]:
    """Return the arguments with those that are fields of ``PrunerOptions`` put into ``options``."""
    names = {field.name for field in fields(PrunerOptions)} & arguments.keys()
    options = {name: arguments.pop(name) for name in names}
    return {**arguments, "options": PrunerOptions(**options)} if options else arguments
