"""What the callbacks have in common: a pruner made when training begins, asked on, and scored on data of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from earlycrop.flow import Loss
from earlycrop.pruner import Pruner


class Asked:
    """Holds a :class:`earlycrop.Pruner`, as ``pruner``, once training has begun."""

    def __init__(
        self,
        method: str = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        loss: Loss | None = None,
        batches: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        self.method, self.sparsity, self.loss, self.batches, self.options = method, sparsity, loss, batches, options
        self.pruner: Pruner | None = None
        self._resumed: Any = None

    @property
    def small(self) -> bool:
        """Whether a model has been shrunk, so that a fresh one does not take its weights."""
        return self.pruner is not None and self.pruner.event is not None and self.pruner.method.structured

    def begin(self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], loss: Loss, epochs: int) -> Pruner:
        """Make the pruner, and take up the state that was resumed from.

        Raises:
            ValueError: see :class:`earlycrop.Pruner`; or the method trains several times over.
        """
        loss = self.loss or loss
        pruner = Pruner(model, optimizer, loss, self.method, self.sparsity, epochs=epochs, **self.options)
        if pruner.total_epochs != epochs:
            raise ValueError(f"{self.method} trains {pruner.total_epochs} epochs in all: use a loop of your own")
        if self._resumed is not None:
            pruner.load_state_dict(self._resumed)
        self.pruner, self._resumed = pruner, None
        return pruner


def require_one(processes: int) -> None:
    """Raise ValueError where several processes train: each would cut on its own."""
    if processes > 1:
        raise ValueError(f"pruning runs in one process, and here are {processes}: train on one device")


def drawn(loader: Any, size: int | None, seed: int, place: Callable[[Any], Any]) -> Iterator[Any]:
    """Batches of ``loader``'s data, each ``place``d, in an order of their own, or as they come where they have one.

    Neither the loader nor torch's random state is moved. size: examples in a batch, where the loader does not tell.
    """
    generator = torch.Generator().manual_seed(seed)
    batches: Iterable[Any] = loader
    if isinstance(loader, DataLoader):
        shuffle = not isinstance(loader.dataset, IterableDataset)
        batches = DataLoader(
            loader.dataset, loader.batch_size or size or 1, shuffle, collate_fn=loader.collate_fn, generator=generator
        )
    yield from map(place, batches)


def placed(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
