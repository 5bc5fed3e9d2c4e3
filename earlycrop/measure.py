"""The cost of a network: sparsity, multiply-accumulates, bytes on disk, time of a training step, memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
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
from earlycrop.scoring.model_inputs import record_arguments
from earlycrop.tracing.trace import trace
from earlycrop.utils.devices import counts_memory, peak_memory, reset_peak_memory, synchronize
from earlycrop.utils.modules import call_model
from earlycrop.utils.parameters import weight_matrices
from earlycrop.utils.wrappers import unwrap

MAX_SECONDS = 20.0
"""Seconds for each step that is timed."""


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """Count the entries of the weight matrices.

    Args:
        model: The network.

    Returns:
        The number of entries that are not zero, and the number of all entries.
    """
    matrices = weight_matrices(model).values()
    return sum(int(p.detach().count_nonzero()) for p in matrices), sum(p.numel() for p in matrices)


def weight_sparsity(model: nn.Module, dense: nn.Module) -> float:
    """Return the share of the dense network's weights that are zero or removed.

    Args:
        model: The pruned network.
        dense: The network before pruning.

    Returns:
        The share, from 0 to 1.
    """
    return 1 - weight_counts(model)[0] / weight_counts(dense)[1]


def node_sparsity(pruned: Graph, dense: Graph) -> float:
    """Return the share of layer outputs that are removed, without the model's output layers.

    A unit of an LSTM counts once. A layer with a single output is not traced, and counts as one.

    Args:
        pruned: Graph of the pruned network.
        dense: Graph of the network before pruning.

    Returns:
        The share, from 0 to 1.
    """
    before, after = _count_outputs(dense), _count_outputs(pruned)
    total = sum(before.values())
    return 1 - sum(max(after.get(name, 1), 1) for name, count in before.items() if count) / total if total else 0.0


def _count_outputs(graph: Graph) -> dict[str, int]:
    """Count the outputs of each layer that the model does not return."""
    return {layer.name: int((~layer.returned).sum()) for layer in graph.layers}


def parameters(model: nn.Module) -> int:
    """Count the entries of all parameters.

    Args:
        model: The network.

    Returns:
        The number of entries. A tied parameter counts once.
    """
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, example: Any) -> int:
    """Count the multiply-accumulates of matrix products and convolutions for one sample.

    A sample is an index of the first dimension of the first tensor that the model is called with. Zeros count like
    other weights: a masked network has the cost of the dense one.

    Args:
        model: The network.
        example: What the network is called with, see :func:`earlycrop.trace`.

    Returns:
        The number of multiply-accumulates.
    """
    model = unwrap(model)
    arguments = tree_leaves(record_arguments(model, call_model, example))
    samples = next(t.shape[0] for t in arguments if isinstance(t, Tensor) and t.ndim)
    return round(trace(model, example).cost("macs") / samples)


def csr_bytes(model: nn.Module) -> int:
    """Estimate the bytes on disk in CSR form.

    A weight matrix of m rows and n columns (all dimensions but the first) takes 34 bits for each entry that is not
    zero, and 2 (min(m, n) + 1) bits for the row pointers.

    Source: Rachwan et al. 2022, appendix D, as their code computes it. Deviation: their code reports the bits as bytes.

    Args:
        model: The network.

    Returns:
        The number of bytes.
    """
    bits = 0
    for p in weight_matrices(model).values():
        rows, columns = p.shape[0], p.numel() // p.shape[0]
        bits += 34 * int(p.detach().count_nonzero()) + 2 * (min(rows, columns) + 1)
    return ceil(bits / 8)


def milliseconds_in_turn(
    steps: Sequence[Callable[[], object]], device: torch.device, repeats: int = 50, warmup: int = 3
) -> list[float]:
    """Measure the times of steps that are called in turn, with the work that they queue on a GPU.

    Other load on the machine affects all steps alike, so that the ratios of the times can be trusted where a single
    time cannot.

    Args:
        steps: The functions to time.
        device: The device that they run on.
        repeats: Number of timed calls of each step.
        warmup: Number of calls of each step before the timed ones. No call starts after ``MAX_SECONDS`` for each step,
            once each step has been timed.

    Returns:
        The median of each step in milliseconds.
    """
    times: list[list[float]] = []
    start, limit = perf_counter(), MAX_SECONDS * len(steps)
    while len(times) <= warmup or (len(times) < warmup + repeats and perf_counter() - start < limit):
        times.append([_time_step(step, device) for step in steps])
    return [1000 * median(seconds) for seconds in zip(*times[warmup:], strict=True)]


def _time_step(step: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    step()
    synchronize(device)
    return perf_counter() - start


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of the process.

    Args:
        device: The device.

    Returns:
        On a GPU, the most bytes allocated since the last reset. On the CPU, the largest resident set, and on a device
        whose memory torch does not count.
    """
    if counts_memory(device):
        return peak_memory(device)
    status = Path("/proc/self/status")  # on Linux, getrusage includes the memory of the process that started this one
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def step_memory_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Measure the peak memory of a step.

    The peak is reset before the step: on a GPU always, on the CPU where the Linux kernel allows it. Elsewhere the
    result is the peak of the process so far. Freed memory that the C library keeps is returned to the system first;
    otherwise it would count for a network that is measured after a larger one.

    Args:
        step: The function to measure.
        device: The device that it runs on.

    Returns:
        The number of bytes, see :func:`peak_memory_bytes`.
    """
    gc.collect()
    synchronize(device)
    if counts_memory(device):
        reset_peak_memory(device)
    else:
        with suppress(OSError, AttributeError, TypeError):  # not the GNU C library
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # not Linux, or a kernel without this file
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: reset the peak resident set size
    step()
    synchronize(device)
    return peak_memory_bytes(device)
