"""``python -m tasks`` lists the tasks, and ``python -m tasks NAME ...`` runs one."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table

import tasks


def main(arguments: list[str]) -> None:
    """List the tasks, or run the one that is named first."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _list_tasks()
        return
    name, *options = arguments
    if name not in tasks.names():
        nearest = get_close_matches(name, tasks.names(), 1, cutoff=0)[0]
        print(f"error: there is no task '{name}': did you mean {nearest}? python -m tasks lists all", file=sys.stderr)
        raise SystemExit(2)
    from tasks.runner.command_line import main as run

    run(name, options)


def _list_tasks() -> None:
    table = Table("task", "data", "source", "network", "CPU minutes", box=None, pad_edge=False)
    for name in tasks.names():
        module = importlib.import_module(f"tasks.{name}")
        table.add_row(name, *module.SUMMARY)
    console = Console()
    console.print(table)
    console.print("\npython -m tasks.NAME runs one, python -m tasks.NAME --help lists its options", highlight=False)


if __name__ == "__main__":
    main(sys.argv[1:])
