"""A network that is too large for its training device, pruned on the CPU.

ResNeXt101_32x48d (826 M parameters, the paper's table 3) to 98.5 % of the weights with crop-s: how long scoring and
cutting take and the peak memory of the process, beside the limits of 3 minutes and 12 GB on two cores.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from time import perf_counter

import torch
from torch.nn import functional

import earlycrop
from benchmarks.command_line import BenchmarkOptions, fail, run
from benchmarks.results import Results
from earlycrop import measure
from tasks.nets.classifiers import network, require_fit

SECONDS_LIMIT, GB_LIMIT = 180, 12
CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    network: str = "resnext101_32x48d"
    """A network of tasks.cifar10."""
    batch: int = 16
    """Images in the batch that is scored on."""
    size: int = 32
    """Side of the images."""


QUICK = Options(network="resnet8-cifar", batch=2)


def prune(options: Options) -> dict[str, object]:
    """Build, score and cut the network; the row."""
    torch.manual_seed(0)
    try:
        require_fit(options.network, CLASSES, options.size)
        model = network(options.network, CLASSES, options.size)
    except ValueError as error:
        fail(str(error))
    parameters, cpu = measure.parameters(model), torch.device("cpu")
    print(f"built {parameters:,} parameters, peak memory {measure.peak_memory_bytes(cpu) / 1e9:.1f} GB", flush=True)
    shape = options.batch, 3, options.size, options.size
    batch = torch.randn(shape), torch.randint(CLASSES, (options.batch,))
    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event = earlycrop.prune(
            model, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [batch], sparsity=0.985, gate="columns"
        )
    return {
        "network": options.network,
        "parameters": parameters,
        "parameters_left": measure.parameters(model),
        "weight_sparsity": event.weight_sparsity,
        "node_sparsity": event.node_sparsity,
        "certificate_difference": event.difference,
        "seconds": perf_counter() - start,
        "peak_gb": measure.peak_memory_bytes(cpu) / 1e9,
        "goal": f"{SECONDS_LIMIT} s, {GB_LIMIT} GB",
    }


def main(options: Options) -> None:
    """Measure and print."""
    figures = [
        "parameters", "parameters_left", "weight_sparsity", "node_sparsity", "certificate_difference", "seconds",
        "peak_gb", "goal",
    ]  # fmt: skip
    results = Results("large", options, ["network"], figures, ["torchvision"])
    results.add(prune(options))
    results.print()


if __name__ == "__main__":
    run("large", main, Options(), QUICK, __doc__)
