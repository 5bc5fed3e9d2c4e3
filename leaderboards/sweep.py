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
from itertools import chain, count
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from earlycrop.utils.validation import describe_unknown
from leaderboards.records import Record, read_record, read_run, record_path, validated, write_record
from leaderboards.studies import BY_VALIDATION, STUDIES, Run, Study
from tasks.runner.arguments import parse
from tasks.runner.checkpoints import checkpoint
from tasks.runner.machine import available_cores
from tasks.runner.options import Options
from tasks.runner.store import VERSION, configuration, identity

CHECKOUT = Path(__file__).parents[1]
Work = Callable[[list[Run]], Generator[tuple[Run, str | None]]]
"""What carries runs out: yields each as it finishes, with what went wrong, or None where its record is written."""


@dataclass
class Outcome:
    """What became of a study."""

    existing: int
    """How many runs had a record before."""
    tasks: set[str]
    """The study's tasks."""
    new: int = 0
    failed: list[str] = field(default_factory=list)
    """A line a run that failed, with the reason."""
    unmetered: list[str] = field(default_factory=list)
    """The ids of new runs that were asked to measure emissions and have not."""


def known(name: str, data: Path | None) -> Study:
    """Return the study of that name; raise ValueError if there is none, or no folder of data."""
    if name not in STUDIES:
        raise ValueError(describe_unknown("study", name, STUDIES))
    if data is not None and not data.is_dir():
        raise ValueError(f"There is no folder {data}: give the one that holds a folder of data a task.")
    return STUDIES[name]


def run_id(run: Run) -> str:
    """Return the id that the run will have: a hash of its configuration."""
    return run_ids(run)[0]


@cache
def run_ids(run: Run) -> list[str]:
    """Return the ids that a record of the run may have: today's, and those by the rules of earlier versions."""
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


def runs_with_data(
    runs: Iterable[Run], data: Path | None, exists: Callable[[Path], bool] = Path.is_dir
) -> Iterator[Run]:
    """Yield the runs, each once, with ``--data`` if ``data`` has a folder of their task."""
    for run in dict.fromkeys(runs):
        if data is not None and exists(folder := data / (run.data or run.task)):
            more = ("--data", str(folder))
            run = replace(run, arguments=run.arguments + more, trunk=run.trunk and run.trunk + more)
        yield run


def missing(study: Iterable[Run], out: Path) -> list[Run]:
    """Return the runs that have no record yet. A damaged record is one: it is named, and its run is not run again."""
    return [run for run in study if not any(record_path(out, run.task, each).exists() for each in run_ids(run))]


def recorded(
    study: Study, seeds: int, data: Path | None, records: Collection[str], exists: Callable[[Path], bool] = Path.is_dir
) -> set[str]:
    """Return the ids of the study's runs that there are ``records`` of: of these seeds, and of more with any."""
    ids: set[str] = set()
    for seed in count():
        new = {each for run in runs_with_data(study(seed), data, exists) for each in run_ids(run)} - ids
        if seed >= seeds and new.isdisjoint(records):
            break
        ids |= new
    return ids.intersection(records)


def study_record(name: str, record: Record) -> Record:
    """Return a record as a study's table has it: with the metric of the validation data where the study goes by it."""
    return validated(record) if name in BY_VALIDATION else record


def lacking(name: str, table: Collection[Record], records: Collection[str]) -> set[str]:
    """Return the ids of a study's runs that there are ``records`` of, and that are not in its ``table``.

    Its runs have read the folder of data that those of the table have read, wherever that is now.
    """
    if name not in STUDIES:
        return set()
    read = {Path(record.config["data"]) for record in table if record.config.get("data") is not None}
    data = min((folder.parent for folder in read), default=None)  # a sweep has one folder of all tasks' data
    return recorded(STUDIES[name], 1, data, records, read.__contains__) - {record.result.run for record in table}


def sweep(name: str, seeds: int, out: Path, data: Path | None, task: str | None, country: str, work: Work) -> Outcome:
    """Have ``work`` do the study's runs that have no record in ``out``; each leaves its record as it finishes.

    Seed by seed, so that a sweep that is stopped has all methods of the seeds that it got to. ``data`` is a folder
    with a folder of data a task; ``task`` limits the runs to its own; ``country`` is that of the electricity.
    """
    study_of = known(name, data)
    runs = runs_with_data(chain.from_iterable(map(study_of, range(seeds))), data)
    study = [run for run in runs if task in (None, run.task)]
    absent = missing(study, out)
    outcome = Outcome(len(study) - len(absent), {run.task for run in study})
    if country:
        absent = [replace(run, arguments=(*run.arguments, "--country", country)) for run in absent]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, speed_estimate_period=3600) as progress:
        bar = progress.add_task(name, total=len(study), completed=outcome.existing)
        for branches in (False, True):  # those come after what they branch off
            with closing(work([run for run in absent if (run.trunk is not None) == branches])) as finished:
                for run, failure in finished:
                    progress.advance(bar)
                    if failure is None:
                        outcome.new += 1
                        if country and read_record(record_path(out, run.task, run_id(run))).result.emissions_g is None:
                            outcome.unmetered.append(run_id(run))
                    else:
                        outcome.failed.append(f"{run.task} {' '.join(run.arguments)}: {failure}")
                        progress.print(f"failed: {outcome.failed[-1]}", markup=False)
    return outcome


def on_this_machine(study: list[Run], jobs: int, runs: Path, out: Path) -> Generator[tuple[Run, str | None]]:
    """Carry runs out in processes of their own, ``jobs`` at a time (0: one a core)."""
    jobs = jobs or available_cores()
    threads = max(1, available_cores() // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {pool.submit(execute, run, runs, out, threads): run for run in study}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # those that run have had the same Ctrl-C, and keep their checkpoints
            pool.shutdown(cancel_futures=True)
            raise


def execute(run: Run, runs: Path, out: Path, threads: int) -> str | None:
    """Carry out a run that is not finished, write its record, and return what went wrong, or None."""
    if not (runs / run_id(run) / "result.json").exists() and (failure := _run(run, runs, threads)) is not None:
        return failure
    return collect_run(run, runs, out)


def collect_run(run: Run, runs: Path, out: Path) -> str | None:
    """Write the record of a finished run; return what is wrong with it, or None."""
    try:
        write_record(out, read_run(runs / run_id(run)))
    except ValueError as error:  # the run stays as it is, and the next sweep takes it in once that is mended
        return str(error)
    return None


def _run(run: Run, runs: Path, threads: int) -> str | None:
    """Carry out a run in a process, and once more from its last checkpoint if that fails; return its last line then.

    It branches off its trunk if that has kept the epoch.
    """
    line = [sys.executable, "-m", f"tasks.{run.task}", *run.arguments, "--runs", str(runs)]
    if run.trunk is not None:
        trunk, epoch = run.branch()
        if checkpoint(runs / run_id(trunk), epoch).is_dir():
            line += ["--branch-from", str(runs / run_id(trunk))]
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    last_line = ""
    for _ in range(2):
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return None
        last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if done.returncode in (2, 130):  # a wrong argument stays wrong, and Ctrl-C was meant
            break
    return last_line
