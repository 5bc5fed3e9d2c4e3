"""A training under way: what is trained, how far it has come, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop import Pruner
from tasks import Task
from tasks.runner.data_fingerprint import DataFingerprint
from tasks.runner.emissions import EmissionsMeter
from tasks.runner.options import Options
from tasks.runner.store import Store


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
    meter: EmissionsMeter
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
            state: The state.
            load_pruner: Loads the pruner's part of it.
        """
        self.model.to(self.device)  # before its optimizer's state, which follows the parameters
        self.optimizer.load_state_dict(state["optimizer"])
        load_pruner(state["pruner"])
        self.task.load_state_dict(state["task"])
        torch.set_rng_state(state["rng"])
        for i, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):  # it may have been another machine
            torch.cuda.set_rng_state(cuda_state, i)
        self.epoch, self.seconds, self.log = state["epoch"], state["seconds"], state["log"]
        self.meter.go_on(state.get("spent"))

    def save(self) -> None:
        """Write the log and a checkpoint."""
        spent = self.meter.state()
        self.store.log(self.log)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        state = {
            "optimizer": self.optimizer.state_dict(), "pruner": self.pruner.state_dict(),
            "task": self.task.state_dict(), "rng": torch.get_rng_state(), "cuda": cuda, "epoch": self.epoch,
            "seconds": self.seconds, "log": self.log, "spent": spent, "data": dict(self.data), "keep": self.keep,
        }  # fmt: skip
        self.store.save(self.model, self.epoch, state, self.keep)
