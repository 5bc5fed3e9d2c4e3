"""What ends ``python -m`` of this project while it imports: a missing package, or Ctrl-C. Neither is a traceback.

Imports take seconds. The packages of the programs import this module before anything else; a library that imports them
keeps its own handlers.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

EXTRAS = {"ray": "ray", "stable_baselines3": "bench", "torch_pruning": "bench"}
"""The extra of pyproject.toml that has a module, where it is not the one of all tasks and leaderboards."""
PACKAGES = ("benchmarks", "earlycrop", "leaderboards", "tasks")
"""The packages of this project."""


def report_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a sentence in place of a traceback where a package of another project is not installed."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name or name in PACKAGES:
        sys.__excepthook__(kind, error, trace)
        return
    extra = EXTRAS.get(name, "leaderboards")
    smaller = "" if extra != "leaderboards" else "; for digits and CartPole alone, '.[demo]' is smaller"
    print(f"error: {name} is not installed: run pip install '.[{extra}]' in the checkout{smaller}", file=sys.stderr)


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process, which has written nothing yet. Libraries take an exception within an import for another one."""
    os._exit(130)


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: a command that runs can be resumed, and says how."""
    if signal.getsignal(signal.SIGINT) is exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv[:1] == ["-m"]:  # python -m names itself so until the package has been imported
    sys.excepthook = report_missing_package
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_at_once)
