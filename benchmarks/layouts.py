"""What the memory layout and multiples of 8 make of the training step after a cut.

Networks are cut at initialisation by ``crop``, ResNet18 and VGG16 to the weight sparsities of
``benchmarks.step_time`` and others to 90 %. The small network is then trained as it is, with channels last (where
torch can), with widths that are multiples of 8 (``Limits(multiple=8)``, at the same sparsity), and with both, beside
the dense network in the faster of the two layouts. Of the limit that the multiply-accumulates set, each reaches a
share: the speed-up over the factor by which the multiply-accumulates fell. All steps are taken in turn in one
process, in seconds of processor time on one thread. Images are random: no figure depends on what they show.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from benchmarks.command_line import BenchmarkOptions, require_known, run
from benchmarks.results import Results
from benchmarks.timing import REPEATS, in_turn
from earlycrop import measure
from earlycrop.utils.memory_format import trains_in_channels_last
from tasks.nets.classifiers import network as classifier
from tasks.nets.fcrn import FCRN

CASES = {"resnet18": 0.95, "vgg16": 0.98, "resnet8-cifar": 0.9, "mobilenet_v2": 0.9, "fcrn": 0.9}
"""Network -> weight sparsity."""
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    networks: tuple[str, ...] = tuple(CASES)
    """Networks, up to four rows each."""
    batch: int = 16
    """Images in a batch. The depth network takes an eighth of them, of 160 x 224 pixels."""
    scoring: int = 8
    """Images that are scored on, likewise."""
    size: int = 64
    """Side of the images."""
    rounds: int = 3
    """Rounds of the cut."""
    repeats: int = REPEATS
    """Timed steps of each; the median counts."""


QUICK = Options(networks=("resnet8-cifar",), batch=2, scoring=2, size=32, rounds=1, repeats=1)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of classes, or the squared error of depths."""
    images, targets = batch
    if targets.is_floating_point():
        return functional.mse_loss(model(images), targets)
    return functional.cross_entropy(model(images), targets)


def make_network(name: str, size: int) -> nn.Module:
    """The network of that name, with the same weights each time."""
    torch.manual_seed(0)
    return FCRN("resnet18") if name == "fcrn" else classifier(name, 10, size)


def make_batch(name: str, images: int, size: int) -> Batch:
    """Random images and targets."""
    if name != "fcrn":
        return torch.randn(images, 3, size, size), torch.randint(0, 10, (images,))
    images = max(1, images // 8)
    return torch.randn(images, 3, 160, 224), torch.rand(images, 80, 112)


def training_step(model: nn.Module, batch: Batch, layout: torch.memory_format) -> Callable[[], None]:
    """A function that takes a training step with the weights and images of a copy of the model in that layout."""
    model = copy.deepcopy(model).train().to(memory_format=layout)  # type: ignore[call-overload]
    images, targets = batch[0].contiguous(memory_format=layout), batch[1]
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model, (images, targets)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure_network(name: str, options: Options) -> list[dict[str, object]]:
    """Cut and measure one network; its rows."""
    batch, scored = (make_batch(name, n, options.size) for n in (options.batch, options.scoring))
    dense = make_network(name, options.size)
    macs = measure.macs(dense, lambda m: loss(m, batch))
    small: dict[int, tuple[nn.Module, float]] = {}
    for multiple in (1, 8):
        model, limits = make_network(name, options.size), earlycrop.Limits(multiple=multiple)
        event = earlycrop.prune(model, loss, [scored], "crop", CASES[name], rounds=options.rounds, limits=limits)
        small[multiple] = model, event.weight_sparsity
    layouts = (torch.contiguous_format, torch.channels_last)
    models = {"dense": dense} | {f"multiple {m}": model for m, (model, _) in small.items()}
    steps = {
        (kind, layout): training_step(model, batch, layout)
        for kind, model in models.items()
        for layout in layouts
        if layout is torch.contiguous_format or trains_in_channels_last(model)
    }
    seconds = in_turn(*steps.values(), repeats=options.repeats, clock=time.process_time)
    timed = dict(zip(steps, seconds, strict=True))
    before = min(timed["dense", layout] for layout in layouts if ("dense", layout) in timed)
    rows: list[dict[str, object]] = []
    for (kind, layout), after in timed.items():
        if kind == "dense":
            continue
        multiple = int(kind.removeprefix("multiple "))
        model, sparsity = small[multiple]
        limit = macs / measure.macs(model, lambda m: loss(m, batch))
        rows.append({
            "network": name, "multiple": multiple, "layout": str(layout).removeprefix("torch."),
            "weight_sparsity": sparsity, "dense_ms": 1000 * before, "small_ms": 1000 * after,
            "speedup": before / after, "macs_limit": limit, "share_of_limit": before / after / limit,
        })  # fmt: skip
    return rows


def main(options: Options) -> None:
    """Measure and print."""
    require_known("--networks", options.networks, list(CASES))
    torch.set_num_threads(1)
    figures = ["weight_sparsity", "dense_ms", "small_ms", "speedup", "macs_limit", "share_of_limit"]
    results = Results("layouts", options, ["network", "multiple", "layout"], figures, ["torchvision"])
    for name in options.networks:
        for row in measure_network(name, options):
            results.add(row)
    results.print()


if __name__ == "__main__":
    run("layouts", main, Options(), QUICK, __doc__)
