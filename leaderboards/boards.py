"""What is made of records: a task's CSV, tables and picture, and a study's table and pictures."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock
from rich.console import Console

from leaderboards import costs, curves, points
from leaderboards.figures import draw, saved
from leaderboards.records import Record, read_records, record_files
from leaderboards.sweep import recorded
from leaderboards.table import csv_text, groups, named, show, study_text
from tasks._files import replacing


def alone(out: Path) -> FileLock:
    """While it is entered, no other process reads and rewrites what lies in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / ".lock")


def display(out: Path, task: str | None, console: Console, price: float | None = None) -> None:
    """Rewrite CSVs and pictures from the records and print the tables; raises ValueError for a bad record or none.

    ``price``: what an hour of training costs.
    """
    if not record_files(out, task):
        raise ValueError(f"No records found in {out / 'records'}: run `python -m leaderboards` first.")
    with alone(out):  # the last of several to come has the rows of all
        records = read_records(out, task)
        tasks = sorted({record.result.task for record in records.values()})
        for name in tasks:
            rows = (record.result for record in records.values() if record.result.task == name)
            with replacing(out / f"{name}.csv") as path:
                path.write_text(csv_text(rows), encoding="utf-8", newline="\n")
    for name in tasks:
        mine = {run: record for run, record in records.items() if record.result.task == name}
        for group in groups(record.result for record in mine.values()):
            show(group, mine, console, price)
        picture = draw(mine.values(), out / name)
        console.print(f"Table: {out / name}.csv\nPicture: {picture} (and .svg)", markup=False, soft_wrap=True)


def tabulate(name: str, seeds: int, data: Path | None, out: Path, console: Console) -> list[Record]:
    """Write the table of a study, and its pictures, from the records that are there; those.

    Raises:
        ValueError: the table that is there has runs which are none of the study's with this --data.
    """
    if not record_files(out):
        return []
    table = out / "tables" / f"{name}.csv"
    with alone(out):
        records = read_records(out)  # of all its tasks and seeds, whichever of them were run last
        mine = [records[run] for run in sorted(recorded(name, seeds, data, records))]
        if not mine:
            return []
        runs = {record.result.run for record in mine}
        if left := sorted(run for run in named(table) if run in records and run not in runs):
            raise ValueError(
                f"{table} has runs that this would leave out, such as {left[0]}: give the --data that they were run "
                "with, or move the file away where they are no part of the study any more."
            )
        with replacing(table) as path:
            path.write_text(study_text(record.result for record in mine), encoding="utf-8", newline="\n")
    console.print(f"Study: {table}", markup=False, soft_wrap=True)
    if points.drawable(mine):
        saved(points.figure(mine), table)
    elif any(True for _ in curves.recipes(mine)):
        saved(curves.figure(mine), table)
    if any(True for _ in costs.parts(mine)):
        saved(costs.figure(mine), table.with_stem(f"{name}-costs"))
    return mine
