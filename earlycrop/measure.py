"""What a network costs: sparsity, multiply-accumulates, bytes on disk, time of a training step, memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop.graph.graph import Graph
from earlycrop.tracing.trace import trace
from earlycrop.utils.parameters import weight_matrices
from earlycrop.utils.wrappers import unwrap


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """Entries of the weight matrices that are not zero, and all of them."""
    held = weight_matrices(model).values()
    return sum(int(p.detach().count_nonzero()) for p in held), sum(p.numel() for p in held)


def weight_sparsity(model: nn.Module, dense: nn.Module) -> float:
    """Share of the entries of ``dense``'s weight matrices that are zero or gone in ``model``."""
    return 1 - weight_counts(model)[0] / weight_counts(dense)[1]


def node_sparsity(pruned: Graph, dense: Graph) -> float:
    """Share of layer outputs that are gone, the model's output layers excluded. A unit of an LSTM counts once.

    A layer keeps one at least, and where it is the only one it is not traced.
    """
    before, after = _nodes(dense), _nodes(pruned)
    every = before.total()
    return 1 - sum(max(after[name], 1) for name, count in before.items() if count) / every if every else 0.0


def _nodes(graph: Graph) -> Counter[str]:
    """Layer -> its outputs that are not the model's."""
    counts: Counter[str] = Counter()
    for work in graph.costs("nodes"):
        counts[work.module] += sum(len(axis) for axis in work.axes)
    return counts


def parameters(model: nn.Module) -> int:
    """Entries of all parameters, a tied one once."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, example: Any) -> int:
    """Multiply-accumulates of matrix products and convolutions for one sample of ``example`` (see :func:`trace`).

    A sample is an index of the first dimension of the first tensor that the model is called with. Zeros count like any
    other weight: a masked network does the work of the dense one.
    """
    samples: list[int] = []
    model = unwrap(model)

    def look(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        samples.extend(t.shape[0] for t in tree_leaves((arguments, keywords)) if isinstance(t, Tensor) and t.ndim)

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        graph = trace(model, example)
    finally:
        handle.remove()
    return round(graph.cost("macs") / samples[0])


def csr_bytes(model: nn.Module) -> int:
    """The paper's estimate of the bytes on disk in CSR form: the sum over weight matrices of 34 bits for each entry
    that is not zero and 2 (min(m, n) + 1) bits for the row pointers, m rows and n columns (all but the first
    dimension).

    Source: Rachwan et al. 2022, appendix D, as their code computes it. Deviation: there the bits are reported as bytes.
    """
    bits = 0
    for p in weight_matrices(model).values():
        rows, columns = p.shape[0], p.numel() // p.shape[0]
        bits += 34 * int(p.detach().count_nonzero()) + 2 * (min(rows, columns) + 1)
    return ceil(bits / 8)


def milliseconds(
    step: Callable[[], object], device: torch.device, repeats: int = 50, warmup: int = 3, most_seconds: float = 20.0
) -> float:
    """The median time of ``step`` in milliseconds, with what it queued on a GPU.

    After ``most_seconds`` no other repeat begins, if one has been timed.
    """
    return milliseconds_in_turn([step], device, repeats, warmup, most_seconds)[0]


def milliseconds_in_turn(
    steps: Sequence[Callable[[], object]],
    device: torch.device,
    repeats: int = 50,
    warmup: int = 3,
    most_seconds: float = 20.0,
) -> list[float]:
    """The same of several, which are called one after the other, so that what else the machine does meets all of them
    alike: their ratios can be trusted where each time alone cannot. ``most_seconds`` are for each.
    """
    times: list[list[float]] = []
    begin, most = perf_counter(), most_seconds * len(steps)
    while len(times) <= warmup or (len(times) < warmup + repeats and perf_counter() - begin < most):
        times.append([_seconds(step, device) for step in steps])
    return [1000 * median(mine) for mine in zip(*times[warmup:], strict=True)]


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on a GPU since the last reset, or the process's resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # Linux counts what started a process to the process in getrusage, but not here
    if status.exists():
        told = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if told is not None:
            return 1024 * int(told.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def step_memory_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most memory while ``step`` runs: what is allocated on a GPU, or the process's resident set on the CPU.

    The peak is begun anew before it on a GPU and, where the kernel lets it be, on Linux, which ends what
    :func:`peak_memory_bytes` has seen until now; elsewhere it is the process's so far. What the C library keeps of
    freed memory is given back first, or a small network would be told to need what a large one before it did.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError, AttributeError, TypeError):  # not the GNU C library
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # not Linux, or a kernel without it
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: sets the peak resident set to the present one
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return peak_memory_bytes(device)
