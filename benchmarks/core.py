"""What the core costs beside plain training, as ratios in one process: ResNet18, CIFAR stem, 32 x 32, batch 128.

(a) one CroP scoring, g and Hg, in gradients on the same batch, with torch's bare double backward beside it; (b) a
training step with 90 % of the weights masked over a dense one; (c) trace and shrink, in seconds, on one thread; (d) on
one thread, what the certificate adds to a cut of half of the nodes of networks with wide layers, beside its four
forward passes (the masked dense network and the small one, each on the example and on noise), which it cannot do
without.

On Linux, (a) depends on the allocator: glibc gives every large activation back to the system and faults it in again,
and a double backward has more of them than a gradient. With ``MALLOC_TOP_PAD_=1073741824
MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592`` in the environment it keeps them, for every
function measured here alike. The column ``malloc`` has these settings.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.command_line import BenchmarkOptions, run
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import flow, prune, shrink, trace
from earlycrop.selection.nodes import choose_nodes
from earlycrop.selection.targets import max_remaining
from earlycrop.utils.torchvision_compat import load_torchvision

T = TypeVar("T")
Part = Literal["scoring", "masked", "surgery", "certificate"]


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    batch: int = 128
    """Images in a batch."""
    size: int = 32
    """Side of the images."""
    width: int = 4096
    """Outputs of the wide layers."""
    repeats: int = REPEATS
    """Timings of each; the median counts."""
    parts: tuple[Part, ...] = get_args(Part)
    """What to measure, (a) to (d)."""


QUICK = Options(batch=2, size=16, width=64, repeats=1)


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


def on_one_thread(measure: Callable[[], T]) -> T:
    """What ``measure`` returns, called with one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


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
    """Seconds of trace and certified shrink, and of the trace alone."""
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
    return median(seconds), traced


def wide_networks(width: int, size: int) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Networks whose weights are large beside what they compute, each with its name and an example of one."""
    torch.manual_seed(0)
    mlp = [nn.Linear(width // 4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
    yield "MLP", nn.Sequential(*mlp, nn.ReLU(), nn.Linear(width, 10)), torch.randn(1, width // 4)
    vgg: nn.Module = load_torchvision("torchvision.models").vgg16(init_weights=False)
    vgg.classifier = nn.Sequential(  # type: ignore[assignment]
        nn.Linear(512 * 7 * 7, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )
    yield "VGG16", vgg, torch.randn(1, 3, max(size, 32), max(size, 32))
    block = nn.TransformerEncoderLayer(width // 4, 4, width, dropout=0.0, batch_first=True)
    yield "transformer", nn.TransformerEncoder(block, 4, enable_nested_tensor=False), torch.randn(1, 16, width // 4)


def certificate(model: nn.Module, example: Tensor, repeats: int) -> tuple[float, float, float]:
    """Seconds of a cut without a certificate, of the certificate, and of its four forward passes."""
    model.eval()
    graph = trace(model, example)
    remove = torch.rand(graph.count).argsort()[: graph.count // 2]
    small = copy.deepcopy(model)
    shrink(small, graph, remove)

    def cut(certify: bool) -> float:
        dense = copy.deepcopy(model)
        start = time.process_time()
        shrink(dense, graph, remove, certify=certify)
        return time.process_time() - start

    def forward_passes() -> float:
        start = time.process_time()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for network in (model, model, small, small):
                network(example)
        return time.process_time() - start

    seconds = [(cut(False), cut(True), forward_passes()) for _ in range(repeats + 1)][1:]
    plain, certified, passes = map(median, zip(*seconds, strict=True))
    return plain, certified - plain, passes


def main(options: Options) -> None:
    """Measure and print."""
    results = Results("core", options, ["quantity"], ["value", "unit", "goal", "malloc"], ["torchvision"])
    batch = torch.randn(options.batch, 3, options.size, options.size), torch.randint(0, 10, (options.batch,))

    def add(quantity: str, value: float, unit: str, goal: str = "", threads: int | None = None) -> None:
        row = {"quantity": quantity, "value": value, "unit": unit, "goal": goal, "malloc": malloc_settings()}
        results.add(row, threads)

    if "surgery" in options.parts:
        cut, traced = on_one_thread(partial(surgery, options.size, options.repeats))
        add("trace + certified shrink", cut, "s", "at most 0.5", threads=1)
        add("trace", traced, "s", threads=1)
    if "scoring" in options.parts:
        scored, double_backward = scoring(batch, options.repeats)
        add("CroP scoring (g and Hg)", scored, "gradients", "at most 4.6")
        add("bare double backward", double_backward, "gradients")
    if "masked" in options.parts:
        add("masked training step", masked(batch, options.repeats), "dense steps", "at most 1.05")
    for name, model, example in wide_networks(options.width, options.size) if "certificate" in options.parts else ():
        plain, proof, passes = on_one_thread(partial(certificate, model, example, options.repeats))
        add(f"cut without certificate, {name}", plain, "s", threads=1)
        add(f"certificate, {name}", proof, "s", threads=1)
        add(f"four forward passes, {name}", passes, "s", threads=1)
    results.print()


if __name__ == "__main__":
    run("core", main, Options(), QUICK, __doc__)
