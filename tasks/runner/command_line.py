"""The one command line: a task's options, its presets, and a progress bar while it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tasks import Task
from tasks.runner import branching, distributed
from tasks.runner.arguments import check, parse
from tasks.runner.errors import DivergedError, LostError, RunError
from tasks.runner.messages import describe_finished, describe_result, describe_start
from tasks.runner.options import Options
from tasks.runner.result import Result
from tasks.runner.store import Shared, Store, configuration, identity, set_aside
from tasks.runner.training_loop import device_of, fresh, pruner_of, run


def main(
    name: str, arguments: Sequence[str] | None = None, opened: Callable[[Path, dict[str, Any]], Store] = Store
) -> Result:
    """Run the task ``name`` as ``python -m tasks.NAME ARGUMENTS`` does; its result. ``opened`` is what the run's folder
    is kept by.

    Exits with 2 and one sentence on bad input, with 1 where training diverged or lost a process, with 130 on Ctrl-C.
    """
    module = importlib.import_module(f"tasks.{name}")
    try:
        options = parse(module, list(sys.argv[1:] if arguments is None else arguments))
    except ValueError as error:
        fail(str(error), 2)
    try:
        task, store, total, description = _prepare(name, module, options, opened)
    except (ValueError, RunError) as error:
        fail(str(error), 2)
    except KeyboardInterrupt:  # data are read and tokenized here, which may take long
        _stopped(options.runs / identity(configuration(name, options)))
    try:
        branching.require_kept(options, store)
        result = distributed.broadcast_from_rank0(store.result())
        _print(description if result is None else describe_finished(result, store))
        result = result or _with_progress(name, task, options, store, total)
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
    _print(describe_result(result, options, store.folder))
    for picture in pictures:
        _print(str(picture))
    return result


def _prepare(
    name: str, module: Any, options: Options, opened: Callable[[Path, dict[str, Any]], Store]
) -> tuple[Task, Store, int, str]:
    """Return the task, its run's folder, the number of epochs in all, and what is about to be done.

    Raises:
        ValueError, RunError: The run cannot be made. Nothing is written then.
    """
    check(options)
    distributed.join(options.device)
    task: Task = module.make(options)
    if not isinstance(task, Task):
        raise ValueError(f"make of tasks.{name} returned a {type(task).__name__}, and must return a tasks.Task")
    if missing := [attribute for attribute in ("dataset", "network", "metric") if not hasattr(task, attribute)]:
        raise ValueError(f"the task {name} has no {', '.join(missing)}: tasks.Task says what each is")
    if distributed.processes() > 1 and not task.splits:
        raise ValueError(f"{name} is trained by one process: start it without torchrun")
    if options.record and type(task).record is Task.record:
        raise ValueError(f"{name} has nothing to draw: leave out --record")
    model, optimizer = fresh(task, options)
    total = pruner_of(task, options, model, optimizer).total_epochs
    config = configuration(name, options)
    branching.check(options, config)
    if options.fresh and distributed.rank() == 0:
        set_aside(options.runs, config)
    store = (Shared if distributed.rank() else opened)(options.runs, config)
    device = device_of(options.device, "--device")
    return task, store, total, describe_start(task, options, model, device, store.folder)


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


def _print(text: str) -> None:
    """Print in the first of several processes."""
    if distributed.rank() == 0:
        print(text, flush=True)
