"""The one command line: run a task, show its progress, say first what is done and at the end what was won."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from earlycrop import METHODS
from tasks import Task
from tasks.runner import distributed
from tasks.runner.arguments import check, parse
from tasks.runner.checkpoints import check_branch, require_kept
from tasks.runner.errors import DivergedError, LostError, RunError
from tasks.runner.files import read_text
from tasks.runner.interrupts import raise_interrupts
from tasks.runner.networks import count_nonzero_parameters
from tasks.runner.options import Options
from tasks.runner.outcome import commit, hardware
from tasks.runner.result import Result
from tasks.runner.store import Store, configuration, dense_folder, identity, set_aside
from tasks.runner.training_loop import device_of, fresh, pruner_of, run

REASONS = {
    "lazy regime": "the weights change little from epoch to epoch by now",
    "knee": "the weights move much less by now than they did",
    "the masks": "what would be removed has hardly changed over the last epochs",
    "latest epoch": "the trigger saw no reason before the last epoch that it may prune at",
    "tick": "this method prunes in turn with training",
    "training": "this method prunes after each training, and trains anew",
}
"""How the reason of a pruning begins -> what it means, for who does not know the method."""
PATIENCE = 2.0
"""Seconds after which a wait is explained."""
REACH = 3.0
"""Seconds within which a hub must answer."""
_OFFLINE = "HF_HUB_OFFLINE"


def main(
    name: str, arguments: Sequence[str] | None = None, opened: Callable[[Path, dict[str, Any]], Store] = Store
) -> Result:
    """Run the task ``name`` as ``python -m tasks.NAME ARGUMENTS`` does.

    Exits with 2 and one sentence on bad input, with 1 where training diverged or lost a process, with 130 on Ctrl-C.

    Args:
        name: The task.
        arguments: The command line; None is that of this process.
        opened: Opens the run's folder.
    """
    module = importlib.import_module(f"tasks.{name}")
    raise_interrupts()
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
        require_kept(options, store.folder)
        result = distributed.broadcast_from_rank0(store.result())
        _print(description if result is None else _describe_finished(result, store))
        result = result or _with_progress(name, task, options, store, total)
        pictures = []
        if options.record:
            pictures = task.record(store.model(task).to(device_of(options.device, "--device")), store.folder)
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
    _print(_describe_result(result, options, store.folder))
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
    for device, option in ((options.device, "--device"), (options.prune_on, "--prune-on")):
        if device:
            device_of(device, option)  # before the task reads its data, and asks how much memory there is
    go_offline_without_hub(*(str(getattr(options, source, "")) for source in ("data", "model")))
    with explained(f"reading the data of {name}"):
        task: Task = module.make(options)
    if not isinstance(task, Task):
        raise ValueError(f"make of tasks.{name} returned a {type(task).__name__}, and must return a tasks.Task")
    if missing := [attribute for attribute in ("dataset", "network", "metric") if not hasattr(task, attribute)]:
        raise ValueError(f"the task {name} has no {', '.join(missing)}: tasks.Task says what each is")
    if distributed.processes() > 1 and not task.splits:
        raise ValueError(f"{name} is trained by one process: start it without torchrun")
    if options.record and type(task).record is Task.record:
        raise ValueError(f"{name} has nothing to draw: leave out --record")
    with explained(f"making the network {task.network}"):
        model, optimizer = fresh(task, options)
    total = pruner_of(task, options, model, optimizer).total_epochs
    config = configuration(name, options)
    check_branch(options, config)
    if options.fresh and distributed.rank() == 0:
        set_aside(options.runs, config)
    store = opened(options.runs, config)
    return task, store, total, _describe_start(task, options, model, store.folder)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Say on standard error what is being done, such as ``reading the data of glue``, if it takes long."""
    timer = Timer(PATIENCE, lambda: print(f"{doing} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def go_offline_without_hub(*sources: str) -> None:
    """Let what is named on the Hugging Face hub be read from what was downloaded before, if the hub cannot be reached.

    Otherwise its libraries try for minutes. Nothing is done where each source is a folder, or a proxy is set.
    """
    named = [source for source in sources if source and "/" in source and not Path(source).exists()]
    if not named or os.environ.get(_OFFLINE) or urllib.request.getproxies():
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), REACH).close()
    except OSError as error:
        os.environ[_OFFLINE] = "1"
        print(
            f"{address.hostname} cannot be reached ({error}): {' and '.join(named)} can only be read where it was "
            "downloaded before; give a folder with --data (and --model) otherwise",
            file=sys.stderr,
        )


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
    """Run with a bar that counts epochs and shows the last one's metric or loss."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"),
        TimeElapsedColumn(), TextColumn("{task.fields[value]}"),
    )  # fmt: skip
    what = options.method if options.method == "dense" else f"{options.method} {options.sparsity:g}"
    with Progress(*columns, console=Console(stderr=True, quiet=distributed.rank() > 0)) as progress:
        bar = progress.add_task(f"{name} {what} seed {options.seed}", total=total, value="")

        def report(epoch: int, line: dict[str, Any]) -> None:
            key = task.metric if task.metric in line else "loss"
            progress.update(bar, completed=epoch, value=f"{key} {line[key]:.4g}")
            if line["event"] is not None:
                progress.print(_describe_pruning(line["event"]), highlight=False)

        return run(name, task, options, store, report)


def _print(text: str) -> None:
    """Print in the first of several processes."""
    if distributed.rank() == 0:
        print(text, flush=True)


def _describe_start(task: Task, options: Options, model: torch.nn.Module, folder: Path) -> str:
    """Return what is about to be done: data, network, method, device, folder."""
    data = ", ".join(f"{count:,} {name}" for name, count in task.trained_on().items() if isinstance(count, int))
    pruning = "no pruning"
    if options.method != "dense":
        units = "whole nodes" if METHODS[options.method].structured else "single weights"
        pruning = f"{options.method}, {options.sparsity:.2%} of the {options.of} to be removed, as {units}"
    device, count = device_of(options.device, "--device"), torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    return "\n".join([
        f"data     {task.dataset}" + (f": {data}" if data else ""),
        f"network  {task.network}: {count_nonzero_parameters(model):,} parameters",
        f"pruning  {pruning}",
        f"training {options.epochs} epochs, seed {options.seed}, on {hardware(device)}{threads}",
        f"folder   {folder}",
    ])  # fmt: skip


def _describe_pruning(event: dict[str, Any]) -> str:
    """Return what a pruning removed, when and why."""
    of = "" if event["of"] == "nodes" else f"{event['achieved']:.2%} of the {event['of']} and "
    return f"{of}{event['node_sparsity']:.2%} of the nodes removed {_when_and_why(event['epoch'], event['reason'])}"


def _when_and_why(epoch: int, reason: str) -> str:
    meaning = next((meaning for start, meaning in REASONS.items() if reason.startswith(start)), "")
    if epoch == 0 or not meaning:
        return reason
    return f"after epoch {epoch}: {meaning} ({reason})"


def _describe_result(result: Result, options: Options, folder: Path) -> str:
    """Return what a finished run has won: its metric beside the dense run's, its size, its speed, its files."""
    lines = [f"{result.method}: {result.metric} {result.value:.4g} on {result.split}{_dense_value(result, options)}"]
    if result.pruned_epoch is not None:
        lines += [
            f"{result.weight_sparsity:.2%} of the weights and {result.node_sparsity:.2%} of the nodes removed "
            f"{_when_and_why(result.pruned_epoch, result.pruned_why or '')}",
            f"{result.parameters:,} parameters are left",
        ]
    if result.pruned_epoch is not None and result.dense_macs and result.dense_batch_ms:
        lines.append(
            f"MACs {_change(result.dense_macs, result.macs, ',')}; training step in ms "
            f"{_change(result.dense_batch_ms, result.batch_ms, '.3g')}"
        )
    lines.append(f"trained in {result.train_seconds:.1f} s; the files are in {folder}")
    return "\n".join(lines)


def _describe_finished(result: Result, store: Store) -> str:
    """Return that the run was finished earlier, and whether the code has changed since."""
    date = datetime.fromtimestamp((store.folder / "result.json").stat().st_mtime)
    text = f"finished on {date:%Y-%m-%d %H:%M}, from {store.folder}; --fresh runs it again"
    if result.commit != commit():
        text += f"\nwarning: the code has changed since, from {result.commit[:14]} to {commit()[:14]}"
    return text


def _dense_value(result: Result, options: Options) -> str:
    """Return the metric of the dense run of the same options, if there is one among the runs."""
    path = dense_folder(result.task, options) / "result.json"
    if result.method == "dense" or not path.exists():
        return ""
    try:
        return f" (dense run of the same options: {Result.from_json(read_text(path), str(path)).value:.4g})"
    except ValueError as error:  # this run is finished, whatever has become of the other
        return f" (that of the dense run cannot be read: {error})"


def _change(before: float, after: float, form: str) -> str:
    return f"{before:{form}} -> {after:{form}} ({after / before - 1:+.0%})"
