"""A training under way: its state, its checkpoints, the electricity that it has used, and an epoch of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop import Pruner
from earlycrop.emissions import EmissionsMeter, EmissionsReading
from earlycrop.scoring.loss_terms import named_terms, total_loss
from tasks import DataFingerprint, Task
from tasks.runner import distributed
from tasks.runner.errors import DivergedError, RunError
from tasks.runner.options import Options
from tasks.runner.store import Store


class RunEmissions:
    """The electricity and emissions of a run, by a country's mix, in all its processes and over all its stops.

    Without a ``meter``, nothing is measured.
    """

    def __init__(self, country: str, meter: EmissionsMeter | None) -> None:
        self.country, self.meter = country, meter
        self.before: EmissionsReading | None = EmissionsReading(0.0, 0.0, True)

    def load(self, spent: Mapping[str, Any] | None) -> None:
        """Add what ``state`` said before a stop; what was measured by another country's mix counts as not measured."""
        self.before = None
        if spent is not None and spent.get("country") == self.country:
            self.before = EmissionsReading(*(spent[name] for name in EmissionsReading._fields))

    def state(self) -> dict[str, Any] | None:
        """Return ``so_far`` for a checkpoint."""
        spent = self.so_far()
        return None if spent is None else {**spent._asdict(), "country": self.country}

    def so_far(self) -> EmissionsReading | None:
        """Return what the run has used; None where it is not measured, or a part of it was not."""
        if self.meter is None:
            return None
        parts = [self.before, *distributed.all_gather(self.meter.so_far())]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return EmissionsReading(sum(p.kwh for p in known), sum(p.grams for p in known), all(p.measured for p in known))


@contextmanager
def measured_emissions(country: str, device: torch.device) -> Iterator[RunEmissions]:
    """Measure the emissions of a block by the electricity of ``country``; of an empty one, nothing."""
    with EmissionsMeter(country, device) if country else nullcontext() as meter:
        yield RunEmissions(country, meter)


@dataclass(kw_only=True)
class Training:
    """A training under way.

    Attributes:
        device: Where it trains.
        data: What tells its data from others of the same name.
        keep: The epochs whose checkpoints are kept.
        largest_rate: The learning rate that the task's optimizer was made with, of which schedules give shares.
        epoch: The number of epochs done.
        seconds: How long training, scoring and cutting took.
        log: A line for each epoch.
    """

    name: str
    task: Task
    options: Options
    store: Store
    emissions: RunEmissions
    model: nn.Module
    optimizer: Optimizer
    pruner: Pruner
    device: torch.device
    data: DataFingerprint
    keep: list[int]
    largest_rate: float
    epoch: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)

    def load(self, state: Mapping[str, Any], load_pruner: Callable[[Mapping[str, Any]], None]) -> None:
        """Continue from a checkpoint's state, whose model is loaded already.

        Args:
            load_pruner: Loads the pruner's part of the state.
        """
        self.model.to(self.device)  # before its optimizer's state, which follows the parameters
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            load_pruner(state["pruner"])
            self.task.load_state_dict(state["task"])
            torch.set_rng_state(state["rng"])
            _set_device_states(self.device, state["cuda"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RunError(
                f"the checkpoint's state is of another run ({type(error).__name__}: {error}): move the checkpoint away "
                "to start the run anew"
            ) from error
        self.epoch, self.seconds, self.log = state["epoch"], state["seconds"], state["log"]
        self.emissions.load(state["spent"])

    def save(self) -> None:
        """Write the log and a checkpoint."""
        spent = self.emissions.state()
        self.store.log(self.log)
        state = {
            "optimizer": self.optimizer.state_dict(), "pruner": self.pruner.state_dict(),
            "task": self.task.state_dict(), "rng": torch.get_rng_state(), "cuda": _device_states(self.device),
            "epoch": self.epoch, "seconds": self.seconds, "log": self.log, "spent": spent, "data": dict(self.data),
            "keep": self.keep,
        }  # fmt: skip
        self.store.save(self.model, self.epoch, state, self.keep)


def _device_states(device: torch.device) -> list[Tensor]:
    """The random states of all devices of this kind; none of the CPU."""
    if device.type == "cpu":
        return []
    backend: Any = torch.get_device_module(device)
    return backend.get_rng_state_all() if hasattr(backend, "get_rng_state_all") else [backend.get_rng_state()]


def _set_device_states(device: torch.device, states: list[Tensor]) -> None:
    """Set them, as far as there are as many devices: it may have been another machine."""
    if device.type == "cpu" or not states:
        return
    backend: Any = torch.get_device_module(device)
    if hasattr(backend, "set_rng_state_all"):
        backend.set_rng_state_all(states[: backend.device_count()])
    else:
        backend.set_rng_state(states[0])


def train(
    task: Task, model: nn.Module, optimizer: Optimizer, epoch: int, rate: Callable[[float], float],
    replicas: Callable[[nn.Module], nn.Module],
) -> float:  # fmt: skip
    """Train an epoch; return the mean loss.

    Args:
        epoch: The epoch's number, from 1.
        rate: The learning rate by how much of the epoch is done.
        replicas: Makes of the model what is trained: its copies on several processes, or itself.

    Raises:
        DivergedError: A loss is not finite. On a CPU that step was not taken; on a GPU it is noticed up to 49 steps
            later.
    """
    model.train()
    losses: list[Tensor] = []
    checked = 0
    for step, batch in enumerate(task.batches(model, epoch), start=1):
        if task.batches_per_epoch is not None or step == 1:
            for group in optimizer.param_groups:
                group["lr"] = rate((step - 1) / (task.batches_per_epoch or 1))
        if step == 1:
            lay_state_as_parameters(optimizer)
        optimizer.zero_grad(set_to_none=True)
        network = replicas(model)  # after the batch, which may have changed how weights lie
        loss = _scalar(task.training_loss(network, batch))
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
    distributed.broadcast_buffers(model)
    return float(torch.stack(losses).mean())


def lay_state_as_parameters(optimizer: Optimizer) -> None:
    """Give the optimizer's state the strides of its parameters, such as those of channels last.

    A loaded state has the strides of a file. Fused optimizers refuse other strides on a GPU, and on a CPU they take one
    entry for another.
    """
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def _scalar(value: Any) -> Tensor:
    """Return what a task's loss returned as one number, the sum of its terms; raise RunError if a term is none."""
    terms = named_terms(value).values()
    if not terms or any(not isinstance(term, Tensor) or term.numel() != 1 for term in terms):
        shapes = ", ".join(str(tuple(term.shape)) if isinstance(term, Tensor) else repr(term) for term in terms)
        raise RunError(
            f"the task's loss must be a tensor of one number, or a dict of such tensors: take the mean of it, which is "
            f"now {shapes or 'empty'}"
        )
    return total_loss(value)


def _check(losses: list[Tensor], checked: int, epoch: int) -> int:
    if distributed.processes() > 1 and checked < len(losses):  # of all of them, which must go on or stop together
        losses[checked:] = distributed.all_mean(torch.stack(losses[checked:])).unbind()
    for step, loss in enumerate(losses[checked:], start=checked + 1):
        if not math.isfinite(value := float(loss)):
            raise DivergedError("loss", value, epoch, step)
    return len(losses)


def require_finite(numbers: Mapping[str, float], epoch: int) -> None:
    """Raise a DivergedError where something that was measured after an epoch is not finite."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DivergedError(name, value, epoch)
