"""Batches that worker processes read one by one, and the random numbers that shuffle them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from tasks.runner.errors import RunError

Key = tuple[int, ...]
"""What seeds a shuffling: the run's seed, the epoch, and what it is for."""


def loaded(read: Callable[[int], tuple[Any, ...]], order: list[int], batch: int, **options: Any) -> Iterator[list[Any]]:
    """Batches of what ``read`` gives for the numbers of ``order``, in that order; ``options`` are the loader's.

    Raises:
        RunError: ``read`` raised a ValueError, of which this has the sentence.
    """
    try:
        yield from DataLoader(_Items(read, order), batch, **options)
    except ValueError as error:  # that of a worker has a traceback before its sentence
        raise RunError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None


class _Items(Dataset[Any]):
    def __init__(self, read: Callable[[int], tuple[Any, ...]], order: list[int]) -> None:
        self.read, self.order = read, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return self.read(self.order[i])


def generator(key: Key, device: torch.device | str = "cpu") -> Generator:
    """Random numbers that follow from a key of whole numbers."""
    return Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
