"""What ``torch.cuda`` answers about the simulated device. A CPU build of torch lacks the functions behind it."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch

NAME = "a simulated GPU"


class Event:
    """A point in time, at which all earlier work has ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.time = 0.0

    def record(self, stream: Any = None) -> None:
        self.time = perf_counter()

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.time - self.time)

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing is left to wait for."""


def install() -> None:
    """Put the answers into ``torch.cuda``, and let it make storages on the device."""
    properties = SimpleNamespace(name=NAME, uuid="0", major=9, minor=0, multi_processor_count=1, total_memory=1 << 34)
    memory = torch.accelerator
    vars(torch.cuda).update(  # a function for each name, as torch's compiler keeps a table of them
        _initialized=True,
        _lazy_init=lambda: None,
        _is_in_bad_fork=lambda: False,
        _exchange_device=lambda device: 0,
        _maybe_exchange_device=lambda device: 0,
        is_available=lambda: True,
        is_initialized=lambda: True,
        is_bf16_supported=lambda including_emulation=True: True,
        is_current_stream_capturing=lambda: False,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=lambda device: None,
        synchronize=lambda device=None: None,
        empty_cache=lambda: None,
        Event=Event,
        get_device_name=lambda device=None: NAME,
        get_device_capability=lambda device=None: (9, 0),
        get_device_properties=lambda device=None: properties,
        mem_get_info=lambda device=None: (1 << 33, 1 << 34),
        memory_reserved=lambda device=None: memory.memory_allocated(0),
        memory_allocated=lambda device=None: memory.memory_allocated(0),
        max_memory_allocated=lambda device=None: memory.max_memory_allocated(0),
        reset_peak_memory_stats=lambda device=None: memory.reset_peak_memory_stats(0),
        default_generators=(torch.Generator("cuda"),),
    )
    vars(torch.cuda.random).update(device_count=lambda: 1, current_device=lambda: 0)
    torch.backends.cudnn.is_acceptable = lambda tensor: False  # it warns where there is a device without cuDNN
    _make_storages()


def _make_storages() -> None:
    """Make storages on the device, which torch.load asks for, through a tensor: torch's own way needs CUDA."""
    original = torch.UntypedStorage.__new__

    def make(cls: type[torch.UntypedStorage], *args: Any, device: Any = None, **options: Any) -> torch.UntypedStorage:
        if device is not None and torch.device(device).type == "cuda":
            return torch.empty(*args, dtype=torch.uint8, device="cuda").untyped_storage()
        return original(cls, *args, **options, **({} if device is None else {"device": device}))

    torch.UntypedStorage.__new__ = staticmethod(make)  # type: ignore[assignment]
