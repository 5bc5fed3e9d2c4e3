"""The command line: ``python -m leaderboards [collect | show | check | tables | page | trigger | sweep]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console
from tyro.conf import PositionalMetavarFromFieldName

from earlycrop.utils.validation import describe_unknown
from leaderboards.commands import Check, Collect, Page, Show, Sweep, Tables, Trigger
from tasks.runner.errors import one_line_errors
from tasks.runner.interrupts import raise_interrupts

PROGRAM = "python -m leaderboards"
COMMANDS = ("collect", "show", "check", "tables", "page", "trigger", "sweep")


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Carry out a command line; return 0, 1 for a failed check or run, or 2 for what cannot be done."""
    raise_interrupts()
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["collect", *given]
    if given[0] not in COMMANDS and not given[0].startswith("-"):
        print(f"error: {describe_unknown('command', given[0], COMMANDS)}", file=sys.stderr)
        return 2
    with one_line_errors(PROGRAM):
        command = tyro.cli(
            Collect | Show | Check | Tables | Page | Trigger | Sweep,
            args=given, prog=PROGRAM, config=(PositionalMetavarFromFieldName,),
            description="Turn finished runs into leaderboards: records, and a CSV, tables and a picture a task.",
        )  # fmt: skip
    try:
        return int(command.carry_out(console or Console(highlight=False)))
    except ValueError as error:
        sentence = " ".join(str(error).split())
    except OSError as error:  # a full disk, or a folder that may not be written: records are put in place whole
        what = f"{error.filename or 'a file'} cannot be written or read ({error.strerror or error})"
        sentence = f"{what}; nothing was lost: mend that, and run the same command again"
    errors = console or Console(stderr=True, highlight=False)
    errors.print(f"error: {sentence}", style="red", markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
