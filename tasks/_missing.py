"""Say in a line which package a program lacks: tasks and leaderboards need more than the library does."""

from __future__ import annotations

import sys
from types import TracebackType

EXTRAS = {"ray": "ray", "stable_baselines3": "bench", "torch_pruning": "bench"}
"""The extra of pyproject.toml that has a module, where it is not the one of all tasks and leaderboards."""
OURS = ("benchmarks", "earlycrop", "leaderboards", "tasks")


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a sentence in place of a traceback where a module of another project is not installed."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name or name in OURS:
        sys.__excepthook__(kind, error, trace)
        return
    extra = EXTRAS.get(name, "leaderboards")
    few = "" if extra != "leaderboards" else "; for digits and CartPole alone, '.[demo]' is smaller"
    print(f"error: {name} is not installed: run pip install '.[{extra}]' in the checkout{few}", file=sys.stderr)


if sys.argv[0] == "-m":  # so it is while the package of a program that runs by `python -m` is imported
    sys.excepthook = report_missing_package
