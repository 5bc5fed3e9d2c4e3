"""Batches of images for a device: of those that lie there already, or of those that workers decode one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop.utils.memory_format import trains_in_channels_last
from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.data.batches import IMAGENET, Key, generator, loaded, statistics
from tasks.runner import distributed
from tasks.runner.machine import available_cores
from tasks.vision.augmentation import Augmentation, augment, prepared
from tasks.vision.images import Images

Batch = tuple[Tensor, Tensor]


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return the memory format of a model and its images: channels last, where convolutions are fastest.

    It is the usual one for a network that torch cannot train with channels last.
    """
    return torch.channels_last if trains_in_channels_last(model) else torch.contiguous_format


def feeds(train: Images, validation: Images, test: Images, size: int, max_bytes: float) -> tuple[Feed, Feed, Feed]:
    """Where each split's batches come from: memory, where images are of one size and take at most ``max_bytes``.

    Raises:
        ValueError: the training images are held in memory, and others are of another size.
    """
    pixels = train.pixels(max_bytes)
    if pixels is None:
        return Streamed(train, size), Streamed(validation, size), Streamed(test, size)
    in_memory = InMemory(pixels, train.labels, size, statistics(pixels))
    return in_memory, in_memory.beside(validation), in_memory.beside(test)


class InMemory:
    """Images in a device's memory, in bytes; batches are made of them there."""

    def __init__(self, pixels: Tensor, labels: np.ndarray, size: int, scale: tuple[Tensor, Tensor]) -> None:
        self.pixels, self.labels, self.size, self.scale = pixels, torch.from_numpy(labels), size, scale

    def __len__(self) -> int:
        return len(self.labels)

    def beside(self, images: Images) -> InMemory:
        """Another split, normalised like this one.

        Raises:
            ValueError: its images are of another size.
        """
        shape = self.pixels.shape[1:]
        pixels = images.pixels(float("inf")) if len(images) else torch.empty(0, *shape, dtype=torch.uint8)
        if pixels is None or pixels.shape[1:] != shape:
            raise ValueError(
                f"the images of the {images.name} split are not all {shape[1]} x {shape[2]}, as others are"
            )
        return InMemory(pixels, images.labels, self.size, self.scale)

    def shuffled(self, batch: int, device: torch.device, key: Key, augmentation: Augmentation) -> Iterator[Batch]:
        """An epoch of whole batches in a random order, augmented; of each, this process's part."""
        order = torch.randperm(len(self), generator=generator(key))
        random = generator((*key, 1), device)
        for chosen in torch.split(order, batch):
            if len(chosen) == batch or len(self) < batch:
                images, labels = self._taken(chosen, device)
                images = augment(images, augmentation, random)  # whole, with the random numbers of one process
                yield self._prepared(distributed.local_slice(images)), distributed.local_slice(labels)

    def plain(self, order: Tensor, batch: int, device: torch.device) -> Iterator[Batch]:
        """The images at ``order``, in that order, as they are."""
        for chosen in torch.split(order, batch):
            images, labels = self._taken(chosen, device)
            yield self._prepared(images), labels

    def _taken(self, chosen: Tensor, device: torch.device) -> Batch:
        if self.pixels.device != device:
            self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
            self.scale = (self.scale[0].to(device), self.scale[1].to(device))
        at = chosen.to(device)
        return self.pixels[at], self.labels[at]

    def _prepared(self, images: Tensor) -> Tensor:
        return prepared(images, *self.scale, self.size).contiguous(memory_format=torch.channels_last)


class Streamed:
    """Images that are decoded, and augmented, by worker processes: with random numbers of each process's own."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.size = images, size
        self.workers = max(1, available_cores() // distributed.local_processes())

    def __len__(self) -> int:
        return len(self.images)

    def shuffled(self, batch: int, device: torch.device, key: Key, augmentation: Augmentation) -> Iterator[Batch]:
        """An epoch of whole batches in a random order, augmented; of each, this process's part."""
        order = distributed.local_slices(torch.randperm(len(self), generator=generator(key)), batch)
        key = (*key, distributed.rank()) if distributed.rank() else key
        transform, local_batch = _transform(self.size, augmentation), batch // distributed.processes()
        yield from self._load(order, local_batch, device, transform, key, drop_last=len(self) >= batch)

    def plain(self, order: Tensor, batch: int, device: torch.device) -> Iterator[Batch]:
        """The images at ``order``, in that order, as they are."""
        yield from self._load(order, batch, device, _transform(self.size, None), (0,), drop_last=False)

    def _load(
        self, order: Tensor, batch: int, device: torch.device, transform: Any, key: Key, drop_last: bool
    ) -> Iterator[Batch]:
        def one(i: int) -> tuple[Tensor, int]:
            return transform(self.images.rgb(i)), int(self.images.labels[i])

        for images, labels in loaded(
            one, order.tolist(), batch, num_workers=self.workers, drop_last=drop_last, pin_memory=device.type == "cuda",
            generator=generator((*key, 1)),
        ):  # fmt: skip
            moved = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            yield moved, labels.to(device, non_blocking=True)


Feed = InMemory | Streamed
"""Where batches come from."""


def _transform(size: int, augmentation: Augmentation | None) -> Any:
    """Return torchvision's transform of an image to train on, or without augmentation of its middle, 7/8 of a side."""
    v2 = load_torchvision("torchvision.transforms.v2")
    if augmentation is None:
        steps = [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
    else:
        steps = [v2.RandomResizedCrop(size, scale=(augmentation.smallest_crop, 1))]
        steps += [v2.RandomCrop(size, augmentation.padding)] * bool(augmentation.padding)
        steps += [v2.RandomRotation(augmentation.rotation)] * bool(augmentation.rotation)
        steps += [v2.RandomHorizontalFlip()] * augmentation.flip
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
