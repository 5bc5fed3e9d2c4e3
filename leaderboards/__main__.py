"""The command line: ``python -m leaderboards [collect | show | check | tables | page]``, ``trigger``, ``sweep``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from earlycrop.emissions import Emissions
from leaderboards import beside, cluster, page, readme, traces
from leaderboards.boards import alone, display, tabulate
from leaderboards.check import problems, uncommitted
from leaderboards.records import (
    finished_runs,
    merge,
    read_records,
    read_run,
    record_files,
    write_record,
)
from leaderboards.recount import Recount
from leaderboards.sweep import on_this_machine, sweep


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn finished runs into leaderboards: records, and a CSV, tables and a picture a task."""

    what: tyro.conf.Positional[Literal["collect", "show", "check", "tables", "page", "trigger", "sweep"]] = "collect"
    """collect: take in finished runs, then show. show: CSV, tables and pictures from the records that are there.
    check: whether records, CSVs and README's tables are sound and agree, and with the models that lie in --runs, which
    are counted again; exit code 1 if not. tables: bring README's
    tables up to date with the CSVs. page: write all leaderboards as one HTML file. trigger: draw what the triggers of
    one run looked at, and when each would have fired. sweep: run what is missing of a study, then show it."""
    name: tyro.conf.Positional[str] = ""
    """The run that trigger draws, by its id or its folder; the study that sweep runs, or that show puts beside the
    paper's numbers; the file that page writes, page.html in --out where it is not named."""
    seeds: int = 5
    """Seeds of a study."""
    jobs: int = 0
    """Runs at a time in a sweep; 0 is one a core, or as many as a cluster has room for."""
    where: Literal["local", "ray"] = "local"
    """Where a sweep runs: on this machine, or on the machines of a Ray cluster, a core a run."""
    address: str = "auto"
    """The Ray cluster's head, host:port; auto is the cluster that this machine is part of."""
    gpus: float = 0
    """How many GPUs a run takes on a Ray cluster, or which share of one; 0 trains on the CPU."""
    country: str = ""
    """Country by whose electricity a sweep's runs measure their emissions, see python -m tasks.cifar10 --help."""
    price: float | None = None
    """What an hour of training costs, in any currency: tables get a column of costs."""
    data: Path | None = None
    """Folder with a folder of data a task, for the runs of a sweep; by default each task's own source."""
    runs: Path = Path("runs")
    """Folder that holds one folder a run; collect and check read it, and sweep fills it."""
    out: Path = Path("leaderboards")
    """Folder of the leaderboards; README lies beside it."""
    task: str | None = None
    """Only this task; all where it is not named."""


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Do what the command line asks and return the exit code: 0, 1 for a failed check, 2 for what cannot be done."""
    options = tyro.cli(Options, args=argv, prog="python -m leaderboards")
    console = console or Console(highlight=False)
    if options.price is not None and not 0 < options.price < float("inf"):
        console.print(f"--price must be a number above 0, and is {options.price:g}.", style="red")
        return 2
    if options.what == "check":
        return check(options, console)
    try:
        if options.what == "trigger":
            trigger(options, console)
            return 0
        if options.what == "tables":
            changed = readme.write(options.out.parent / "README.md", options.out)
            console.print(f"README's tables: {', '.join(changed) or 'none'} changed")
            return 0
        if options.what == "page":
            file = Path(options.name) if options.name else options.out / "page.html"
            page.write(list(read_records(options.out, options.task).values()), options.out, file)
            console.print(f"Page: {file}", markup=False, soft_wrap=True)
            return 0
        if options.what == "collect":
            collect(options, console)
        if options.what == "sweep":
            return study(options, console)
        if options.what == "show" and options.name:
            mine = tabulate(*study_of(options), console)
            told = [record.result for record in mine if options.task in (None, record.result.task)]
            beside.show(options.name, told, console, options.price)
            return 0
        display(options.out, options.task, console, options.price)
    except ValueError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    return 0


def collect(options: Options, console: Console) -> None:
    """Write a record of every finished run; raises ValueError, with nothing written, when a file is not sound."""
    done, skipped = finished_runs(options.runs)
    left = ", ".join(f"{skipped[kind]} {kind}" for kind in ("unfinished", "failed") if skipped[kind])
    new = [record for folder in done if options.task in (None, (record := read_run(folder)).result.task)]
    if not new:
        task, others = options.task or "cartpole", f" (skipped: {left})" if left else ""
        of = f" of {options.task}" if options.task else ""
        raise ValueError(f"No finished runs{of} found in {options.runs}{others}: run `python -m tasks.{task}` first.")
    with alone(options.out):
        write, notes = merge(read_records(options.out, options.task), new)
        for record in write:
            write_record(options.out, record)
    console.print(
        f"Finished runs in {options.runs}: {len(new)}, new: {len(write)}; skipped: {left or 'none'}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


def trigger(options: Options, console: Console) -> None:
    """Draw one run's triggers; raises ValueError where there is no such run, or nothing to draw."""
    if not options.name:
        raise ValueError("Which run? Give its id or its folder: python -m leaderboards trigger RUN")
    folder = next((f for f in (options.runs / options.name, Path(options.name)) if f.is_dir()), None)
    if folder is None:
        raise ValueError(f"There is no run {options.name} in {options.runs}: give its id, or its folder.")
    picture = traces.draw(folder)
    for name, epoch in traces.would_fire(read_run(folder)).items():
        console.print(f"{name}: " + ("not within the window" if epoch is None else f"epoch {epoch}"))
    console.print(f"Picture: {picture} (and .svg)", markup=False, soft_wrap=True)


def study(options: Options, console: Console) -> int:
    """Run a study and show its tasks' leaderboards; 1 where a run failed. Raises ValueError for what cannot be run."""
    what = (options.name, options.seeds, options.out, options.data, options.task, options.country)
    if options.country:
        Emissions(options.country)  # complains before anything runs
    if options.where == "ray":
        with cluster.connected(options.address, options.gpus) as ray:
            outcome = sweep(*what, cluster.on_machines(ray, options.gpus, options.jobs, options.runs, options.out))
    else:
        outcome = sweep(*what, on_this_machine(options.jobs, options.runs, options.out))
    for task in sorted(task for task in outcome.tasks if record_files(options.out, task)):
        display(options.out, task, console, options.price)
    console.print(f"Runs found: {outcome.found}, new: {outcome.new}, failed: {len(outcome.failed)}")
    for told in outcome.failed:
        console.print(told, style="red", markup=False, soft_wrap=True)
    tabulate(*study_of(options), console)
    return 1 if outcome.failed else 0


def study_of(options: Options) -> tuple[str, int, Path | None, Path]:
    """What tells which study is meant, and where its runs are."""
    return options.name, options.seeds, options.data, options.out


def check(options: Options, console: Console) -> int:
    """Print what is wrong with records, CSVs and README; 0 when nothing is, 1 when something is, 2 without any."""
    files = record_files(options.out, options.task)
    if not files and not list(options.out.glob(f"{options.task or '*'}.csv")):
        console.print(f"No leaderboards found in {options.out}: run `python -m leaderboards` first.", soft_wrap=True)
        return 2
    again = Recount(options.runs)
    found = [
        *problems(options.out, options.task, again),
        *readme.problems(options.out.parent / "README.md", options.out),
    ]
    for problem in found:
        console.print(problem, markup=False, soft_wrap=True)
    for run, why in again.skipped.items():
        console.print(f"{options.runs / run}: not counted again: {why}", style="dim", markup=False, soft_wrap=True)
    if runs := uncommitted(options.out, options.task):
        console.print(f"of code that was not committed: {', '.join(runs)}", style="dim", soft_wrap=True)
    told = f"Records checked: {len(files)}, models counted again: {again.counted}, problems: {len(found)}"
    console.print(told, style="red" if found else "green")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
