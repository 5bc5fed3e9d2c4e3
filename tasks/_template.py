"""A task to copy: tell three kinds of wine apart by 13 measurements (scikit-learn's wine data, 178 rows)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import Summary, Task
from tasks.data.batches import generator
from tasks.runner.command_line import main
from tasks.runner.networks import evaluating, model_device
from tasks.runner.options import Options as TaskOptions
from tasks.runner.options import Positive

Batch = tuple[Tensor, Tensor]


# The options: each field is an option of the command line, its type may say how large it may be, its docstring is the
# help.
@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """The configuration of the wine task."""

    learning_rate: Positive = 3e-3
    """Learning rate of Adam."""


# Named settings: functions without arguments that return options. "default" must be one of them.
PRESETS = {"default": Options}

# What the list of tasks says: data, where they come from, network, minutes on a CPU.
SUMMARY = Summary("wine", "in scikit-learn", "two layers of 64", "1")


class Wine(Task):
    """The wine data as a task."""

    # What the records call the data, the network and the metric.
    dataset, network, metric = "scikit-learn wine", "mlp-64-64", "accuracy"
    higher_is_better = True  # False for an error

    # Read the data. The test rows are the same for every seed.
    def __init__(self, options: Options) -> None:
        self.options = options
        rows, labels = load_wine(return_X_y=True)
        self.rows = torch.from_numpy((rows - rows.mean(0)) / rows.std(0)).float()
        self.labels = torch.from_numpy(labels)
        order = torch.randperm(len(rows), generator=generator((0,)))
        self.test, self.train = order[:58], order[58:]

    # The network, freshly initialised, and its optimizer.
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.Adam(model.parameters(), self.options.learning_rate, fused=True)

    # The learning rate, from the share of the training that is done (0 to 1).
    def learning_rate(self, progress: float) -> float:
        return self.options.learning_rate * (1 - progress)

    # The batches of an epoch (from 1). Seed, epoch and purpose decide their order, so that a run can be resumed.
    def batches(self, model: nn.Module, epoch: int, purpose: int = 0) -> Iterator[Batch]:
        key = (self.options.seed, epoch, purpose)
        order = self.train[torch.randperm(len(self.train), generator=generator(key))]
        for start in range(0, len(order), 20):
            rows = order[start : start + 20]
            yield self.rows[rows].to(model_device(model)), self.labels[rows].to(model_device(model))

    # Training data that the pruning scores are computed on. Drawing them must not change the training.
    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        return list(self.batches(model, epoch, purpose=1))

    # The loss that is trained, and that pruning preserves: a mean over examples.
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    # The metric on the test data, once at the end.
    def evaluate(self, model: nn.Module) -> float:
        with evaluating(model) as device:
            chosen = model(self.rows[self.test].to(device)).argmax(-1).cpu()
        return float((chosen == self.labels[self.test]).float().mean())


# What makes the task of its options.
make = Wine


# The command line: python -m tasks.NAME, where NAME is the name of this file.
if __name__ == "__main__":
    main(Path(__file__).stem)
