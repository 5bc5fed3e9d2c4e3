"""The cores and the memory that a run may use on its machine."""

from __future__ import annotations

import os

import torch

from tasks.runner import distributed


def available_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_budget(device: str) -> float:
    """Bytes that images may take where they are to lie: half of a GPU's memory, a quarter of the machine's for all of
    the run's processes there. What else is in use does not count, as a run that goes on is to read as it did before.
    """
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.mem_get_info(None if device == "auto" else torch.device(device))[1] / 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 / distributed.local_processes()
