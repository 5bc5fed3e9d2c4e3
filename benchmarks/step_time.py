"""What a cut saves of a training step.

The paper's ResNet18 at 95 % and VGG16 at 98 % of the weights removed by earlycrop-s, on CIFAR-10 images of 64 x 64,
batch 128, after a short training: the dense and the small network's training step side by side in one process, the
speed-up beside its goal (5x and 20x; the paper has 1.65x and 2.6x on its GPU), and the limit that the
multiply-accumulates set. ``--of`` macs or time asks for that instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

import earlycrop
from benchmarks.command_line import BenchmarkOptions, fail, run
from benchmarks.random_images import cifar10_data
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import measure
from tasks import Task, cifar10

CASES = {"resnet18": (0.95, 5), "vgg16": (0.98, 20)}
"""Network -> sparsity, and the speed-up that is aimed at."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    networks: tuple[Literal["resnet18", "vgg16"], ...] = ("resnet18", "vgg16")
    """Networks, a row each."""
    data: str | None = None
    """CIFAR-10, as tasks.cifar10 takes it. Default: uoft-cs/cifar10; random images with --quick."""
    of: Literal["weights", "macs", "time"] = "weights"
    """What the sparsity is a share of."""
    images: int = 1280
    """Training images of each of the two epochs before the cut."""
    batch: int = 128
    """Images in a batch."""
    size: int = 64
    """Side of the images that the network is given."""
    repeats: int = REPEATS
    """Timed steps of each network, one after the other; the median counts."""


QUICK = Options(networks=("resnet18",), images=8, batch=4, size=32, repeats=1)


def make_task(network: str, data: str, options: Options) -> Task:
    """The task with the recipe of the paper's table 1."""
    settings = cifar10.Options(
        data=data, network=network, size=options.size, batch=options.batch, images=options.images, validation=0.0,
        scoring=2, epochs=8, optimizer="adam", learning_rate=2e-3, decay="onecycle", clip=10.0, weight_decay=5e-5,
    )  # fmt: skip
    try:
        return cifar10.make(settings)
    except ValueError as error:
        fail(str(error))


def train_and_cut(task: Task, model: nn.Module, sparsity: float, of: str) -> earlycrop.Event:
    """Train for two epochs, and cut."""
    optimizer = task.optimizer(model)
    pruner = earlycrop.Pruner(
        model, optimizer, task.loss, "earlycrop-s", sparsity, epochs=8, of=of, score_batches=2, trigger=2
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
    return event


def training_step(task: Task, model: nn.Module, batch: object) -> Callable[[], None]:
    """A function that takes a training step."""
    optimizer = task.optimizer(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.training_loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure_network(network: str, data: str, options: Options) -> dict[str, object]:
    """Train, cut and measure one network; its row."""
    sparsity, goal = CASES[network]
    task = make_task(network, data, options)
    torch.manual_seed(0)
    model = task.model()
    dense = copy.deepcopy(model)
    event = train_and_cut(task, model, sparsity, options.of)
    batch = next(iter(task.batches(model, 3)))
    steps = [training_step(task, m.train(), batch) for m in (dense, model)]
    before, after = in_turn(*steps, repeats=options.repeats, warm_up=2)
    macs = [measure.macs(m, lambda m: task.loss(m, batch)) for m in (dense, model)]
    return {
        "network": network,
        "of": options.of,
        "weight_sparsity": event.weight_sparsity,
        "node_sparsity": event.node_sparsity,
        "dense_ms": 1000 * before,
        "small_ms": 1000 * after,
        "speedup": before / after,
        "macs_limit": macs[0] / macs[1],
        "goal": goal,
        "cut_seconds": event.seconds,
    }


def main(options: Options) -> None:
    """Measure and print."""
    figures = [
        "weight_sparsity", "node_sparsity", "dense_ms", "small_ms", "speedup", "macs_limit", "goal", "cut_seconds",
    ]  # fmt: skip
    results = Results("step_time", options, ["network", "of"], figures, ["torchvision"])
    with cifar10_data(options.data, options.quick) as data:
        for network in options.networks:
            results.add(measure_network(network, data, options))
    results.print()


if __name__ == "__main__":
    run("step_time", main, Options(), QUICK, __doc__)
