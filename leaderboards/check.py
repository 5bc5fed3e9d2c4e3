"""Whether the committed leaderboards are what their records say."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from leaderboards.consistency import contradictions
from leaderboards.records import Record, faults, read_record, record_files
from leaderboards.recount import Recount
from leaderboards.sweep import lacking, study_record
from leaderboards.table import csv_text, study_text
from tasks.runner.result import KINDS, Result

_HASH = re.compile("[0-9a-f]{40}(-dirty)?")


def problems(out: Path, task: str | None = None, recount: Recount | None = None) -> Iterator[str]:
    """Yield a sentence for everything wrong with the records and CSVs under ``out``, starting with file and line."""
    commits = history()
    records: dict[str, Record] = {}
    files = record_files(out, task)
    for path in files:
        try:
            record = records[path.stem] = read_record(path)
        except ValueError as error:
            yield str(error)
            continue
        text = path.read_text(encoding="utf-8")
        for field, sentence in (*faults(record), *contradictions(record)):
            yield f"{path}:{_line(text, field)}: {sentence}"
        commit = record.result.commit
        if commits is not None and _HASH.fullmatch(commit) and commit[:40] not in commits:
            yield f"{path}:{_line(text, 'commit')}: commit {commit} is not in the history of the code"
    unreadable = {path.stem for path in files} - set(records)
    for name in sorted({path.stem for path in out.glob(f"{task or '*'}.csv")} | {path.parent.name for path in files}):
        if (path := out / f"{name}.csv").exists():
            results = [record.result for record in records.values() if record.result.task == name]
            yield from _csv_problems(path, results, unreadable)
        else:
            yield f"{path}: missing, though there are records of {name}"
    if recount is not None:
        yield from recount.problems(out, records.values())
    if task is None:  # a study may be of several
        for path in sorted((out / "tables").glob("*.csv")):
            yield from _study_problems(path, records, unreadable)


def history() -> set[str] | None:
    """Return the commits that led to the code that runs; None if it is in no checkout, or in a shallow one."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return set(git("rev-list", "HEAD").split()) if git("rev-parse", "--is-shallow-repository") == "false" else None
    except (OSError, subprocess.CalledProcessError):
        return None


def uncommitted(out: Path, task: str | None = None) -> list[str]:
    """Return the ids of the runs whose code differed from its commit."""
    paths = (path for path in record_files(out, task) if b'-dirty"' in path.read_bytes())
    return sorted(path.stem for path in paths)


def _line(text: str, field: str) -> int:
    """Return the line where a record's result (or its log) has the field."""
    start = 0 if field == "log" else text.index('"result"')
    return text.count("\n", 0, max(text.find(f'"{field}":', start), 0)) + 1


def _rows(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read the columns of a CSV, and its rows with their line numbers."""
    reader = csv.DictReader(io.StringIO(text), restkey="beyond the last column", restval="")
    return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]


def _wrong_columns(columns: list[str], expected: list[str]) -> str:
    return ", ".join(sorted(set(columns) ^ set(expected))) or "their order"


def _csv_problems(path: Path, results: list[Result], unreadable: set[str]) -> Iterator[str]:
    columns, rows = _rows(path.read_text(encoding="utf-8"))
    if columns != list(KINDS):
        yield f"{path}:1: the columns are not those of a leaderboard ({_wrong_columns(columns, list(KINDS))})"
        return
    expected = {row["run"]: row for _, row in _rows(csv_text(results))[1]}
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
    if seen != [run for run in expected if run in seen]:
        yield f"{path}: the rows are not sorted by method, sparsity, seed"


def _study_problems(path: Path, records: dict[str, Record], unreadable: set[str]) -> Iterator[str]:
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
    study_records = [study_record(path.stem, records[run]) for run in {run for _, run in named}]
    if out := sorted(lacking(path.stem, study_records, records)):
        yield f"{path}: {len(out)} of the study's runs have a record and are not in it, such as {out[0]}: {again}"
    expected_columns, expected = _rows(study_text(record.result for record in study_records))
    if columns != expected_columns:
        wrong = _wrong_columns(columns, expected_columns)
        yield f"{path}:1: the columns are not those of a study ({wrong}): {again}"
    if len(rows) != len(expected):
        yield f"{path}: there are {len(rows)} lines, and {len(expected)} of its runs' records: {again}"
        return
    for (line, row), (_, right) in zip(rows, expected, strict=True):
        for name in [name for name in right if row.get(name) != right[name]]:
            yield f"{path}:{line}: {name} is {row.get(name)!r}, but {right[name]!r} by its records: {again}"
