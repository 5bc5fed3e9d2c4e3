"""``python -m tasks`` lists the tasks, and ``python -m tasks NAME ...`` runs one."""

from __future__ import annotations

import importlib
import sys

from rich.console import Console
from rich.table import Table

import tasks
from earlycrop.utils.validation import describe_unknown


def main(arguments: list[str]) -> None:
    """List the tasks, or run the one that is named first."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _list_tasks()
        return
    name, *options = arguments
    if name not in tasks.names():
        sentence = describe_unknown("task", name, tasks.names())
        print(f"error: {sentence}; python -m tasks lists what they are", file=sys.stderr)
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
