"""Training data that a callback draws from its trainer's loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset


def draw_batches(loader: Any, batch_size: int | None, seed: int, move: Callable[[Any], Any]) -> Iterator[Any]:
    """Draw batches of a loader's data, in random order unless the data have an order of their own.

    Neither the loader nor torch's global random state changes. Nothing is read before the first batch is asked for.

    Args:
        loader: The training loader. Anything but a ``DataLoader`` is iterated as it is.
        batch_size: How many examples make a batch, for a loader that does not say.
        seed: The seed of the random order.
        move: Called with each batch, to move it to the device.

    Yields:
        The batches, as ``move`` returns them.
    """
    batches: Iterable[Any] = loader
    if isinstance(loader, DataLoader):
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or batch_size or 1
        if loader.batch_sampler is None:  # each item of the dataset is a batch already
            size = None
        shuffle = not isinstance(loader.dataset, IterableDataset)
        generator = torch.Generator().manual_seed(seed)
        batches = DataLoader(loader.dataset, size, shuffle, collate_fn=loader.collate_fn, generator=generator)
    yield from map(move, batches)
