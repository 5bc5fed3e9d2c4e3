"""The commands of ``python -m leaderboards``, a class each, with their options.

``carry_out`` prints to a console, returns the exit code, and raises ValueError for what cannot be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from tyro.conf import Positional

from earlycrop.emissions import EmissionsMeter
from leaderboards import cluster, page, paper_comparison, result_tables
from leaderboards.build import display, locked, study_records, tabulate
from leaderboards.check import problems, uncommitted
from leaderboards.plots import trigger
from leaderboards.plots.style import saved
from leaderboards.records import (
    finished_runs,
    merge,
    read_records,
    read_run,
    read_runs,
    record_files,
    record_of,
    write_record,
)
from leaderboards.recount import Recount
from leaderboards.sweep import on_this_machine, sweep

COMMITTED = Path("leaderboards")


def say(console: Console, *lines: str, style: str | None = None) -> None:
    """Print lines as they are: without markup, and without breaking them."""
    for line in lines:
        console.print(line, style=style, markup=False, soft_wrap=True)


def tell_damaged(console: Console, damaged: list[str]) -> int:
    """Print the sentences about damaged files, each once, and return the exit code: 1 where there are any."""
    say(console, *dict.fromkeys(damaged), style="red")
    return 1 if damaged else 0


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The option of commands that read leaderboards."""

    out: Path = COMMITTED
    """Folder of the leaderboards; README and docs lie beside it."""


@dataclass(frozen=True, kw_only=True)
class TakesIn:
    """Options of commands that take in runs."""

    runs: Path = Path("runs")
    """Folder that holds one folder a run."""
    out: Path | None = None
    """Folder of the leaderboards; the folder leaderboard in --runs where it is not named."""

    @property
    def folder(self) -> Path:
        """The folder of the leaderboards."""
        return self.out or self.runs / "leaderboard"


@dataclass(frozen=True, kw_only=True)
class OfTasks:
    """Options of commands that may be about one task."""

    task: str | None = None
    """Only this task; all where it is not named."""


@dataclass(frozen=True, kw_only=True)
class Shows(OfTasks):
    """Options of commands that print tables."""

    price: float | None = None
    """What an hour of training costs, in any currency: tables get a column of costs."""

    def __post_init__(self) -> None:
        if self.price is not None and not 0 < self.price < float("inf"):
            raise ValueError(f"--price must be a number above 0, and is {self.price:g}.")


@dataclass(frozen=True, kw_only=True)
class Collect(TakesIn, Shows):
    """Take in finished runs, then show; what is done where no command is named."""

    replace: bool = False
    """Whether a run takes the place of the record of another run with its id."""

    def carry_out(self, console: Console) -> int:
        """Write a record of every finished run; return 1 where a file is damaged, which is named and passed over."""
        damaged_runs: list[str] = []
        damaged: list[str] = []
        done, skipped = finished_runs(self.runs)
        others = ", ".join(f"{skipped[kind]} {kind}" for kind in ("unfinished", "failed") if skipped[kind])
        new = [record for record in read_runs(done, damaged_runs) if self.task in (None, record.result.task)]
        if not new and not damaged_runs:
            of, why = f" of {self.task}" if self.task else "", f" (skipped: {others})" if others else ""
            run = f"run `python -m tasks.{self.task or 'cartpole'}` first."
            raise ValueError(f"No finished runs{of} found in {self.runs}{why}: {run}")
        with locked(self.folder):
            kept = read_records(self.folder, self.task, damaged)
            write, notes = merge(kept, new, self.replace)
            for record in write:  # a damaged record is somebody's, and no run takes its place unasked
                if record.result.run in kept or self.replace or not record_of(self.folder, record).exists():
                    write_record(self.folder, record)
        summary = f"Finished runs in {self.runs}: {len(new)}, new: {len(write)}; skipped: {others or 'none'}"
        say(console, summary, *notes)
        if new or record_files(self.folder, self.task):
            display(self.folder, self.task, console, damaged, self.price)
        return tell_damaged(console, damaged_runs + damaged)


@dataclass(frozen=True, kw_only=True)
class Show(Shows):
    """Tables of the records that are there."""

    out: Path | None = None
    """Folder of the leaderboards, where CSVs and pictures are written, too; those of the checkout where it is not
    named, and nothing is written."""
    study: Positional[str] = ""
    """Only this study, beside the paper's numbers."""
    seeds: int = 5
    """Seeds of the study, at least: more are shown where there are records of them."""
    data: Path | None = None
    """Folder with a folder of data a task, which the study was run with."""

    def carry_out(self, console: Console) -> int:
        out, write = self.out or COMMITTED, self.out is not None
        damaged: list[str] = []
        if self.study:
            records = tabulate(self.study, self.seeds, self.data, out, console, damaged, write)
            results = [record.result for record in records if self.task in (None, record.result.task)]
            paper_comparison.show(self.study, results, console, self.price)
        elif self.data is not None:
            raise ValueError("--data tells which runs are a study's: name the study, python -m leaderboards show STUDY")
        else:
            display(out, self.task, console, damaged, self.price, write)
        return tell_damaged(console, damaged)


@dataclass(frozen=True, kw_only=True)
class Check(Reads, OfTasks):
    """Whether records, CSVs and the tables in README and docs are sound and agree; exit code 1 if not."""

    runs: Path = Path("runs")
    """Models that lie here are counted again."""

    def carry_out(self, console: Console) -> int:
        """Print what is wrong; 0 when nothing is, 1 when something is, 2 without any leaderboards."""
        files = record_files(self.out, self.task)
        if not files and not list(self.out.glob(f"{self.task or '*'}.csv")):
            raise ValueError(f"No leaderboards found in {self.out}: run `python -m leaderboards` first.")
        again = Recount(self.runs)
        faults = [*problems(self.out, self.task, again), *result_tables.problems(self.out.parent, self.out)]
        say(console, *faults)
        say(
            console,
            *(f"{self.runs / run}: not counted again: {why}" for run, why in again.skipped.items()),
            style="dim",
        )
        if runs := uncommitted(self.out, self.task):
            say(console, f"of code that was not committed: {', '.join(runs)}", style="dim")
        summary = f"Records checked: {len(files)}, models counted again: {again.counted}, problems: {len(faults)}"
        console.print(summary, style="red" if faults else "green")
        return 1 if faults else 0


@dataclass(frozen=True, kw_only=True)
class Tables(Reads):
    """Bring the tables in README and docs up to date with the CSVs."""

    def carry_out(self, console: Console) -> int:
        changed = result_tables.write(self.out.parent, self.out)
        console.print(f"Tables: {', '.join(changed) or 'none'} changed")
        return 0


@dataclass(frozen=True, kw_only=True)
class Page(Reads, OfTasks):
    """Write all leaderboards as one HTML file."""

    file: Positional[Path | None] = None
    """The file; page.html in --out where it is not named."""

    def carry_out(self, console: Console) -> int:
        file = self.file or self.out / "page.html"
        damaged: list[str] = []
        page.write(list(read_records(self.out, self.task, damaged).values()), self.out, file)
        say(console, f"Page: {file}")
        return tell_damaged(console, damaged)


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """Draw what the triggers of one run looked at, and tell when each would have fired."""

    run: Positional[str]
    """The run, by its id or its folder."""
    runs: Path = Path("runs")
    """Folder that holds one folder a run."""

    def carry_out(self, console: Console) -> int:
        folder = next((f for f in (self.runs / self.run, Path(self.run)) if f.is_dir()), None)
        if folder is None:
            raise ValueError(f"There is no run {self.run} in {self.runs}: give its id, or its folder.")
        record = read_run(folder)
        picture = saved(trigger.figure(record), folder / "trigger")
        for name, epoch in trigger.would_fire(record).items():
            say(console, f"{name}: " + ("not within the window" if epoch is None else f"epoch {epoch}"))
        say(console, f"Picture: {picture} (and .svg)")
        return 0


@dataclass(frozen=True, kw_only=True)
class Sweep(TakesIn, Shows):
    """Run what is missing of a study, then show it."""

    study: Positional[str]
    """The study."""
    seeds: int = 5
    """Its seeds."""
    data: Path | None = None
    """Folder with a folder of data a task; by default each task's own source."""
    jobs: int = 0
    """Runs at a time; 0 is one a core, or as many as a cluster has room for."""
    country: str = ""
    """Country by whose electricity runs measure their emissions, see python -m tasks.cifar10 --help."""
    where: Literal["local", "ray"] = "local"
    """Where it runs: on this machine, or on the machines of a Ray cluster, a core a run."""
    address: str = "auto"
    """The Ray cluster's head, host:port; auto is the cluster that this machine is part of."""
    gpus: float = 0
    """How many GPUs a run takes on a Ray cluster, or which share of one; 0 trains on the CPU."""

    def carry_out(self, console: Console) -> int:
        """Return 1 if a run failed."""
        out, what = self.folder, (self.study, self.seeds, self.folder, self.data, self.task, self.country)
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, and is {self.seeds}.")
        if self.jobs < 0:
            raise ValueError(f"--jobs must be at least 0, and is {self.jobs}.")
        if self.where == "local" and (self.address, self.gpus) != ("auto", 0):
            raise ValueError("--address and --gpus are of a Ray cluster: add --where ray, or leave them out.")
        if self.country:
            EmissionsMeter(self.country)  # complains now rather than in every run
        damaged: list[str] = []
        study_records(self.study, self.seeds, self.data, out, damaged)  # complains before anything runs
        if self.where == "ray":
            with cluster.connected(self.address, self.gpus) as ray:
                outcome = sweep(*what, cluster.on_machines(ray, self.gpus, self.jobs, self.runs, out))
        else:
            outcome = sweep(*what, partial(on_this_machine, jobs=self.jobs, runs=self.runs, out=out))
        for task in sorted(task for task in outcome.tasks if record_files(out, task)):
            display(out, task, console, damaged, self.price)
        console.print(f"Runs found: {outcome.existing}, new: {outcome.new}, failed: {len(outcome.failed)}")
        say(console, *outcome.failed, style="red")
        if runs := outcome.unmetered:
            say(console, f"without emissions, though --country asks for them: {', '.join(runs)}", style="yellow")
        tabulate(self.study, self.seeds, self.data, out, console, damaged)
        return 1 if tell_damaged(console, damaged) or outcome.failed else 0
