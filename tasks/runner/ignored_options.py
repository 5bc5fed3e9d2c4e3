"""Which options a method ignores, by its row in ``METHODS``: they are no part of what a run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from earlycrop import CRITERIA, METHODS
from tasks.runner.options import Options

AnyOptions = TypeVar("AnyOptions", bound=Options)

PRUNING = (
    *("sparsity", "of", "exclude", "include", "floors", "ceilings", "multiple", "rounds", "trigger", "shuffled"),
    *("criterion", "gate", "statistics", "as_authors", "rewind", "optimizer_state", "schedule"),
)
"""Options that say how to prune."""


def ignored_options(method: str, criterion: str = "") -> frozenset[str]:
    """Return the names of the options that change nothing of a run.

    Args:
        method: The method's name. One that is not in ``METHODS`` ignores nothing.
        criterion: The name of the criterion in place of the method's own, or nothing.
    """
    row = METHODS.get(method)
    if row is None:
        return frozenset()
    if row.criterion is None:
        return frozenset({*PRUNING, "prune_on"})
    effect = CRITERIA.get(criterion, row.criterion)
    iterates = row.procedure == "once" and row.schedule(0.9, 2) != row.schedule(0.9, 3)
    uses = {
        "rounds": iterates or row.procedure == "tick-tock",
        "rewind": row.procedure == "rewind",
        "schedule": row.procedure != "rewind",  # which trains by its own
        "of": row.structured,
        "multiple": row.structured,
        "include": not row.structured,
        "gate": row.structured and effect.effect is not None and row.procedure != "tick-tock",
        "statistics": effect.order > 0,
        "as_authors": effect.order > 0,
    }
    return frozenset(name for name, used in uses.items() if not used)


def _ignored(method: str, criterion: str, schedule: str) -> frozenset[str]:
    """Return what a run ignores. A constant learning rate makes another training of any method."""
    return ignored_options(method, criterion) - ({"schedule"} if schedule == "constant" else set())


def without_ignored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration without what its method ignores."""
    ignored = _ignored(config.get("method", ""), config.get("criterion", ""), config.get("schedule", ""))
    return {name: value for name, value in config.items() if name not in ignored}


def with_defaults(options: AnyOptions) -> AnyOptions:
    """Return the options with everything that the method ignores at its default."""
    defaults = Options()
    ignored = _ignored(options.method, options.criterion, options.schedule)
    return replace(options, **{name: getattr(defaults, name) for name in ignored if hasattr(defaults, name)})
