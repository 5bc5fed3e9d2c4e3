"""Channel labels: integer arrays that say which channel each position of a tensor belongs to.

An array of labels has as many dimensions as the tensor. It is 1 wide where the channel does not depend on the position,
so that it broadcasts to the tensor and stays small. Equal labels are the same channel. An operation that moves the
entries of a tensor moves its labels in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earlycrop.graph.types import ChannelLabels


def varying_dims(labels: ChannelLabels) -> tuple[int, ...]:
    """Return the dimensions that the labels depend on.

    Args:
        labels: Labels of a tensor.
    """
    return tuple(d for d, n in enumerate(labels.shape) if n > 1)


def expand_labels(vector: ChannelLabels, dim: int, ndim: int) -> ChannelLabels:
    """Return labels that depend on one dimension of a tensor.

    Args:
        vector: The channel of each index along ``dim``.
        dim: The dimension.
        ndim: How many dimensions the tensor has.

    Returns:
        An array of ``ndim`` dimensions, 1 wide in all but ``dim``.
    """
    shape = [1] * ndim
    shape[dim] = -1
    return vector.reshape(shape)


def compress(labels: ChannelLabels) -> ChannelLabels:
    """Return the same labels, 1 wide in each dimension along which they are constant.

    Args:
        labels: Labels of a tensor.
    """
    for d in varying_dims(labels):
        first = labels.take([0], axis=d)
        if (labels == first).all():
            labels = first
    return labels


def pad_front(labels: ChannelLabels, ndim: int) -> ChannelLabels:
    """Put dimensions of width 1 in front, as broadcasting does.

    Args:
        labels: Labels of a tensor.
        ndim: How many dimensions the result has.
    """
    return labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


def reshape_labels(labels: ChannelLabels, old: Sequence[int], new: Sequence[int]) -> ChannelLabels:
    """Return the labels of a tensor after a view.

    Runs of dimensions whose sizes multiply to the same number are reshaped one by one. A run is expanded only where the
    labels depend on it.

    Args:
        labels: Labels of the tensor before the view.
        old: The shape of the tensor before the view.
        new: Its shape after the view.

    Returns:
        Labels of a tensor of the shape ``new``.
    """
    parts = []
    for (i, i_end), (j, j_end) in _split_into_runs(old, new):
        widths = labels.shape[i:i_end]
        if all(n == 1 for n in widths):
            parts.append((widths, (1,) * (j_end - j)))
        else:
            parts.append((tuple(old[i:i_end]), tuple(new[j:j_end])))
    wide = np.broadcast_to(labels, [n for before, _ in parts for n in before])
    return compress(wide.reshape([n for _, after in parts for n in after]))


def _split_into_runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Split two shapes of equal size into the shortest runs of dimensions whose sizes multiply to the same number.

    Each run is the first and the last dimension (exclusive) of it in ``old``, and the same in ``new``.
    """
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
