"""What is made of records: a task's CSV, tables and picture, and a study's table and pictures."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock
from rich.console import Console

from leaderboards.plots import cost, pruning_epoch, sparsity
from leaderboards.plots.learning import draw
from leaderboards.plots.style import saved
from leaderboards.records import Record, read_records, record_files
from leaderboards.sweep import recorded
from leaderboards.table import csv_text, groups, named, show, study_text
from tasks.runner.atomic_files import replacing


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
        for name in sorted({record.result.task for record in records.values()}):
            task_records = {run: record for run, record in records.items() if record.result.task == name}
            with replacing(out / f"{name}.csv") as path:
                path.write_text(
                    csv_text(record.result for record in task_records.values()), encoding="utf-8", newline="\n"
                )
            picture = draw(task_records.values(), out / name)
            for group in groups(record.result for record in task_records.values()):
                show(group, task_records, console, price)
            console.print(f"Table: {out / name}.csv\nPicture: {picture} (and .svg)", markup=False, soft_wrap=True)


def refuse_loss(name: str, seeds: int, data: Path | None, out: Path) -> None:
    """Raises ValueError where the study's table has runs which are none of the study's with this --data."""
    _of_study(name, seeds, data, out, read_records(out))


def _of_study(name: str, seeds: int, data: Path | None, out: Path, records: dict[str, Record]) -> list[Record]:
    """Those of the records that are the study's, of all its tasks and seeds, whichever of them were run last."""
    ids = recorded(name, seeds, data, records)
    table = out / "tables" / f"{name}.csv"
    if left := sorted(run for run in named(table) if run in records and run not in ids):
        raise ValueError(
            f"{table} has runs that this would leave out, such as {left[0]}: give the --data that they were run "
            "with, or move the file away where they are no part of the study any more."
        )
    return [records[run] for run in sorted(ids)]


def tabulate(name: str, seeds: int, data: Path | None, out: Path, console: Console) -> list[Record]:
    """Write the table of a study, and its pictures, from the records that are there; those.

    Raises:
        ValueError: the table that is there has runs which are none of the study's with this --data.
    """
    table = out / "tables" / f"{name}.csv"
    with alone(out):
        study_records = _of_study(name, seeds, data, out, read_records(out))
        if not study_records:
            return []
        with replacing(table) as path:
            path.write_text(study_text(record.result for record in study_records), encoding="utf-8", newline="\n")
        if pruning_epoch.drawable(study_records):
            saved(pruning_epoch.figure(study_records), table)
        elif any(True for _ in sparsity.recipes(study_records)):
            saved(sparsity.figure(study_records), table)
        if any(True for _ in cost.parts(study_records)):
            saved(cost.figure(study_records), table.with_stem(f"{name}-costs"))
    console.print(f"Study: {table}", markup=False, soft_wrap=True)
    return study_records
