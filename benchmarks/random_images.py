"""A data set of random images for the quick forms, which need no data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIDE = 10, 32


@contextmanager
def cifar10_data(data: str | None, quick: bool) -> Iterator[str]:
    """What the CIFAR-10 task takes as ``--data``.

    Args:
        data: The user's choice, which goes first.
        quick: Whether random images, removed afterwards, take the place of the data set on the hub.
    """
    if data is not None or not quick:
        yield "uoft-cs/cifar10" if data is None else data
        return
    with tempfile.TemporaryDirectory() as folder:
        write_random_images(Path(folder), of_a_class=4)
        yield folder


def write_random_images(folder: Path, of_a_class: int) -> None:
    """Write ``train/CLASS/*.png`` and ``test/CLASS/*.png``: noise of 32 x 32 pixels, in ten classes."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(CLASSES):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for i in range(of_a_class):
                pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
