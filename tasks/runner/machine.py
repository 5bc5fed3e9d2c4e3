"""The machine that a run is on: its processor, cores, memory and load, and the settings of a run's process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tasks.runner import distributed


def available_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """The kind of the machine's accelerator, or cpu. Apple's needs to be asked for: it lacks float64."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if kind is None or kind.type == "mps" else kind.type


def memory_budget(device: str) -> float:
    """Bytes that images may take where they are to lie: half of a GPU's memory, a quarter of the machine's for all of
    the run's processes there, and on a device that has none of its own. What else is in use does not count, as a run
    that goes on is to read as it did before.
    """
    place = torch.device(default_device() if device == "auto" else device)
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


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and restore what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def cuda_algorithms(deterministic: bool) -> Iterator[None]:
    """Have CUDA choose what is fastest, or what always computes the same, and restore its settings."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    variables = {}
    if deterministic:  # without it, cuBLAS refuses to be deterministic
        variables["CUBLAS_WORKSPACE_CONFIG"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with environment(**variables):
        try:
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.benchmark = not deterministic
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
