"""The one training loop: epochs as a budget, the pruner asked after each, a checkpoint after each, and the result."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import earlycrop
from earlycrop import measure
from tasks import Task
from tasks._options import VARIANTS, Options
from tasks._record import Result
from tasks._store import RunError, Store

Report = Callable[[int, dict[str, Any]], None]
"""(epochs done, that epoch's line of the log), called after every epoch."""


class DivergedError(RunError):
    """The loss is no longer finite."""

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"the loss is {loss} in epoch {epoch}, step {step}: training has diverged. The checkpoint of the epoch "
            "before is kept; a lower learning rate is the usual way out"
        )
        self.failure = {"epoch": epoch, "step": step, "loss": str(loss)}


def fresh(task: Task, options: Options) -> tuple[nn.Module, Optimizer]:
    """A model as the seed has it, on the device, and its optimizer.

    Raises:
        ValueError: there is no such device here.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device
        raise ValueError(
            f"there is no device '{name}' here ({str(error).partition('.')[0]}): leave out --device"
        ) from None
    torch.manual_seed(options.seed)
    model = task.model().to(device)
    return model, task.optimizer(model)


def pruner_of(task: Task, options: Options, model: nn.Module, optimizer: Optimizer) -> earlycrop.Pruner:
    """The pruner that the options ask for.

    Raises:
        ValueError: an option is out of its range.
    """
    limits = earlycrop.Limits(
        floors=options.floors, ceilings=options.ceilings, exclude=options.exclude, multiple=options.multiple
    )
    method = earlycrop.METHODS[options.method]
    if options.criterion and method.criterion is not None:
        if options.criterion not in earlycrop.CRITERIA:
            raise ValueError(
                f"there is no criterion '{options.criterion}': take one of {', '.join(earlycrop.CRITERIA)}"
            )
        method = replace(method, criterion=earlycrop.CRITERIA[options.criterion])
    return earlycrop.Pruner(
        model, optimizer, task.loss, method, options.sparsity,
        epochs=options.epochs, of=options.of, rounds=options.rounds, score_batches=None, limits=limits,
        trigger=options.trigger or None, shuffled=options.shuffled, rewind=options.rewind,
        optimizer_state=options.optimizer_state, watch=options.watch, gate=options.gate, statistics=options.statistics,
        probe=next(iter(task.scoring_batches(model, 0))) if options.kernel else None,
    )  # fmt: skip


def run(name: str, task: Task, options: Options, store: Store, report: Report) -> Result:
    """Train ``task`` as ``options`` say, from the store's last checkpoint on if there is one; its result.

    Raises:
        RunError: the checkpoint is broken or another run's, or training diverged (recorded in failure.json).
    """
    model, optimizer = fresh(task, options)
    state = store.load(model)
    pruner = pruner_of(task, options, model, optimizer)
    epoch, seconds, lines = 0, 0.0, []
    if state is None:
        start = perf_counter()
        _ask(pruner, task, model, 0)
        seconds = perf_counter() - start
    else:
        optimizer.load_state_dict(state["optimizer"])
        pruner.load_state_dict(state["pruner"])
        task.load_state_dict(state["task"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        epoch, seconds, lines = state["epoch"], state["seconds"], state["log"]

    def checkpoint() -> None:
        store.log(lines)
        store.save(model, epoch, {
            "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict(), "task": task.state_dict(),
            "rng": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "epoch": epoch, "seconds": seconds, "log": lines,
        })  # fmt: skip

    if state is None:
        checkpoint()
    while epoch < pruner.total_epochs:
        start = perf_counter()
        try:
            line = _epoch(task, options, model, optimizer, pruner, epoch + 1)
        except DivergedError as error:
            store.write("failure.json", json.dumps(error.failure) + "\n")
            raise
        epoch += 1
        seconds += perf_counter() - start
        lines.append({**line, "seconds": perf_counter() - start})
        checkpoint()
        report(epoch, lines[-1])
    result = _result(name, task, options, store, model, optimizer, pruner, seconds)
    store.finish(result)
    return result


def train(task: Task, model: nn.Module, optimizer: Optimizer, epoch: int) -> float:
    """One epoch of plain training; the mean loss.

    Raises:
        DivergedError: a loss is not finite; that step was not taken.
    """
    model.train()
    losses: list[Tensor] = []
    checked = 0
    for step, batch in enumerate(task.batches(model, epoch), start=1):
        optimizer.zero_grad(set_to_none=True)
        loss = task.training_loss(model, batch)
        losses.append(loss.detach())
        if loss.device.type == "cpu" or step % 50 == 0:  # on a GPU, looking at a value waits for the whole queue
            checked = _check(losses, checked, epoch)
        loss.backward()  # type: ignore[no-untyped-call]
        if task.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()
    if not losses:
        raise RunError(f"epoch {epoch} has no batch: give the task more data or a smaller batch size")
    _check(losses, checked, epoch)
    return float(torch.stack(losses).mean())


def _check(losses: list[Tensor], checked: int, epoch: int) -> int:
    for step, loss in enumerate(losses[checked:], start=checked + 1):
        if not math.isfinite(value := float(loss)):
            raise DivergedError(epoch, step, value)
    return len(losses)


def _epoch(
    task: Task, options: Options, model: nn.Module, optimizer: Optimizer, pruner: earlycrop.Pruner, epoch: int
) -> dict[str, Any]:
    """Train an epoch and ask the pruner; the epoch's line of the log."""
    rate = task.learning_rate(_progress(options, pruner))
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = train(task, model, optimizer, epoch)
    told = task.log()  # before the scoring draws batches of its own
    event = _ask(pruner, task, model, epoch)
    return {
        "epoch": epoch, "loss": loss, "learning_rate": rate, "parameters": living(model), **told,
        "trigger": pruner.log(), "event": None if event is None else event.record(),
    }  # fmt: skip


def _progress(options: Options, pruner: earlycrop.Pruner) -> float:
    """How far the learning rate's schedule has come, from 0 to 1."""
    start = 0
    if options.schedule == "restart" and pruner.event is not None and pruner.total_epochs == options.epochs:
        start = pruner.event.epoch
    return (pruner.position - start) / (options.epochs - start)


def _ask(pruner: earlycrop.Pruner, task: Task, model: nn.Module, epoch: int) -> earlycrop.Event | None:
    """Let the pruner act after ``epoch`` epochs; scoring batches are drawn only if it reads them."""
    try:
        return pruner.step(_lazily(lambda: task.scoring_batches(model, epoch)))
    except (ValueError, earlycrop.FlowError, earlycrop.TraceError, earlycrop.SurgeryError) as error:
        raise RunError(f"pruning after epoch {epoch} failed: {error}") from error


def _lazily(batches: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Draw the batches only if somebody reads them."""
    yield from batches()


def living(model: nn.Module) -> int:
    """Parameters that are left: entries of weight matrices that are zero do not count."""
    nonzero, every = measure.weight_counts(model)
    return measure.parameters(model) - every + nonzero


def _result(
    name: str, task: Task, options: Options, store: Store, model: nn.Module, optimizer: Optimizer,
    pruner: earlycrop.Pruner, seconds: float,
) -> Result:  # fmt: skip
    """Evaluate once, write the final model, and measure it."""
    model.eval()
    value = task.evaluate(model)
    file = earlycrop.save(model, store.folder)
    before = task.state_dict()
    batch = next(iter(task.batches(model, 1)))
    task.load_state_dict(before)
    event = pruner.event
    device = next(model.parameters()).device
    held = {
        "parameters": living(model), "macs": measure.macs(model, lambda m: task.loss(m, batch)),
        "disk_bytes": file.stat().st_size, "csr_bytes": measure.csr_bytes(model),
    }  # fmt: skip
    memory = measure.peak_memory_bytes(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.training_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    model.train()
    return Result(
        run=store.id, task=name, dataset=task.dataset, preset=options.preset, network=task.network,
        method=options.method, structured=event is not None and pruner.method.structured,
        sparsity_of=options.of, sparsity_asked=None if pruner.request is None else options.sparsity,
        weight_sparsity=0.0 if event is None else event.weight_sparsity,
        node_sparsity=0.0 if event is None else event.node_sparsity,
        metric=task.metric, value=value, higher_is_better=task.higher_is_better, split=task.split,
        epochs=options.epochs, pruned_epoch=None if event is None else event.epoch,
        pruned_why=None if event is None else event.reason, seed=options.seed,
        train_seconds=seconds, batch_ms=measure.milliseconds(step, device), peak_memory_bytes=memory,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        python=platform.python_version(), torch=torch.__version__, commit=commit(),
        variant=variant(options), epochs_trained=pruner.total_epochs, **held,
    )  # fmt: skip


def variant(options: Options) -> str:
    """The options that make the method another than its row says, in words."""
    if options.method == "dense":
        return ""
    changed = [name for name in VARIANTS if getattr(options, name) != getattr(Options(), name)]
    return ", ".join(f"{name.replace('_', ' ')} {getattr(options, name)}" for name in changed)


def commit() -> str:
    """The commit of the code that runs, with "-dirty" where files differ from it; "unknown" outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()
