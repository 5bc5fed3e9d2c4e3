"""The command line of a benchmark: the options that all of them take, and errors in one sentence."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from tasks._imports import raise_interrupts
from tasks.runner.errors import one_line_errors


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of every benchmark."""

    quick: bool = False
    """Run the same code on tiny sizes, in seconds; the numbers mean nothing. Other options still take effect."""
    out: Path | None = None
    """CSV file to write the rows to. Default: benchmarks/results/NAME.csv; no file with --quick."""


Chosen = TypeVar("Chosen", bound=BenchmarkOptions)


def fail(sentence: str, code: int = 2) -> NoReturn:
    """Print the error and exit with ``code``."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(code)


def require_installed(module: str, package: str, instead: str) -> None:
    """Exit with one sentence where ``module`` is not installed.

    Args:
        module: The name to import.
        package: The name to install.
        instead: What works without it.
    """
    if find_spec(module) is None:
        fail(f"{package} is not installed: run pip install '.[bench]', or {instead}")


def require_known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Exit with one sentence where a name given to ``option`` is none of the ``known`` ones."""
    unknown = [name for name in names if name not in known]
    if unknown:
        fail(f"{option} does not know {', '.join(unknown)}: take one or more of {', '.join(known)}")


def parse(name: str, default: Chosen, quick: Chosen, description: str | None, arguments: Sequence[str]) -> Chosen:
    """Parse the arguments of ``python -m benchmarks.NAME``.

    Args:
        name: The benchmark's name.
        default: The values of options that are not given.
        quick: The same where ``--quick`` is given.
        description: What ``--help`` says.
        arguments: The words of the command line.

    Returns:
        The options. The process exits with 2 and one sentence where one of them is out of its range.
    """
    program = f"python -m benchmarks.{name}"
    with one_line_errors(program):
        options = tyro.cli(
            type(default),
            default=dataclasses.replace(quick, quick=True) if "--quick" in arguments else default,
            args=arguments,
            prog=program,
            description=description,
        )
    for field in dataclasses.fields(options):
        value, option = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value == ():
            fail(f"{option} is empty: give at least one")
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) is int and number < 1:
                fail(f"{option} must be at least 1, and is {number}")
    return options


def run(name: str, main: Callable[[Chosen], None], default: Chosen, quick: Chosen, description: str | None) -> None:
    """Run ``main`` with the options of the command line; see :func:`parse`."""
    options = parse(name, default, quick, description, sys.argv[1:])
    raise_interrupts()
    try:
        main(options)
    except KeyboardInterrupt:
        fail("stopped: the CSV file, if there is one, keeps the rows that were measured", 130)
