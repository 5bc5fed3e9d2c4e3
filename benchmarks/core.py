"""What the core costs beside plain training, as ratios in one process: ResNet18, CIFAR stem, 32 x 32, batch 128.

(a) one CroP scoring, g and Hg, in gradients on the same batch, with torch's bare double backward beside it; (b) a
training step with 90 % of the weights masked over a dense one; (c) trace and shrink, in seconds, on one thread.

Run as ``python -m benchmarks.core``. On Linux, (a) depends on the allocator: glibc gives every large activation back to
the system and faults it in again, and a double backward has more of them than a gradient. With
``MALLOC_TOP_PAD_=1073741824 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592`` in the environment it
keeps them, for every function measured here alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import flow, prune, shrink, trace
from earlycrop.selection.nodes import choose_nodes
from earlycrop.selection.targets import max_remaining
from tasks._torchvision import load

REPEATS = 7


def network() -> nn.Module:
    """ResNet18 with a 3 x 3 stem and no max pooling, ten classes."""
    torch.manual_seed(0)
    model = load("torchvision.models").resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def in_turn(*functions: Callable[[], object]) -> list[float]:
    """Median seconds of each, called one after the other so that a drift of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(REPEATS + 1):
        for mine, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            if round_:  # the first round warms up
                mine.append(time.perf_counter() - start)
    return [median(mine) for mine in times]


def scoring(batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
    model = network().eval()

    def gradient() -> None:
        torch.autograd.grad(loss(model, batch), list(model.parameters()))

    def bare() -> None:
        g = torch.autograd.grad(loss(model, batch), list(model.parameters()), create_graph=True)
        torch.autograd.grad(g, list(model.parameters()), [x.detach() for x in g])

    plain, twice, scored = in_turn(gradient, bare, lambda: flow(model, loss, [batch]))
    return scored / plain, twice / plain


def masked(batch: tuple[Tensor, Tensor]) -> float:
    steps = []
    for masks in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        if masks:
            prune(model, loss, [batch], "magnitude", 0.9, structured=False, optimizer=optimizer)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()

        steps.append(step)
    dense, sparse = in_turn(*steps)
    return sparse / dense


def surgery() -> tuple[float, float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, example = network(), torch.randn(1, 3, 32, 32)
    graph = trace(model, example)
    chosen = choose_nodes(graph, torch.rand(graph.count), max_remaining(graph.cost("weights"), 0.9)).removed.nonzero()[
        0
    ]

    def both() -> float:
        small = copy.deepcopy(model)
        optimizer = torch.optim.Adam(small.parameters())
        start = time.perf_counter()
        shrink(small, trace(small, example), chosen, optimizer)
        return time.perf_counter() - start

    times = [both() for _ in range(REPEATS + 1)][1:]
    traced = in_turn(lambda: trace(model, example))[0]
    torch.set_num_threads(threads)
    return median(times), traced


def main() -> None:
    """Measure and print."""
    batch = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    seconds, traced = surgery()
    table = Table("what", "measured", "goal")
    scored, bare = scoring(batch)
    table.add_row(
        "CroP scoring (g and Hg) / one gradient", f"{scored:.2f} (bare double backward {bare:.2f})", "at most 4.6"
    )
    table.add_row("masked training step / dense step", f"{masked(batch):.3f}", "at most 1.05")
    table.add_row("trace + certified shrink, one thread", f"{seconds:.2f} s (trace {traced:.2f} s)", "at most 0.5 s")
    Console().print(table)


if __name__ == "__main__":
    main()
