"""What a cut saves of a training step: ``python -m benchmarks.step_time [--data FOLDER]``.

The paper's ResNet18 at 95 % and VGG16 at 98 % of the weights removed by earlycrop-s, on CIFAR-10 images of 64 x 64,
batch 128, after a short training: the dense and the small network's training step side by side in one process, the
speed-up beside its goal (5x and 20x; the paper has 1.65x and 2.6x on its GPU), and the share that it is of the
limit that the multiply-accumulates set. ``--of`` macs or time asks for that instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Literal

import torch
import tyro
from torch import nn

import earlycrop
from earlycrop import measure
from tasks import Task, cifar10


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    data: str = "uoft-cs/cifar10"
    """CIFAR-10, as the task takes it."""
    of: Literal["weights", "macs", "time"] = "weights"
    """What the sparsity is a share of."""
    images: int = 1280
    """Training images of each of the two epochs before the cut."""
    repeats: int = 7
    """Timed steps of each network, one after the other; the median counts."""


CASES = {"resnet18": (0.95, 5.0), "vgg16": (0.98, 20.0)}
"""Network -> sparsity, and the speed-up that is aimed at."""


def step_of(task: Task, model: nn.Module, batch: object) -> Callable[[], float]:
    """A training step, as the task takes it; its seconds."""
    optimizer = task.optimizer(model)

    def step() -> float:
        start = perf_counter()
        optimizer.zero_grad(set_to_none=True)
        task.training_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return perf_counter() - start

    return step


def case(network: str, sparsity: float, goal: float, options: Options) -> str:
    """Train, cut and measure one network; a line of the table."""
    settings = cifar10.Options(
        data=options.data, network=network, size=64, batch=128, images=options.images, validation=0.0, scoring=2,
        epochs=8, optimizer="adam", learning_rate=2e-3, decay="onecycle", clip=10.0, weight_decay=5e-5,
    )  # fmt: skip
    task = cifar10.make(settings)
    torch.manual_seed(0)
    model = task.model()
    dense, optimizer = copy.deepcopy(model), task.optimizer(model)
    pruner = earlycrop.Pruner(
        model, optimizer, task.loss, "earlycrop-s", sparsity, epochs=8, of=options.of, score_batches=2, trigger=2
    )
    pruner.step(task.scoring_batches(model, 0))
    for epoch in (1, 2):
        for batch in task.batches(model, epoch):
            optimizer.zero_grad()
            task.training_loss(model, batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
        event = pruner.step(task.scoring_batches(model, epoch))
    assert event is not None
    batch = next(iter(task.batches(model, 3)))
    steps = [step_of(task, dense.train(), batch), step_of(task, model.train(), batch)]
    seconds = [[step() for step in steps] for _ in range(options.repeats + 2)][2:]
    before, after = (median(column) for column in zip(*seconds, strict=True))
    macs = [measure.macs(m, lambda m: task.loss(m, batch)) for m in (dense, model)]
    limit, speedup = macs[0] / macs[1], before / after
    return (
        f"{network:9} {event.weight_sparsity:8.2%} {event.node_sparsity:7.1%} {limit:9.1f}x {1000 * before:9.0f} "
        f"{1000 * after:9.1f} {speedup:8.1f}x {speedup / goal:9.2f} {speedup / limit:9.2f} {event.seconds:8.1f}"
    )


def main(options: Options) -> None:
    print(f"sparsity of {options.of}; {torch.get_num_threads()} threads")
    print("network    weights   nodes  MACs limit  dense ms  small ms speed-up  of goal  of limit  cut in s")
    for network, (sparsity, goal) in CASES.items():
        print(case(network, sparsity, goal, options), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
