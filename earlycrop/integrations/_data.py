"""What is scored on: training data of the callbacks' own drawing, and a model's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset


def draw_batches(loader: Any, size: int | None, seed: int, place: Callable[[Any], Any]) -> Iterator[Any]:
    """Batches of ``loader``'s data, each ``place``d, in an order of their own, or as they come where they have one.

    Neither the loader nor torch's random state is moved. size: examples in a batch, where the loader does not tell.
    """
    generator = torch.Generator().manual_seed(seed)
    batches: Iterable[Any] = loader
    if isinstance(loader, DataLoader):
        shuffle = not isinstance(loader.dataset, IterableDataset)
        examples = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or size or 1
        if loader.batch_sampler is None:  # the data are batches already
            examples = None
        batches = DataLoader(loader.dataset, examples, shuffle, collate_fn=loader.collate_fn, generator=generator)
    yield from map(place, batches)


def to_device(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def model_loss(model: nn.Module, batch: Any) -> Tensor:
    """What a model of transformers makes of a batch with labels."""
    loss: Tensor = model(**batch).loss
    return loss


@contextmanager
def without_mixed_precision(model: nn.Module) -> Iterator[None]:
    """Without the forward that accelerate puts on a model, in bfloat16, which proves nothing to 1e-5."""
    mixed = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if mixed is not None:
            model.__dict__["forward"] = mixed
