"""Batches that worker processes read one by one, and the random numbers that shuffle them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset, default_collate

from tasks.runner.errors import RunError

Key = tuple[int, ...]
"""What seeds a shuffling: the run's seed, the epoch, and what it is for."""


def loaded(read: Callable[[int], tuple[Any, ...]], order: list[int], batch: int, **options: Any) -> Iterator[list[Any]]:
    """Batches of what ``read`` gives for the numbers of ``order``, in that order; ``options`` are the loader's.

    Raises:
        RunError: ``read`` raised a ValueError, of which this has the sentence.
    """
    for item in DataLoader(_Each(read, order), batch, collate_fn=_beside, **options):
        if isinstance(item, str):
            raise RunError(item)
        yield item


class _Each(Dataset[Any]):
    """What is read for each number of an order, or the sentence of why it is not."""

    def __init__(self, read: Callable[[int], tuple[Any, ...]], order: list[int]) -> None:
        self.read, self.order = read, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Any, ...] | str:
        try:
            return self.read(self.order[i])
        except ValueError as error:
            return str(error)


def _beside(items: list[Any]) -> Any:
    wrong = next((one for one in items if isinstance(one, str)), None)
    return default_collate(items) if wrong is None else wrong


def generator(key: Key, device: torch.device | str = "cpu") -> Generator:
    """Random numbers that follow from a key of whole numbers."""
    return Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
