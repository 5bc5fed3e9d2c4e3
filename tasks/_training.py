"""An epoch of plain training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks import Task, _ranks
from tasks._store import RunError


class DivergedError(RunError):
    """The loss is no longer finite."""

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"the loss is {loss} in epoch {epoch}, step {step}: training has diverged. The checkpoint of the epoch "
            "before is kept; a lower learning rate is the usual way out"
        )
        self.failure = {"epoch": epoch, "step": step, "loss": str(loss)}


def train(
    task: Task, model: nn.Module, optimizer: Optimizer, epoch: int, rate: Callable[[float], float],
    replicas: Callable[[nn.Module], nn.Module],
) -> float:  # fmt: skip
    """One epoch of plain training at ``rate``, given how much of the epoch is done; the mean loss.

    ``replicas`` makes of the model what is trained: the same on several processes, or itself.

    Raises:
        DivergedError: a loss is not finite; that step was not taken.
    """
    model.train()
    losses: list[Tensor] = []
    checked = 0
    for step, batch in enumerate(task.batches(model, epoch), start=1):
        if task.batches_per_epoch is not None or step == 1:
            for group in optimizer.param_groups:
                group["lr"] = rate((step - 1) / (task.batches_per_epoch or 1))
        optimizer.zero_grad(set_to_none=True)
        loss = task.training_loss(replicas(model), batch)  # after the batch, which may have changed how weights lie
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
    _ranks.end(model)
    return float(torch.stack(losses).mean())


def _check(losses: list[Tensor], checked: int, epoch: int) -> int:
    if _ranks.processes() > 1 and checked < len(losses):  # of all of them, which must go on or stop together
        losses[checked:] = _ranks.mean(torch.stack(losses[checked:])).unbind()
    for step, loss in enumerate(losses[checked:], start=checked + 1):
        if not math.isfinite(value := float(loss)):
            raise DivergedError(epoch, step, value)
    return len(losses)
