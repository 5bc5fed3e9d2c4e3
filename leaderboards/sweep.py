"""Running a study: what is missing of it, one run a core, resumed where it was stopped."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from leaderboards.records import Record, read_record, read_run, record_path, write_record
from leaderboards.studies import STUDIES, Run
from tasks.runner.arguments import parse
from tasks.runner.options import Options
from tasks.runner.resources import available_cores
from tasks.runner.store import VERSION, checkpoint, configuration, identity

CHECKOUT = Path(__file__).parents[1]
Work = Callable[[list[Run]], Generator[tuple[Run, str | None]]]
"""What carries runs out: each as it finishes, with what went wrong, or None where its record is written."""


@dataclass
class Outcome:
    """What became of a study: runs that were there before, new ones, those that failed and why, those of the new ones
    that have not measured emissions though they were asked; its tasks.
    """

    existing: int = 0
    new: int = 0
    failed: list[str] = field(default_factory=list)
    unmetered: list[str] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)


def known(name: str) -> Callable[[int], Iterator[Run]]:
    """The study of that name; raises ValueError where there is none."""
    if name not in STUDIES:
        raise ValueError(f"There is no study {name}: take one of {', '.join(STUDIES)}.")
    return STUDIES[name]


def run_id(run: Run) -> str:
    """The id that the run will have: a hash of its configuration."""
    return run_ids(run)[0]


@cache
def run_ids(run: Run) -> list[str]:
    """The ids that a record of the run may have: today's, and those by the rules of earlier versions."""
    arguments, seed = list(run.arguments), None
    if "--seed" in arguments:  # seeds differ in nothing else, and reading a command line takes long
        at = arguments.index("--seed")
        seed = int(arguments[at + 1])
        del arguments[at : at + 2]
    options = _options(run.task, tuple(arguments))
    if seed is not None:
        options = replace(options, seed=seed)
    versions = range(VERSION, 0, -1)
    return [identity(configuration(run.task, options, version), version) for version in versions]


@cache
def _options(task: str, arguments: tuple[str, ...]) -> Options:
    return parse(importlib.import_module(f"tasks.{task}"), list(arguments))


def runs_with_data(study: Iterable[Run], data: Path | None) -> list[Run]:
    """The study's runs, with the data that lies in ``data`` where there is some of their task."""
    if data is not None and not data.is_dir():
        raise ValueError(f"There is no folder {data}: give the one that holds a folder of data a task.")
    return _on_data(study, data, Path.is_dir)


def _on_data(study: Iterable[Run], data: Path | None, exists: Callable[[Path], bool]) -> list[Run]:
    """The study's runs, each once, with the folder of its task's data in ``data`` where one ``exists``."""
    runs = list(dict.fromkeys(study))
    if data is None:
        return runs
    return [_with_data(run, folder) if exists(folder := data / (run.data or run.task)) else run for run in runs]


def _with_data(run: Run, folder: Path) -> Run:
    more = ("--data", str(folder))
    return replace(run, arguments=run.arguments + more, trunk=None if run.trunk is None else run.trunk + more)


def missing(study: Iterable[Run], out: Path) -> tuple[list[Run], int]:
    """The runs that have no record yet, and how many have one; raises ValueError for a broken record."""
    absent, count_found = [], 0
    for run in study:
        paths = [record_path(out, run.task, each) for each in run_ids(run)]
        if kept := [path for path in paths if path.exists()]:
            read_record(kept[0])
            count_found += 1
        else:
            absent.append(run)
    return absent, count_found


def recorded(name: str, seeds: int, data: Path | None, records: Collection[str]) -> set[str]:
    """The ids of the study's runs that there are ``records`` of: of so many seeds, and of more as long as there are."""
    runs_of = known(name)
    return _of_seeds(seeds, lambda several: runs_with_data(runs_of(several), data), records)


def lacking(name: str, named: Collection[Record], records: Collection[str]) -> set[str]:
    """The ids of the study's runs that there are ``records`` of, and that are not among those ``named`` by its table,
    with the data that these were run with, wherever those are now; none where there is no such study any more.
    """
    if name not in STUDIES:
        return set()
    read = {Path(record.config["data"]) for record in named if record.config.get("data") is not None}
    data = min((folder.parent for folder in read), default=None)  # a sweep has one folder of all tasks' data
    ids = _of_seeds(1, lambda several: _on_data(STUDIES[name](several), data, read.__contains__), records)
    return ids - {record.result.run for record in named}


def _of_seeds(seeds: int, runs_of: Callable[[int], list[Run]], records: Collection[str]) -> set[str]:
    """The ids among ``records`` of a study's runs: of so many seeds, and of more as long as there are."""
    ids: set[str] = set()
    for several in count(seeds):
        new = {each for run in runs_of(several) for each in run_ids(run)} - ids
        if several > seeds and new.isdisjoint(records):
            break
        ids |= new
    return ids.intersection(records)


def sweep(name: str, seeds: int, out: Path, data: Path | None, task: str | None, country: str, work: Work) -> Outcome:
    """Have ``work`` do what ``out`` has no record of; each run leaves its record as it finishes.

    Where a ``task`` is named, only its runs. ``country``: by whose electricity emissions are measured, or empty.

    Raises:
        ValueError: there is no such study, or a number is out of its range.
    """
    runs_of = known(name)
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, and is {seeds}.")
    study = [run for run in runs_with_data(runs_of(seeds), data) if task in (None, run.task)]
    absent, count_found = missing(study, out)
    if country:
        absent = [replace(run, arguments=(*run.arguments, "--country", country)) for run in absent]
    outcome = Outcome(count_found, tasks={run.task for run in study})
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, speed_estimate_period=3600) as progress:
        bar = progress.add_task(name, total=count_found + len(absent), completed=count_found)
        for branches in (False, True):  # those come after what they branch off
            with closing(work([run for run in absent if (run.trunk is not None) == branches])) as finished:
                for run, failure in finished:
                    progress.advance(bar)
                    if failure is None:
                        outcome.new += 1
                        if country and _without_emissions(run, out):
                            outcome.unmetered.append(run_id(run))
                    else:
                        outcome.failed.append(f"{run.task} {' '.join(run.arguments)}: {failure}")
                        progress.print(f"failed: {outcome.failed[-1]}", markup=False)
    return outcome


def _without_emissions(run: Run, out: Path) -> bool:
    return read_record(record_path(out, run.task, run_id(run))).result.emissions_g is None


def on_this_machine(jobs: int, runs: Path, out: Path) -> Work:
    """Runs in processes of their own, ``jobs`` at a time (0: one a core).

    A run that fails is tried once more, from its last checkpoint; one that fails again is told, and stops nothing.

    Raises:
        ValueError: jobs is below 0.
    """
    if jobs < 0:
        raise ValueError(f"jobs must be at least 0, and is {jobs}.")
    jobs = jobs or available_cores()

    def work(study: list[Run]) -> Generator[tuple[Run, str | None]]:
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = {
                    pool.submit(execute, run, runs, out, max(1, available_cores() // jobs)): run for run in study
                }
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:  # those that run have had the same Ctrl-C, and keep their checkpoints
                pool.shutdown(cancel_futures=True)
                raise

    return work


def execute(run: Run, runs: Path, out: Path, threads: int) -> str | None:
    """One run in a process of its own, tried twice, unless it is finished; its record is written. What went wrong, or
    None.

    It branches off its trunk where that has kept the epoch, and trains that far itself where not.
    """
    finished = (runs / run_id(run) / "result.json").exists()
    if not finished and (failure := _run(run, runs, threads)) is not None:
        return failure
    return taken_in(run, runs, out)


def taken_in(run: Run, runs: Path, out: Path) -> str | None:
    """Write the record of a finished run; what is wrong with it, or None."""
    try:
        write_record(out, read_run(runs / run_id(run)))
    except ValueError as error:  # the run stays as it is, and the next sweep takes it in once that is mended
        return str(error)
    return None


def _run(run: Run, runs: Path, threads: int) -> str | None:
    """Run it in a process of its own, twice if it fails; the last line of what it said then, or None."""
    line = [sys.executable, "-m", f"tasks.{run.task}", *run.arguments, "--runs", str(runs)]
    if run.trunk is not None:
        trunk = runs / run_id(Run(run.task, run.trunk))
        if checkpoint(trunk, int(run.arguments[run.arguments.index("--trigger") + 1])).is_dir():
            line += ["--branch-from", str(trunk)]
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    said = ""
    for _ in range(2):
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return None
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if done.returncode in (2, 130):  # a wrong argument stays wrong, and Ctrl-C was meant
            break
    return said
