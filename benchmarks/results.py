"""The rows of a benchmark, printed and kept in a CSV file, each with its machine and versions."""

from __future__ import annotations

import csv
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkOptions, fail
from tasks.runner.machine import cpu_model

FOLDER = Path(__file__).parent / "results"
ENVIRONMENT = ("cpu", "cores", "memory_gb", "system", "threads", "python", "torch", "packages", "date")
"""Columns at the end of every row. threads: torch's. packages: others that matter, with their versions. A cell that
says ``not recorded`` belongs to a row from before the column."""


class Results:
    """The rows of a benchmark, in a file and on the terminal.

    Args:
        name: The benchmark's name, which names the file.
        options: ``out`` is the file. Without it, the file is in ``benchmarks/results/``, or, with ``quick``, none.
        keys: The columns that identify a row. A new row replaces the file's row with the same ones.
        figures: The columns of what is measured, and of the goals.
        packages: Installed packages, besides torch, whose versions matter.

    The process exits with one sentence where the file cannot be written, or has other columns.
    """

    def __init__(
        self, name: str, options: BenchmarkOptions, keys: Sequence[str], figures: Sequence[str],
        packages: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.path = options.out or (None if options.quick else FOLDER / f"{name}.csv")
        self.keys, self.figures, self.packages = tuple(keys), tuple(figures), ("earlycrop", *packages)
        self.columns = (*self.keys, *self.figures, *ENVIRONMENT)
        self.rows: dict[tuple[str, ...], dict[str, str]] = {}
        self.measured: list[tuple[str, ...]] = []
        """The keys of the rows of this run."""
        if self.path:
            _require_writable(self.path)
            self.rows = {tuple(row[key] for key in self.keys): row for row in _read(self.path, self.columns)}

    def add(self, row: Mapping[str, object], threads: int | None = None) -> None:
        """Add a measured row, write the file, and print the row on the standard error as progress.

        Args:
            row: Column -> value, for keys and figures. Missing figures stay empty.
            threads: torch's threads; by default as they are now.
        """
        cells = {column: to_cell(row.get(column, "")) for column in (*self.keys, *self.figures)}
        key = tuple(cells[column] for column in self.keys)
        self.rows[key] = cells | environment(self.packages, threads or torch.get_num_threads())
        if key not in self.measured:
            self.measured.append(key)
        if self.path:
            _write(self.path, self.columns, list(self.rows.values()))
        shown = (f"{column} {readable(cells[column])}" for column in self.figures if cells[column])
        print(f"{', '.join(key)}: {', '.join(shown)}", file=sys.stderr, flush=True)

    def print(self, keys: Sequence[tuple[str, ...]] | None = None) -> None:
        """Print rows, as columns where there are fewer of them than figures.

        Args:
            keys: The keys of the rows; by default of those of this run.
        """
        rows = [self.rows[key] for key in (self.measured if keys is None else keys)]
        lines = [[column, *(readable(row[column]) for row in rows)] for column in (*self.keys, *self.figures)]
        if len(rows) >= len(self.figures):
            lines = [list(line) for line in zip(*lines, strict=True)]
        table = Table(*(lines[0]))
        for column in table.columns:
            column.overflow = "fold"
        for line in lines[1:]:
            table.add_row(*line)
        console = Console()
        console = console if console.is_terminal else Console(width=160)
        console.print(table)
        if self.path:
            print(f"written to {self.path}")


def to_cell(value: object) -> str:
    """A value as the file has it: floats to four digits."""
    return f"{float(f'{value:.4g}'):g}" if isinstance(value, float) else str(value)


def readable(cell: str) -> str:
    """A cell as a table shows it: numbers to three digits or with separators between thousands."""
    if cell.isdecimal():
        return f"{int(cell):,}"
    try:
        number = float(cell)
    except ValueError:
        return cell
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.3g}"


def environment(packages: Sequence[str], threads: int) -> dict[str, str]:
    """The cells of :data:`ENVIRONMENT`, of this process."""
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "memory_gb": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}",
        "system": platform.system(),
        "threads": str(threads),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": ", ".join(f"{package} {version(package)}" for package in packages),
        "date": date.today().isoformat(),
    }


def _require_writable(path: Path) -> None:
    if path.is_dir():
        fail(f"--out {path} is a folder: give the name of a CSV file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        fail(f"--out {path} cannot be written ({error.strerror}): give another file")


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The file's rows; none where there is no file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            rows, header = list(table), table.fieldnames
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fail(f"{path} cannot be read ({error}): give another file")
    if tuple(header or ()) != tuple(columns) or any(len(row) != len(columns) or None in row.values() for row in rows):
        fail(f"{path} has other columns than this benchmark writes: give another file, or remove it")
    return rows


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the file in one step, so that one that is read or interrupted meanwhile is complete."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    new.replace(path)
