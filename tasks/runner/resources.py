"""The processor, cores, memory and load of the machine that a run is on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from tasks.runner import distributed


def available_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_budget(device: str) -> float:
    """Bytes that images may take where they are to lie: half of a GPU's memory, a quarter of the machine's for all of
    the run's processes there, and on a device that has none of its own. What else is in use does not count, as a run
    that goes on is to read as it did before.
    """
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if place.type != "cpu" and hasattr(backend := torch.get_device_module(place), "mem_get_info"):
        total: int = backend.mem_get_info(None if place.index is None else place)[1]
        return total / 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 / distributed.local_processes()


def cpu_model() -> str:
    """The CPU's model as the operating system names it, or its architecture where it has no name."""
    name = ""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    elif (cpuinfo := Path("/proc/cpuinfo")).exists():
        fields = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in fields if key.strip() == "model name"), "")
    return name or platform.processor() or platform.machine()


def load_average() -> float | None:
    """How many processes were busy on the machine, a mean over the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # there is none on Windows
        return None
