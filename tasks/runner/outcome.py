"""What is told of a finished run: its network saved and measured, its metric, and what ran it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

import earlycrop
from earlycrop import measure
from earlycrop.emissions import EmissionsReading
from earlycrop.scoring.loss_terms import total_loss
from tasks import Task
from tasks.runner import distributed
from tasks.runner.machine import cpu_model, load_average
from tasks.runner.networks import count_nonzero_parameters, model_device
from tasks.runner.options import VARIANTS, Options, with_defaults
from tasks.runner.result import Result
from tasks.runner.training import Training

COMMIT_VARIABLE = "EARLYCROP_COMMIT"


def outcome(training: Training, spent: EmissionsReading | None, value: float) -> Result:
    """Write the final model, whose metric has this ``value``, and measure it beside the dense one."""
    task, options, model, pruner = training.task, training.options, training.model, training.pruner
    store = training.store
    file = earlycrop.save(model, store.folder)
    event = pruner.event
    device = model_device(model)
    memory = measure.peak_memory_bytes(device)
    load = load_average()
    apart = event is not None and not options.prune_on  # with it the dense network is not to touch the device
    *others, cost = _costs(task, model, training.optimizer, device, apart)
    dense = others[0] if others else cost if event is None else None
    limit = None if dense is None else (dense.milliseconds / cost.milliseconds) / (dense.macs / cost.macs)
    return Result(
        run=store.id, task=training.name, dataset=task.dataset, preset=options.preset, network=task.network,
        method=options.method, structured=event is not None and pruner.method.structured,
        sparsity_of=with_defaults(options).of, sparsity_asked=None if pruner.request is None else options.sparsity,
        weight_sparsity=0.0 if event is None else event.weight_sparsity,
        node_sparsity=0.0 if event is None else event.node_sparsity,
        metric=task.metric, value=value, higher_is_better=task.higher_is_better, split=task.split,
        epochs=options.epochs, pruned_epoch=None if event is None else event.epoch,
        pruned_why=None if event is None else event.reason, seed=options.seed,
        train_seconds=training.seconds, batch_ms=cost.milliseconds, peak_memory_bytes=memory,
        device=hardware(device),
        python=platform.python_version(), torch=torch.__version__, commit=commit(),
        variant=variant(options), epochs_trained=pruner.total_epochs,
        parameters=count_nonzero_parameters(model), macs=cost.macs, dense_batch_ms=dense and dense.milliseconds,
        dense_macs=dense and dense.macs, of_macs_limit=limit, step_bytes=cost.bytes,
        dense_step_bytes=dense and dense.bytes,
        disk_bytes=file.stat().st_size, csr_bytes=measure.csr_bytes(model),
        energy_kwh=spent and spent.kwh, emissions_g=spent and spent.grams,
        emissions_country=spent and options.country, emissions_measured=spent and spent.measured,
        threads=torch.get_num_threads(), load=load,
    )  # fmt: skip


class Cost(NamedTuple):
    """Of a training step, and of a forward pass of one example."""

    macs: int
    milliseconds: float
    bytes: int


def _costs(task: Task, model: nn.Module, optimizer: Optimizer, device: torch.device, beside_dense: bool) -> list[Cost]:
    """Of the dense network, if it is to be beside this one, and of this one: the steps' times are taken in turn."""
    networks = [(model, optimizer)]
    if beside_dense:
        dense = task.model().to(device)
        networks = [(dense, task.optimizer(dense)), *networks]
        del dense
    ready = [_prepared(task, *network) for network in networks]
    del networks
    times = measure.milliseconds_in_turn([step for _, step in ready], device)
    costs = []
    for milliseconds in times:
        macs, step = ready.pop(0)  # the one before is gone: a network's memory is without it
        beside = _bytes_held(model, optimizer) if ready else 0  # while the dense one is measured
        costs.append(Cost(macs, milliseconds, measure.step_memory_bytes(step, device) - beside))
    return costs


def _bytes_held(model: nn.Module, optimizer: Optimizer) -> int:
    """The memory of a network, its gradients and its optimizer's state between two steps."""
    parameters = list(model.parameters())
    states = tree_leaves(list(optimizer.state.values()))
    tensors = [*parameters, *model.buffers(), *(p.grad for p in parameters), *states]
    storages = [t.untyped_storage() for t in tensors if isinstance(t, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _prepared(task: Task, model: nn.Module, optimizer: Optimizer) -> tuple[int, Callable[[], None]]:
    """The network's multiply-accumulates, and its training step, on one batch of the task's."""
    before = task.state_dict()
    batch = task.batch_to_measure(model)
    task.load_state_dict(before)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total_loss(task.training_loss(model, batch)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    model.eval()
    macs = measure.macs(model, lambda m: task.loss(m, batch))
    model.train()
    return macs, step


def hardware(device: torch.device) -> str:
    """The device's model, and how many of them have trained the run."""
    named = getattr(torch.get_device_module(device), "get_device_name", None) if device.type != "cpu" else None
    name = cpu_model() if named is None else named(device)
    return name if distributed.processes() == 1 else f"{distributed.processes()} x {name}"


def variant(options: Options) -> str:
    """The options that make the method another than its row says, in words."""
    plain, counted = Options(), with_defaults(options)  # what only some tasks have is None in the former
    changed = [name for name in VARIANTS if getattr(counted, name, None) != getattr(plain, name, None)]
    return ", ".join(f"{name.replace('_', ' ')} {getattr(counted, name)}" for name in changed)


def commit() -> str:
    """Return the commit of the code that runs, with "-dirty" where files differ from it.

    In a copy without a repository it is what EARLYCROP_COMMIT says, or else "unknown".
    """
    if commit := os.environ.get(COMMIT_VARIABLE):
        return commit
    try:
        description = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return description.stdout.strip()
