"""The one training loop: epochs as a budget, the pruner asked after each, a checkpoint after each, and the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

import earlycrop
from tasks import Task
from tasks.runner import distributed
from tasks.runner.checkpoints import branch_off, checkpoint
from tasks.runner.errors import DivergedError, RunError
from tasks.runner.machine import cuda_algorithms, default_device
from tasks.runner.networks import count_nonzero_parameters
from tasks.runner.options import Options, with_defaults
from tasks.runner.outcome import outcome
from tasks.runner.result import Result
from tasks.runner.schedules import progress
from tasks.runner.store import Store
from tasks.runner.training import RunEmissions, Training, measured_emissions, require_finite, train

Report = Callable[[int, dict[str, Any]], None]
"""(epochs done, that epoch's line of the log), called after every epoch."""


def fresh(task: Task, options: Options) -> tuple[nn.Module, Optimizer]:
    """A model as the seed has it, on the device that it trains on, or is first pruned on, and its optimizer.

    Raises:
        ValueError: there is no such device here.
    """
    device = device_of(options.device, "--device")
    if options.prune_on:
        device = device_of(options.prune_on, "--prune-on")
    torch.manual_seed(options.seed)
    model = task.model().to(device)
    return model, task.optimizer(model)


def device_of(name: str, option: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = default_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by device
        raise ValueError(
            f"there is no device '{name}' here ({str(error).partition('.')[0]}): leave out {option}"
        ) from None


def pruner_of(task: Task, options: Options, model: nn.Module, optimizer: Optimizer) -> earlycrop.Pruner:
    """The pruner that the options ask for.

    Raises:
        ValueError: an option is out of its range.
    """
    method = earlycrop.METHODS[options.method]
    limits = earlycrop.Limits(
        floors=options.floors,
        ceilings=options.ceilings,
        exclude=options.exclude,
        multiple=options.multiple,
        include=task.include,
    )
    if method.criterion is None:  # what it logs of a pruning's distances is that of the defaults
        limits.check_layers(model)
        options, limits = with_defaults(options), earlycrop.Limits()
    if options.criterion and method.criterion is not None:
        method = replace(method, criterion=earlycrop.CRITERIA[options.criterion])
    if options.as_authors:
        options, method = _as_authors(options, method)
    names: Any = options  # plain strings, which the pruner checks
    return earlycrop.Pruner(
        model, optimizer, task.loss, method, options.sparsity,
        epochs=options.epochs, of=names.of, rounds=options.rounds, score_batches=None, limits=limits,
        trigger=names.trigger or None,
        options=earlycrop.PrunerOptions(
            gate=names.gate, statistics=names.statistics, shuffled=options.shuffled, rewind=options.rewind,
            early_batches=options.early_batches, optimizer_state=names.optimizer_state, log_triggers=options.watch,
            ntk_probe=next(iter(task.scoring_batches(model, 0))) if options.kernel else None, group=distributed.group(),
        ),
    )  # fmt: skip


def _as_authors(options: Options, method: earlycrop.Method) -> tuple[Options, earlycrop.Method]:
    """Return the options and the method with what the paper's authors' code does, where nothing else was asked for."""
    if method.criterion is None or method.criterion.order == 0:
        return options, method
    rounds = {"cropit-u": 7, "cropit-s": 7, "earlycrop-u": 7, "earlycrop-s": 1}.get(options.method, options.rounds)
    gate = "rows" if options.gate == "auto" else options.gate
    statistics = "running" if options.statistics == "auto" else options.statistics
    options = replace(options, gate=gate, statistics=statistics, rounds=rounds)
    return options, replace(method, criterion=replace(method.criterion, matrices_only=True, by_term=False))


def run(name: str, task: Task, options: Options, store: Store, report: Report) -> Result:
    """Train ``task`` as ``options`` say, from the store's last checkpoint on if there is one; its result.

    Raises:
        RunError: the checkpoint is broken or another run's, or training diverged (recorded in failure.json).
    """
    device = device_of(options.device, "--device")
    with measured_emissions(options.country, device) as emissions, cuda_algorithms(options.deterministic):
        training, resumed = restore(name, task, options, store, emissions)
        if not resumed:
            prune_before_training(training)
        try:
            train_epochs(training, report)
            return finish(training)
        except DivergedError as error:
            store.write("failure.json", json.dumps(error.failure) + "\n")
            raise


def restore(name: str, task: Task, options: Options, store: Store, emissions: RunEmissions) -> tuple[Training, bool]:
    """Return the training as it was left, and True; or at its start, or where it branches off, and False."""
    model, optimizer = fresh(task, options)
    data = task.trained_on()
    state = store.load(model, data)
    if not distributed.all_equal(None if state is None else state["epoch"]):
        raise RunError(f"not every process sees the checkpoint in {store.folder}: give a shared folder with --runs")
    pruner = pruner_of(task, options, model, optimizer)
    keep = sorted({*options.keep, *(() if state is None else state["keep"])})
    training = Training(
        name=name, task=task, options=options, store=store, emissions=emissions, model=model, optimizer=optimizer,
        pruner=pruner, device=device_of(options.device, "--device"), data=data, keep=keep,
        largest_rate=optimizer.param_groups[0]["lr"],
    )  # fmt: skip
    if state is not None:
        if (epoch := state["epoch"]) > pruner.total_epochs:
            path, total = checkpoint(store.folder, epoch), pruner.total_epochs
            raise RunError(f"{path} is of epoch {epoch}, and the run has {total}: move it away to start the run anew")
        training.load(state, pruner.load_state_dict)
    elif options.branch_from is not None:
        training.load(branch_off(options, store.config, model, data), pruner.branch_off)
    return training, state is not None


def prune_before_training(training: Training) -> None:
    """Ask the pruner before the first epoch, or where the run branches off, and write the first checkpoint."""
    task, model, branch_from = training.task, training.model, training.options.branch_from
    event, seconds = _ask(training.pruner, task, model, training.epoch)
    training.seconds += seconds
    line: dict[str, Any] = {"parameters": count_nonzero_parameters(model), "event": event}
    if branch_from is not None:
        last = training.log[-1]
        line |= task.validate(model)
        line |= {"seconds": last["seconds"] + seconds, "branched_from": branch_from.resolve().name}
        training.log[-1] = last | line
    elif event is not None:
        training.log = [{"epoch": 0, **line, "seconds": seconds}]
    model.to(training.device)  # the parameters stay the same objects, and their optimizer theirs
    training.save()


def train_epochs(training: Training, report: Report) -> None:
    """Train the epochs that are left, with a checkpoint after each.

    Raises:
        DivergedError: a loss, or what was validated, is not finite.
    """
    replicas = distributed.Replicas()
    while training.epoch < training.pruner.total_epochs:
        line = _epoch(training, replicas)
        measured = training.task.validate(training.model)
        require_finite(measured, training.epoch + 1)
        line |= measured
        training.epoch += 1
        training.seconds += line["seconds"]
        training.log.append(line)
        training.save()
        report(training.epoch, line)


def finish(training: Training) -> Result:
    """Evaluate the model, measure and save it, and write the result.

    Raises:
        DivergedError: the metric is not finite.
    """
    training.model.eval()
    spent = training.emissions.so_far()
    value = training.task.evaluate(training.model)
    if not isinstance(value, int | float):
        raise RunError(f"the task's evaluate returned {value!r}: return a number, such as float(accuracy)")
    require_finite({training.task.metric: value}, training.epoch)
    result = None
    if distributed.rank() == 0:
        result = outcome(training, spent, value)
        training.store.finish(result)
    result = distributed.broadcast_from_rank0(result)
    assert result is not None
    return result


def _epoch(training: Training, replicas: distributed.Replicas) -> dict[str, Any]:
    """Train an epoch and ask the pruner; the epoch's line of the log."""
    task, options, model, pruner = training.task, training.options, training.model, training.pruner
    epoch, start = training.epoch + 1, perf_counter()
    distributed.seed_process(options.seed, epoch)

    def rate(done: float) -> float:
        schedule = progress(options, pruner, done)
        return training.largest_rate if schedule is None else task.learning_rate(schedule)

    first = rate(0.0)
    loss = train(task, model, training.optimizer, epoch, rate, replicas)
    task_log = task.log()  # before the scoring draws batches of its own
    seconds = perf_counter() - start
    event, asking = _ask(pruner, task, model, epoch)
    return {
        "epoch": epoch, "loss": loss, "learning_rate": first, "parameters": count_nonzero_parameters(model), **task_log,
        "trigger": pruner.log(), "event": event, "seconds": seconds + asking,
    }  # fmt: skip


def _ask(pruner: earlycrop.Pruner, task: Task, model: nn.Module, epoch: int) -> tuple[dict[str, Any] | None, float]:
    """Let the pruner act after ``epoch`` epochs; return the event, with its diagnostics, and the seconds of pruning.

    Scoring batches are drawn, and the model looked at, only if the pruner reads them.
    """
    looks: list[Mapping[str, float | Tensor]] = []
    drawn: list[Any] = []
    aside = 0.0

    def look() -> None:
        nonlocal aside
        start = perf_counter()
        looks.append(task.pruning_diagnostics(model, drawn))
        aside += perf_counter() - start

    def draw() -> Iterator[Any]:
        drawn.extend(task.scoring_batches(model, epoch) or ())
        if not drawn:
            raise RunError("the task's scoring_batches returned no batches: return a few batches of training data")
        look()
        yield from drawn

    start = perf_counter()
    try:
        event = pruner.step(draw())
    except (ValueError, earlycrop.FlowError, earlycrop.TraceError, earlycrop.SurgeryError) as error:
        raise RunError(f"pruning after epoch {epoch} failed: {error}") from error
    if event is not None:
        look()
    seconds = perf_counter() - start - aside
    return None if event is None else {**event.record(), **diagnostics_change(*looks)}, seconds


def diagnostics_change(before: Mapping[str, float | Tensor], after: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Return a task's diagnostics before and after a pruning, and of log probabilities how far they moved."""
    change = {}
    for name, was in before.items():
        now = after[name]
        if isinstance(was, Tensor) and isinstance(now, Tensor):
            moved = functional.kl_div(now, was, reduction="batchmean", log_target=True)
            change[f"{name}_moved"] = float(distributed.all_mean(moved))  # each process looks at its part
        else:
            change |= {f"{name}_before": float(was), f"{name}_after": float(now)}
    return change
