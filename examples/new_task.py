"""A task of your own in one file: copy it to ``tasks/mine.py``, and ``python -m tasks.mine`` runs it.

As an example, tell which of two numbers is larger, by a small network. Run from the root of a checkout.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # only needed outside tasks/

from tasks import Summary, Task
from tasks.data.batches import generator
from tasks.runner.networks import evaluating
from tasks.runner.options import Options as TaskOptions


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """The configuration of this task; its docstrings are the help of the command line."""

    epochs: int = 8
    """Budget of training epochs."""
    width: int = 64
    """Neurons of the two hidden layers."""


PRESETS = {"default": Options}
SUMMARY = Summary("pairs of numbers", "made up", "two layers of 64", "1")


class Larger(Task):
    """Which of two numbers is larger."""

    dataset, network, metric = "pairs", "mlp", "accuracy"

    def __init__(self, options):
        self.options = options

    def model(self):
        width = self.options.width
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def optimizer(self, model):
        return torch.optim.Adam(model.parameters(), 3e-3, fused=True)

    def learning_rate(self, progress):
        return 3e-3 * (1 - progress)

    def batches(self, model, epoch, purpose=0):
        random = generator((self.options.seed, epoch, purpose))  # so that a run can be resumed
        for _ in range(20):
            pairs = torch.rand(32, 2, generator=random)
            yield pairs, pairs.argmax(1)

    def scoring_batches(self, model, epoch):
        return list(self.batches(model, epoch, purpose=1))[:5]

    def loss(self, model, batch):
        return functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model):
        pairs = torch.rand(1000, 2, generator=generator((0,)))
        with evaluating(model):
            return float((model(pairs).argmax(1) == pairs.argmax(1)).float().mean())


def make(options):
    return Larger(options)


if __name__ == "__main__":
    from tasks.runner.command_line import main

    if Path(__file__).parent.name == "tasks":
        main(Path(__file__).stem)  # as tasks/mine.py, by its name
    else:  # outside tasks/, register the module by hand
        sys.modules["tasks.larger"] = sys.modules["__main__"]
        main("larger", ["--method", "earlycrop-s", "--sparsity", "0.8", *sys.argv[1:]])
