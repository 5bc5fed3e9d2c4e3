"""What the core costs beside plain training, as ratios in one process: ResNet18, CIFAR stem, 32 x 32, batch 128.

(a) one CroP scoring, g and Hg, in gradients on the same batch, with torch's bare double backward beside it; (b) a
training step with 90 % of the weights masked over a dense one; (c) trace and shrink, in seconds, on one thread.

On Linux, (a) depends on the allocator: glibc gives every large activation back to the system and faults it in again,
and a double backward has more of them than a gradient. With ``MALLOC_TOP_PAD_=1073741824
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592`` in the environment it keeps them, for every
function measured here alike. The column ``malloc`` has these settings.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.command_line import BenchmarkOptions, run
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import flow, prune, shrink, trace
from earlycrop.selection.nodes import choose_nodes
from earlycrop.selection.targets import max_remaining
from earlycrop.utils.torchvision_compat import load_torchvision


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    batch: int = 128
    """Images in a batch."""
    size: int = 32
    """Side of the images."""
    repeats: int = REPEATS
    """Timings of each; the median counts."""


QUICK = Options(batch=2, size=16, repeats=1)


def network() -> nn.Module:
    """ResNet18 with a 3 x 3 stem and no max pooling, ten classes."""
    torch.manual_seed(0)
    model: nn.Module = load_torchvision("torchvision.models").resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def malloc_settings() -> str:
    """The settings of glibc's allocator in the environment."""
    return " ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_"))


def scoring(batch: tuple[Tensor, Tensor], repeats: int) -> tuple[float, float]:
    """A scoring and a bare double backward, in gradients."""
    model = network().eval()

    def gradient() -> None:
        torch.autograd.grad(loss(model, batch), list(model.parameters()))

    def double_backward() -> None:
        g = torch.autograd.grad(loss(model, batch), list(model.parameters()), create_graph=True)
        torch.autograd.grad(g, list(model.parameters()), [x.detach() for x in g])

    one, two, scored = in_turn(gradient, double_backward, lambda: flow(model, loss, [batch]), repeats=repeats)
    return scored / one, two / one


def masked(batch: tuple[Tensor, Tensor], repeats: int) -> float:
    """A training step with masks over one without."""
    steps = []
    for masks in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        if masks:
            prune(model, loss, [batch], "magnitude", 0.9, structured=False, optimizer=optimizer)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        steps.append(step)
    dense, sparse = in_turn(*steps, repeats=repeats)
    return sparse / dense


def surgery(size: int, repeats: int) -> tuple[float, float]:
    """Seconds of trace and certified shrink, and of the trace alone, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, example = network(), torch.randn(1, 3, size, size)
    graph = trace(model, example)
    remove = choose_nodes(graph, torch.rand(graph.count), max_remaining(graph.cost("weights"), 0.9)).removed.nonzero()[
        0
    ]

    def trace_and_shrink() -> float:
        small = copy.deepcopy(model)
        optimizer = torch.optim.Adam(small.parameters())
        start = time.perf_counter()
        shrink(small, trace(small, example), remove, optimizer)
        return time.perf_counter() - start

    seconds = [trace_and_shrink() for _ in range(repeats + 1)][1:]
    (traced,) = in_turn(lambda: trace(model, example), repeats=repeats)
    torch.set_num_threads(threads)
    return median(seconds), traced


def main(options: Options) -> None:
    """Measure and print."""
    results = Results("core", options, ["quantity"], ["value", "unit", "goal", "malloc"], ["torchvision"])
    batch = torch.randn(options.batch, 3, options.size, options.size), torch.randint(0, 10, (options.batch,))

    def add(quantity: str, value: float, unit: str, goal: str = "", threads: int | None = None) -> None:
        row = {"quantity": quantity, "value": value, "unit": unit, "goal": goal, "malloc": malloc_settings()}
        results.add(row, threads)

    cut, traced = surgery(options.size, options.repeats)
    scored, double_backward = scoring(batch, options.repeats)
    add("CroP scoring (g and Hg)", scored, "gradients", "at most 4.6")
    add("bare double backward", double_backward, "gradients")
    add("masked training step", masked(batch, options.repeats), "dense steps", "at most 1.05")
    add("trace + certified shrink", cut, "s", "at most 0.5", threads=1)
    add("trace", traced, "s", threads=1)
    results.print()


if __name__ == "__main__":
    run("core", main, Options(), QUICK, __doc__)
