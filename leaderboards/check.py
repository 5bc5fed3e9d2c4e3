"""Whether the committed leaderboards are what their records say."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from leaderboards.consistency import contradictions
from leaderboards.records import Record, faults, read_record, record_files
from leaderboards.recount import Recount
from leaderboards.sweep import lacking
from leaderboards.table import csv_text, study_text
from tasks.runner.result import KINDS

_HASH = re.compile("[0-9a-f]{40}(-dirty)?")
Rows = dict[str, tuple[int, dict[str, str]]]


def problems(out: Path, task: str | None = None, again: Recount | None = None) -> Iterator[str]:
    """A sentence for everything wrong with the records and CSVs under ``out``, each starting with file and line.

    ``again``: what counts again on the models that are still there.
    """
    known = history()
    records: dict[str, list[Record]] = {path.parent.name: [] for path in record_files(out, task)}
    unreadable = set()
    for path in record_files(out, task):
        try:
            record = read_record(path)
        except ValueError as error:
            unreadable.add(path.stem)
            yield str(error)
        else:
            records[path.parent.name].append(record)
            text = path.read_text(encoding="utf-8")
            for field, sentence in (*faults(record), *contradictions(record)):
                yield f"{path}:{_line(text, field)}: {sentence}"
            commit = record.result.commit
            if known is not None and _HASH.fullmatch(commit) and commit[:40] not in known:
                yield f"{path}:{_line(text, 'commit')}: commit {commit} is not in the history of the code"
    tables = {path.stem for path in out.glob(f"{task or '*'}.csv")}
    for name in sorted(tables | set(records)):
        path = out / f"{name}.csv"
        if name in tables:
            yield from _csv_problems(path, records.get(name, []), unreadable)
        else:
            yield f"{path}: missing, though there are records of {name}"
    if again is not None:
        yield from again.problems(out, chain.from_iterable(records.values()))
    if task is None:  # a study may be of several
        every = {record.result.run: record for record in chain.from_iterable(records.values())}
        for path in sorted((out / "tables").glob("*.csv")):
            yield from _study_problems(path, every, unreadable)


def history() -> set[str] | None:
    """The commits that led to the code that runs; None where it is in no checkout, or in a shallow one."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return set(git("rev-list", "HEAD").split()) if git("rev-parse", "--is-shallow-repository") == "false" else None
    except (OSError, subprocess.CalledProcessError):
        return None


def uncommitted(out: Path, task: str | None = None) -> list[str]:
    """The ids of the runs whose code differed from its commit: their numbers are of code that is nowhere."""
    paths = (path for path in record_files(out, task) if b'-dirty"' in path.read_bytes())
    return sorted(path.stem for path in paths)


def _line(text: str, field: str) -> int:
    """The line where a record's result (or its log) has the field."""
    start = 0 if field == "log" else text.index('"result"')
    return text.count("\n", 0, max(text.find(f'"{field}":', start), 0)) + 1


def _rows(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    reader = csv.DictReader(io.StringIO(text), restkey="beyond the last column", restval="")
    return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]


def _csv_problems(path: Path, records: list[Record], unreadable: set[str]) -> Iterator[str]:
    columns, rows = _rows(path.read_text(encoding="utf-8"))
    if columns != list(KINDS):
        wrong = sorted(set(columns) ^ set(KINDS)) or ["their order"]
        yield f"{path}:1: the columns are not those of a leaderboard ({', '.join(map(str, wrong))})"
        return
    expected = {row["run"]: row for _, row in _rows(csv_text(record.result for record in records))[1]}
    order = [run for run in expected if run in {row["run"] for _, row in rows}]
    seen: list[str] = []
    for line, row in rows:
        run = row["run"]
        if run in unreadable:
            continue
        if run in seen or run not in expected:
            yield f"{path}:{line}: run {run} {'is there twice' if run in seen else 'has no record'}"
            continue
        seen.append(run)
        for name in [name for name in row if row[name] != expected[run].get(name)]:
            yield f"{path}:{line}: run {run}: {name} is {row[name]!r}, but {expected[run].get(name)!r} in its record"
    yield from (f"{path}: run {run} has a record but no row" for run in expected if run not in seen)
    if seen != order:
        yield f"{path}: the rows are not sorted by method, sparsity, seed"


def _study_problems(path: Path, records: dict[str, Record], unreadable: set[str]) -> Iterator[str]:
    """What is not as the runs have it that the table names."""
    again = f"write it again with python -m leaderboards show {path.stem} --out {path.parent.parent}"
    columns, rows = _rows(path.read_text(encoding="utf-8"))
    named = [(line, run) for line, row in rows for run in row.get("runs", "").split()]
    if not named:
        yield f"{path}:1: a study's table names its runs in the column runs, and this one names none: {again}"
        return
    for line, run in named:
        if run not in records:
            yield f"{path}:{line}: run {run} has no {'readable ' * (run in unreadable)}record"
            return
    study_records = [records[run] for run in {run for _, run in named}]
    if left := sorted(lacking(path.stem, study_records, records)):
        yield f"{path}: {len(left)} of the study's runs have a record and are not in it, such as {left[0]}: {again}"
    expected_columns, expected = _rows(study_text(record.result for record in study_records))
    if columns != expected_columns:
        wrong = sorted(set(columns) ^ set(expected_columns)) or ["their order"]
        yield f"{path}:1: the columns are not those of a study ({', '.join(wrong)}): {again}"
    if len(rows) != len(expected):
        yield f"{path}: there are {len(rows)} lines, and {len(expected)} of its runs' records: {again}"
        return
    for (line, row), (_, right) in zip(rows, expected, strict=True):
        for name in [name for name in right if row.get(name) != right[name]]:
            yield f"{path}:{line}: {name} is {row.get(name)!r}, but {right[name]!r} by its records: {again}"
