"""What a run prints: at its start what is done, at its end what was won."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

import torch

from earlycrop import METHODS
from tasks import Task
from tasks.runner.options import Options
from tasks.runner.outcome import commit, count_nonzero_parameters, hardware
from tasks.runner.result import Result
from tasks.runner.store import Store, configuration, identity


def describe_start(task: Task, options: Options, model: torch.nn.Module, device: torch.device, folder: Path) -> str:
    """Return what is about to be done: data, network, method, device, folder."""
    data = ", ".join(f"{count:,} {name}" for name, count in task.trained_on().items() if isinstance(count, int))
    pruning = "no pruning"
    if options.method != "dense":
        units = "nodes" if METHODS[options.method].structured else "weights"
        pruning = f"{options.method}, remove {units} until {options.sparsity:.4g} of the {options.of} is gone"
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    return "\n".join([
        f"data     {task.dataset}" + (f": {data}" if data else ""),
        f"network  {task.network}: {count_nonzero_parameters(model):,} parameters",
        f"pruning  {pruning}",
        f"training {options.epochs} epochs, seed {options.seed}, on {hardware(device)}{threads}",
        f"folder   {folder}",
    ])  # fmt: skip


def describe_result(result: Result, options: Options, folder: Path) -> str:
    """Return what a finished run has won: its metric beside the dense run's, its size, its speed, its files."""
    lines = [f"{result.method}: {result.metric} {result.value:.4g} on {result.split}{_dense_value(result, options)}"]
    if result.pruned_epoch is not None:
        kept = 1 - result.weight_sparsity
        lines.append(
            f"{result.parameters:,} parameters, {kept:.2%} of the weights and {1 - result.node_sparsity:.2%} of the "
            f"nodes are left after a pruning at epoch {result.pruned_epoch}"
        )
    if result.pruned_epoch is not None and result.dense_macs and result.dense_batch_ms:
        lines.append(
            f"MACs {_change(result.dense_macs, result.macs, ',')}; training step in ms "
            f"{_change(result.dense_batch_ms, result.batch_ms, '.3g')}"
        )
    lines.append(f"trained in {result.train_seconds:.1f} s; the files are in {folder}")
    return "\n".join(lines)


def describe_finished(result: Result, store: Store) -> str:
    """Return that the run was finished earlier, and whether the code has changed since."""
    date = datetime.fromtimestamp((store.folder / "result.json").stat().st_mtime)
    text = f"finished on {date:%Y-%m-%d %H:%M}, from {store.folder}; --fresh runs it again"
    if result.commit != commit():
        text += f"\nwarning: the code has changed since, from {result.commit[:14]} to {commit()[:14]}"
    return text


def _dense_value(result: Result, options: Options) -> str:
    """Return the metric of the dense run of the same options, if there is one among the runs."""
    if result.method == "dense":
        return ""
    dense = dataclasses.replace(options, method="dense")
    path = options.runs / identity(configuration(result.task, dense)) / "result.json"
    if not path.exists():
        return ""
    return f" (dense run of the same options: {Result.from_json(path.read_text(), str(path)).value:.4g})"


def _change(before: float, after: float, form: str) -> str:
    return f"{before:{form}} -> {after:{form}} ({after / before - 1:+.0%})"
