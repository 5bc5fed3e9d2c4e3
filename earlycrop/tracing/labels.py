"""Fields: integer arrays that say which channel each position of a tensor belongs to.

A field has the tensor's number of dimensions and is 1 wide where the channel does not depend on the position, so that
it broadcasts to the tensor and stays small. Equal numbers are the same channel. Movements of a tensor are done on its
fields.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earlycrop.graph.types import ChannelLabels


def varying_dims(field: ChannelLabels) -> tuple[int, ...]:
    """The dimensions that a field depends on."""
    return tuple(d for d, n in enumerate(field.shape) if n > 1)


def expand_labels(vector: ChannelLabels, dim: int, ndim: int) -> ChannelLabels:
    """A vector of channels as a field over dimension ``dim`` of ``ndim``."""
    shape = [1] * ndim
    shape[dim] = -1
    return vector.reshape(shape)


def compress(field: ChannelLabels) -> ChannelLabels:
    """The same field, 1 wide in each dimension along which it is constant."""
    for d in varying_dims(field):
        first = field.take([0], axis=d)
        if (field == first).all():
            field = first
    return field


def pad_front(field: ChannelLabels, ndim: int) -> ChannelLabels:
    """The field with dimensions of width 1 put in front, as broadcasting does."""
    return field.reshape((1,) * (ndim - field.ndim) + field.shape)


def reshape_labels(field: ChannelLabels, old: Sequence[int], new: Sequence[int]) -> ChannelLabels:
    """The field of a tensor of shape ``old`` after a view as ``new``.

    Runs of dimensions whose sizes multiply to the same number are reshaped on their own, and expanded only where the
    field depends on them.
    """
    parts = []
    for i, j in _runs(old, new):
        span = field.shape[i[0] : i[1]]
        if all(n == 1 for n in span):
            parts.append((span, (1,) * (j[1] - j[0])))
        else:
            parts.append((tuple(old[i[0] : i[1]]), tuple(new[j[0] : j[1]])))
    wide = np.broadcast_to(field, [n for before, _ in parts for n in before])
    return compress(wide.reshape([n for _, after in parts for n in after]))


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Split two shapes of equal size into the shortest runs of dimensions whose sizes multiply to the same number."""
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        i0, j0, a, b = i, j, 1, 1
        while True:
            if i < len(old) and (a <= b or j == len(new)):
                a *= old[i]
                i += 1
            elif j < len(new):
                b *= new[j]
                j += 1
            if a == b and (i > i0 or j > j0):
                break
        runs.append(((i0, i), (j0, j)))
    return runs
