"""What is made of records: a task's CSV, tables and picture, and a study's table and pictures."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from leaderboards.plots import cost, pruning_epoch, sparsity
from leaderboards.plots.learning import draw
from leaderboards.plots.style import saved
from leaderboards.records import Record, read_records, record_files, write_text
from leaderboards.sweep import known, recorded, study_record
from leaderboards.table import csv_text, groups, named, show, study_text, without_shared_options


def locked(out: Path) -> FileLock:
    """Return a lock on the files in ``out``, which is entered to read and rewrite them."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / ".lock")


def display(
    out: Path, task: str | None, console: Console, damaged: list[str], price: float | None = None, write: bool = True
) -> None:
    """Print the tables of all records in ``out``, or of one task's, and ``write`` CSVs and pictures.

    Where a record is damaged nothing is written, so that no row is lost of the CSVs that are there.

    Args:
        out: The folder of the leaderboards.
        task: The task.
        console: Where tables are printed.
        damaged: Takes a sentence for each record that cannot be read.
        price: What an hour of training costs.
        write: Whether to write files.

    Raises:
        ValueError: There are no records.
    """
    if not record_files(out, task):
        raise ValueError(f"No records found in {out / 'records'}: run `python -m leaderboards` first.")
    with locked(out) if write else nullcontext():  # the last of several to come has the rows of all
        records = read_records(out, task, damaged)
        for name in sorted({record.result.task for record in records.values()}):
            task_records = {run: record for run, record in records.items() if record.result.task == name}
            shown = without_shared_options(list(task_records.values()))
            for group in groups(record.result for record in shown):
                show(group, task_records, console, price)
            if write and not damaged:
                write_text(out / f"{name}.csv", csv_text(record.result for record in task_records.values()))
                picture = draw(shown, out / name)
                console.print(f"Table: {out / name}.csv\nPicture: {picture} (and .svg)", markup=False, soft_wrap=True)


def study_records(name: str, seeds: int, data: Path | None, out: Path, damaged: list[str]) -> list[Record]:
    """Return a study's records; raise ValueError if its table has runs that are none of the study's with this data.

    ``damaged`` takes a sentence for each record that cannot be read.
    """
    records, table = read_records(out, None, damaged), out / "tables" / f"{name}.csv"
    ids = recorded(known(name, data), seeds, data, records)
    if left := sorted(run for run in named(table) if run in records and run not in ids):
        raise ValueError(
            f"{table} has runs that this would leave out, such as {left[0]}: give the --data that they were run "
            "with, or move the file away where they are no part of the study any more."
        )
    return [study_record(name, records[run]) for run in sorted(ids)]


def tabulate(
    name: str, seeds: int, data: Path | None, out: Path, console: Console, damaged: list[str], write: bool = True
) -> list[Record]:
    """Return a study's records, as :func:`study_records` does, and ``write`` its table and its pictures.

    Where a record is damaged nothing is written.
    """
    table = out / "tables" / f"{name}.csv"
    with locked(out) if write else nullcontext():
        records = study_records(name, seeds, data, out, damaged)
        if not records or not write or damaged:
            return records
        write_text(table, study_text(record.result for record in records))
        if picture := pruning_epoch.figure(records) or sparsity.figure(records):
            saved(picture, table)
        if picture := cost.figure(records):
            saved(picture, table.with_stem(f"{name}-costs"))
    console.print(f"Study: {table}", markup=False, soft_wrap=True)
    return records
