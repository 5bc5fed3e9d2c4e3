"""An epoch of plain training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.scoring.loss_terms import total_loss
from tasks import Task
from tasks.runner import distributed
from tasks.runner.errors import DivergedError, RunError


def finite(numbers: Mapping[str, float], epoch: int) -> Mapping[str, float]:
    """What was measured after an epoch, if all of it is finite.

    Raises:
        DivergedError: something is not.
    """
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DivergedError(name, value, epoch)
    return numbers


def train(
    task: Task, model: nn.Module, optimizer: Optimizer, epoch: int, rate: Callable[[float], float],
    replicas: Callable[[nn.Module], nn.Module],
) -> float:  # fmt: skip
    """One epoch of plain training at ``rate``, given how much of the epoch is done; the mean loss.

    ``replicas`` makes of the model what is trained: the same on several processes, or itself.

    Raises:
        DivergedError: a loss is not finite. On a CPU that step was not taken; on a GPU it is found up to 49 steps
        later.
    """
    model.train()
    losses: list[Tensor] = []
    checked = 0
    for step, batch in enumerate(task.batches(model, epoch), start=1):
        if task.batches_per_epoch is not None or step == 1:
            for group in optimizer.param_groups:
                group["lr"] = rate((step - 1) / (task.batches_per_epoch or 1))
        optimizer.zero_grad(set_to_none=True)
        network = replicas(model)  # after the batch, which may have changed how weights lie
        loss = total_loss(task.training_loss(network, batch))
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


def _check(losses: list[Tensor], checked: int, epoch: int) -> int:
    if distributed.processes() > 1 and checked < len(losses):  # of all of them, which must go on or stop together
        losses[checked:] = distributed.all_mean(torch.stack(losses[checked:])).unbind()
    for step, loss in enumerate(losses[checked:], start=checked + 1):
        if not math.isfinite(value := float(loss)):
            raise DivergedError("loss", value, epoch, step)
    return len(losses)
