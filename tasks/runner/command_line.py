"""The one command line: a task's options, its presets, and a progress bar while it runs."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from earlycrop import METHODS, TRIGGERS
from earlycrop.emissions import EmissionsMeter
from earlycrop.selection.targets import MEASURES
from earlycrop.triggers.triggers import before
from tasks import Task
from tasks.runner import branching, distributed
from tasks.runner.errors import DivergedError, LostError, RunError
from tasks.runner.options import Options
from tasks.runner.result import Result
from tasks.runner.store import Shared, Store, configuration, identity
from tasks.runner.training_loop import device_of, fresh, pruner_of, run


def main(
    name: str, arguments: Sequence[str] | None = None, opened: Callable[[Path, dict[str, Any]], Store] = Store
) -> Result:
    """Run the task ``name`` as ``python -m tasks.NAME ARGUMENTS`` does; its result. ``opened`` is what the run's folder
    is kept by.

    Exits with 2 and one sentence on bad input, with 1 where training diverged or lost a process, with 130 on Ctrl-C.
    """
    module = importlib.import_module(f"tasks.{name}")
    options = parse(module, list(sys.argv[1:] if arguments is None else arguments))
    try:
        check(options)
        distributed.join(options.device)
        task: Task = module.make(options)
        if distributed.processes() > 1 and not task.splits:
            raise ValueError(f"{name} is trained by one process: start it without torchrun")
        if options.record and type(task).record is Task.record:
            raise ValueError(f"{name} has nothing to draw: leave out --record")
        total = pruner_of(task, options, *fresh(task, options)).total_epochs  # complains before anything is written
        config = configuration(name, options)
        branching.check(options, config)
        store = (Shared if distributed.rank() else opened)(options.runs, config)
    except (ValueError, RunError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:  # data are read and tokenized here, which may take long
        _stopped(options.runs / identity(configuration(name, options)))
    try:
        branching.require_kept(options, store)
        result = distributed.broadcast_from_rank0(store.result()) or _with_progress(name, task, options, store, total)
        pictures = _drawn(task, options, store) if options.record else []
    except KeyboardInterrupt:
        _stopped(store.folder)
    except DivergedError as error:
        fail(str(error), 1)
    except RunError as error:
        code = 1 if isinstance(error, LostError) else 2
        fail(str(error) if distributed.rank() == 0 else f"process {distributed.rank()}: {error}", code, alone=True)
    finally:
        store.close()
    distributed.leave()
    if distributed.rank() == 0:
        _tell(result, store)
        for picture in pictures:
            print(picture)
    return result


def parse(module: Any, arguments: list[str]) -> Options:
    """The options of a task's module: its preset's values, with the arguments in their place."""
    preset = "default"
    for i, argument in enumerate(arguments):
        if argument == "--preset" and i + 1 < len(arguments):
            preset = arguments[i + 1]
        elif argument.startswith("--preset="):
            preset = argument.partition("=")[2]
    if preset not in module.PRESETS:
        fail(f"there is no preset '{preset}': take one of {', '.join(module.PRESETS)}", 2)
    options: Options = module.PRESETS[preset]()
    options = dataclasses.replace(options, preset=preset)
    description = f"{module.__doc__}\n\nPresets: {', '.join(module.PRESETS)}. Methods: {', '.join(METHODS)}. "
    description += f"Triggers: {', '.join(TRIGGERS)}."
    return tyro.cli(
        type(options), default=options, args=arguments, description=description, prog=f"python -m {module.__name__}"
    )


def check(options: Options) -> None:
    """Raises ValueError, in a sentence, for an option of every task that is out of its range."""
    if options.method not in METHODS:
        raise ValueError(f"there is no method '{options.method}': take one of {', '.join(METHODS)}")
    if options.method != "dense" and not 0 < options.sparsity < 1:
        raise ValueError(f"--sparsity must be above 0 and below 1, and is {options.sparsity}: it is the share removed")
    if options.of not in MEASURES:
        raise ValueError(f"there is no measure '{options.of}': --of takes {', '.join(MEASURES)}")
    if getattr(options, "data", None) == "":
        raise ValueError("--data is empty: it takes a data set's name, or a folder")
    if options.seed >= 2**64:
        raise ValueError(f"--seed must be below 2**64, and is {options.seed}")
    if options.country:
        EmissionsMeter(options.country)
    at_once = options.trigger in ("before", "0") or (not options.trigger and METHODS[options.method].trigger is before)
    if options.prune_on and not at_once:
        raise ValueError(f"--prune-on is for what is pruned before training, and {options.method} is not: take crop-s")


def fail(sentence: str, code: int, alone: bool = False) -> NoReturn:
    """Say what is wrong, and leave; of several processes the first one says it, unless it may be one ``alone``."""
    if alone or distributed.rank() == 0:
        print(f"error: {sentence}" if code != 130 else sentence, file=sys.stderr)
    distributed.break_off(code)
    raise SystemExit(code)


def _stopped(folder: Path) -> NoReturn:
    """Say after Ctrl-C how it goes on, and leave."""
    if not folder.exists():
        fail("stopped: nothing was trained yet, and the same command starts anew", 130)
    fail(f"stopped: the same command goes on from the last checkpoint in {folder}", 130)


def _with_progress(name: str, task: Task, options: Options, store: Store, total: int) -> Result:
    """Run with a bar that counts epochs and shows what the last one told."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
        TimeElapsedColumn(), TextColumn("{task.fields[told]}"),
    )  # fmt: skip
    what = options.method if options.method == "dense" else f"{options.method} {options.sparsity:g}"
    with Progress(*columns, console=Console(stderr=True, quiet=distributed.rank() > 0)) as progress:
        bar = progress.add_task(f"{name} {what} seed {options.seed}", total=total, told="")

        def report(epoch: int, line: dict[str, Any]) -> None:
            key = task.metric if task.metric in line else "loss"
            progress.update(bar, completed=epoch, told=f"{key} {line[key]:.4g}")
            if line["event"] is not None:
                event = line["event"]
                progress.print(
                    f"epoch {epoch}: {event['achieved']:.2%} of the {event['of']} removed, "
                    f"{event['node_sparsity']:.1%} of the nodes ({event['reason']})"
                )

        return run(name, task, options, store, report)


def _drawn(task: Task, options: Options, store: Store) -> list[Path]:
    """The pictures of the finished run's model."""
    return task.record(store.model(task).to(device_of(options.device, "--device")), store.folder)


def _tell(result: Result, store: Store) -> None:
    cut = "" if result.pruned_epoch is None else f", {result.weight_sparsity:.2%} of the weights removed"
    print(f"{result.method}: {result.metric} {result.value:.4g} on {result.split}{cut}; {store.folder}")
