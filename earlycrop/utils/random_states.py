"""Preserve and set the states of random number generators, on every device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from earlycrop.utils.process_lock import PROCESS_LOCK


@contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restore the random states of torch on all devices, of NumPy and of Python on exit."""
    with PROCESS_LOCK:
        python_state, numpy_state, states = random.getstate(), np.random.get_state(), _get_states()
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            for set_state, state in states:
                set_state(state)


def seed_all(seed: int) -> None:
    """Seed the generators that :func:`preserve_random_states` restores.

    ``torch.manual_seed`` also seeds devices that are not in use yet, whose state cannot be restored.

    Args:
        seed: The seed.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    for device in _devices_in_use():
        state = torch.Generator(device).manual_seed(seed).get_state()
        torch.get_device_module(device).set_rng_state(state, device)


def _get_states() -> list[tuple[Callable[[Any], None], Any]]:
    """Return the states of torch's generators, each with the function that sets it."""
    states: list[tuple[Callable[[Any], None], Any]] = [(torch.set_rng_state, torch.get_rng_state())]
    for device in _devices_in_use():
        backend = torch.get_device_module(device)
        states.append((partial(backend.set_rng_state, device=device), backend.get_rng_state(device)))
    return states


def _devices_in_use() -> list[torch.device]:
    """Return all devices of the accelerator, if it was used already: asking for its states would start it."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return []
    is_initialized = getattr(torch.get_device_module(accelerator), "is_initialized", None)
    if is_initialized is not None and not is_initialized():
        return []
    return [torch.device(accelerator.type, i) for i in range(torch.accelerator.device_count())]
