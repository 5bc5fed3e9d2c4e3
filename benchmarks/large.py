"""A network that is too large for its training device, pruned on the CPU: ``python -m benchmarks.large``.

ResNeXt101_32x48d (826 M parameters, the paper's table 3) to 98.5 % of the weights with crop-s: how long scoring and
cutting take and the most memory of the process, beside the limits of 3 minutes and 12 GB on two cores.
"""

from __future__ import annotations

import warnings
from time import perf_counter

import torch
from torch.nn import functional

import earlycrop
from earlycrop import measure
from tasks.nets.classifiers import network

SECONDS, BYTES = 180.0, 12e9
BATCH, SIDE = 16, 32


def main() -> None:
    torch.manual_seed(0)
    start = perf_counter()
    model = network("resnext101_32x48d", 10, SIDE)
    built = perf_counter()
    dense, cpu = measure.parameters(model), torch.device("cpu")
    batch = (torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(10, (BATCH,)))
    print(
        f"built {dense / 1e6:.0f} M parameters in {built - start:.0f} s; {measure.peak_memory_bytes(cpu) / 1e9:.1f} GB"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        event = earlycrop.prune(
            model, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [batch], sparsity=0.985, gate="columns"
        )
    seconds, peak = perf_counter() - built, measure.peak_memory_bytes(cpu)
    print(
        f"{event.weight_sparsity:.3%} of the weights and {event.node_sparsity:.1%} of the nodes gone, "
        f"{measure.parameters(model) / 1e6:.1f} M parameters left, certificate {event.difference:.1g}"
    )
    print(f"scoring and cutting: {seconds:.0f} s, {seconds / SECONDS:.2f} of the limit of {SECONDS:.0f} s")
    print(f"most memory: {peak / 1e9:.1f} GB, {peak / BYTES:.2f} of the limit of {BYTES / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
