"""Arguments of a pruner as tests give them: flat, and without the type checker of the tests."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from earlycrop import Pruner, PrunerOptions


def with_options(**arguments: Any) -> dict[str, Any]:
    """Return the arguments with those that are fields of ``PrunerOptions`` put into ``options``."""
    names = {field.name for field in fields(PrunerOptions)} & arguments.keys()
    options = {name: arguments.pop(name) for name in names}
    return {**arguments, "options": _unchecked(PrunerOptions, options)} if options else arguments


def unchecked_pruner(**arguments: Any) -> Pruner:
    """Make a pruner as users do, without the type checker of these tests, which would speak first."""
    pruner = Pruner.__new__(Pruner)
    inspect.unwrap(Pruner.__init__)(pruner, **with_options(**arguments))
    return pruner


def _unchecked(kind: Any, arguments: dict[str, Any]) -> Any:
    """Make a frozen dataclass without the type checker."""
    made = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(made, field.name, arguments.get(field.name, field.default))
    inspect.unwrap(kind.__post_init__)(made)
    return made
