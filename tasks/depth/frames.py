"""Frames for a device: pairs that workers read and bring to the size that windows are taken of, held where they fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.data.batches import loaded
from tasks.depth.nyu_dataset import UNREAD, Pairs
from tasks.depth.views import Size
from tasks.runner.errors import RunError
from tasks.runner.machine import available_cores
from tasks.runner.store import digest

AT_ONCE = 16
"""Frames that a worker reads at least, before another is worth its start."""


class Frames:
    """A split's frames, (3, *size) uint8 and their depths, *size float32 in metres.

    They are read once and held, where all of them take at most ``max_bytes``; else whenever they are asked for.

    Raises:
        ValueError: they are to be held, and one cannot be read, or none has a reading.
    """

    def __init__(self, pairs: Pairs, size: Size, max_bytes: float) -> None:
        self.pairs, self.size = pairs, size
        self.cached: tuple[Tensor, Tensor] | None = None
        if 0 < len(pairs) * size[0] * size[1] * 7 <= max_bytes:
            try:
                parts = list(self._read(torch.arange(len(pairs)), AT_ONCE))
            except RunError as error:
                raise ValueError(str(error)) from None
            images, depths = zip(*parts, strict=True)
            self.cached = torch.cat(images), torch.cat(depths)
            if not self.cached[1].any():
                raise ValueError(f"{pairs.path}: no pixel of the split {pairs.name} {UNREAD}")

    def __len__(self) -> int:
        return len(self.pairs)

    def content(self) -> str:
        """Return what tells the frames from others of the same names: a digest of them, or where they are not held, of
        their files' sizes."""
        return digest(*(self.cached if self.cached is not None else map(str, self.pairs.sizes())))

    def batches(self, order: Tensor, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The frames at ``order``, in that order.

        Raises:
            RunError: one cannot be read.
        """
        if self.cached is None:
            for images, depths in self._read(order, batch):
                yield images.to(device, non_blocking=True), depths.to(device, non_blocking=True)
            return
        images, depths = self.cached = self.cached[0].to(device), self.cached[1].to(device)
        for chosen in torch.split(order.to(device), batch):
            yield images[chosen], depths[chosen]

    def _read(self, order: Tensor, batch: int) -> Iterator[list[Tensor]]:
        workers = min(available_cores(), len(order) // AT_ONCE)
        generator = torch.Generator()  # without one, the loader takes a number from the global generator
        yield from loaded(self._one, order.tolist(), batch, num_workers=workers, generator=generator)

    def _one(self, i: int) -> tuple[Tensor, Tensor]:
        return reduced(*self.pairs.read(i), self.size)


def reduced(rgb: np.ndarray, depth: np.ndarray, size: Size) -> tuple[Tensor, Tensor]:
    """A pair at another size: the image averaged, and of the depths those at the middles of the new pixels, for a mean
    over an edge is the depth of nothing."""
    image = torch.from_numpy(np.ascontiguousarray(rgb))[None]
    if image.shape[2:] != size:
        image = functional.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    rows, columns = ((np.arange(new) + 0.5) * old // new for new, old in zip(size, depth.shape, strict=True))
    return image[0], torch.from_numpy(depth[np.ix_(rows.astype(int), columns.astype(int))])
