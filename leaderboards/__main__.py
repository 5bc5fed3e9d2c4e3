"""The command line: ``python -m leaderboards [collect | show | check | tables | page | trigger | sweep]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import PositionalMetavarFromFieldName, subcommand

from leaderboards.commands import Check, Collect, Page, Show, Sweep, Tables, Trigger

_Command = (
    Annotated[Collect, subcommand("collect")]
    | Annotated[Show, subcommand("show")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Tables, subcommand("tables")]
    | Annotated[Page, subcommand("page")]
    | Annotated[Trigger, subcommand("trigger")]
    | Annotated[Sweep, subcommand("sweep")]
)


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Do what the command line asks and return the exit code: 0, 1 for a failed check, 2 for what cannot be done."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["collect", *given]
    command = tyro.cli(
        _Command, args=given, prog="python -m leaderboards", config=(PositionalMetavarFromFieldName,),
        description="Turn finished runs into leaderboards: records, and a CSV, tables and a picture a task.",
    )  # fmt: skip
    console = console or Console(highlight=False)
    try:
        return int(command.carry_out(console))
    except ValueError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
