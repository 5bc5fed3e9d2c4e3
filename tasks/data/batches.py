"""Batches of a data set: how examples are drawn and read, and what images are normalised by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, default_collate

from tasks.runner.errors import RunError
from tasks.runner.options import Options

Key = tuple[int, ...]
"""What seeds a shuffling: the run's seed, the epoch, and what it is for."""
IMAGENET: tuple[Sequence[float], Sequence[float]] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""ImageNet's mean and deviation, on the scale of 0 to 1: for data that are too large to be measured first."""


def loaded(read: Callable[[int], tuple[Any, ...]], order: list[int], batch: int, **options: Any) -> Iterator[list[Any]]:
    """Batches of what ``read`` gives for the numbers of ``order``, in that order; ``options`` are the loader's.

    Raises:
        RunError: ``read`` raised a ValueError, of which this has the sentence.
    """
    places: Any = order  # a data set for the loader, whose items are read where a batch is put together
    try:
        yield from DataLoader(
            places, batch, collate_fn=lambda chosen: default_collate(list(map(read, chosen))), **options
        )
    except ValueError as error:  # that of a worker has a traceback before its sentence
        raise RunError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None


def generator(key: Key, device: torch.device | str = "cpu") -> Generator:
    """Random numbers that follow from a key of whole numbers."""
    return Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def scoring_order(options: Options, order: Tensor, labels: Tensor) -> Tensor:
    """Return the order in which training examples are scored on: as given, or balanced where the method asks for it.

    GraSP's authors score on as many examples of each class.
    """
    return balanced(order, labels) if "grasp" in (options.method, options.criterion) else order


def balanced(order: Tensor, labels: Tensor) -> Tensor:
    """Return the order in which every class comes once, then every class again, until one after the other runs out.

    The examples of a class, whose indices are in ``order``, keep their order.
    """
    classes = labels[order]
    turn = torch.empty_like(order)
    for label in set(classes.tolist()):
        members = (classes == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    return order[torch.argsort(turn, stable=True)]


def statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (N, 3, H, W) uint8, as (1, 3, 1, 1), on the scale of 0 to 255."""
    counts = torch.stack([torch.bincount(pixels[:, c].flatten().int(), minlength=256) for c in range(3)]).double()
    values, total = torch.arange(256, device=counts.device).double(), counts.sum(1)
    mean = (counts * values).sum(1) / total
    deviation = ((counts * values.square()).sum(1) / total - mean.square()).clamp(min=1e-6).sqrt()
    return mean.float()[None, :, None, None], deviation.float()[None, :, None, None]
