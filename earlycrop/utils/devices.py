"""Wait for a device, and measure its memory, whatever kind it is."""

from __future__ import annotations

from typing import Any

import torch


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
