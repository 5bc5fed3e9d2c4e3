"""Asking ``python -m leaderboards`` in a folder that holds ``runs/`` and ``out/``."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from leaderboards import __main__ as command

READ_RUNS = ("collect", "check", "trigger", "sweep")


def call(place: Path, *arguments: str, width: int = 200) -> tuple[int, str]:
    """The exit code, and what was printed."""
    console = Console(width=width, file=io.StringIO())
    name = arguments[0] if arguments and not arguments[0].startswith("-") else "collect"
    runs = ["--runs", str(place / "runs")] * (name in READ_RUNS)
    out = ["--out", str(place / "out")] * (name != "trigger")
    code = command.main([*arguments, *runs, *out], console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()
