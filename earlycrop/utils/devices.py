"""Wait for a device, and measure its memory, whatever kind it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

MEMINFO, STATM = Path("/proc/meminfo"), Path("/proc/self/statm")
CONTAINER = Path("/sys/fs/cgroup")
"""The folder of the control group that a container is, with version 2 of control groups."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what was queued on it.

    Args:
        device: The device. Nothing is queued on the CPU.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def counts_memory(device: torch.device) -> bool:
    """Return whether torch counts the memory that it takes on the device: it does on CUDA and XPU, not on MPS.

    Args:
        device: The device.
    """
    return device.type != "cpu" and hasattr(torch.get_device_module(device), "max_memory_allocated")


def reset_peak_memory(device: torch.device) -> None:
    """Start to measure the peak memory anew.

    Args:
        device: A device whose memory is counted.
    """
    backend: Any = torch.get_device_module(device)
    backend.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were allocated at a time since the last reset.

    Args:
        device: A device whose memory is counted.

    Returns:
        The number of bytes.
    """
    backend: Any = torch.get_device_module(device)
    return int(backend.max_memory_allocated(device))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate on a device, or None where nothing tells.

    On a CPU this is what Linux can give without swapping, within the limits of the process and of its container.

    Args:
        device: The device.
    """
    if device.type != "cpu":
        backend = torch.get_device_module(device)
        if not hasattr(backend, "mem_get_info"):
            return None
        unused = backend.memory_reserved(device) - backend.memory_allocated(device)
        return int(backend.mem_get_info(device)[0] + unused)
    if not MEMINFO.exists():
        return None
    import resource  # there is none on Windows

    free = int(MEMINFO.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - int(STATM.read_text().split()[0]) * resource.getpagesize())
    maximum_file = CONTAINER / "memory.max"
    if maximum_file.exists() and (maximum := maximum_file.read_text().strip()) != "max":
        statistics = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        used = int((CONTAINER / "memory.current").read_text()) - int(statistics["inactive_file"])
        free = min(free, int(maximum) - used)
    return max(0, free)
