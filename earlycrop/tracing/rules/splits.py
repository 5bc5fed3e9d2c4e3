"""Rules for splits and slices, which take parts of a dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.labels import compress, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import SPLIT, ChannelRecorder, ScalarArgs

aten: Any = torch.ops.aten
SPLITS = {aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.unsafe_split}


def split(recorder: ChannelRecorder, op: Op) -> None:
    """Parts of equal size are coupled position by position; parts of different sizes have channels of their own."""
    x, packet = op.args[0], op.operation.overloadpacket
    dim = _split_dim(packet, op)
    labels_of_parts: list[list[ChannelLabels]] = [[] for _ in op.results]
    for labels in recorder.labels(x):
        if labels.shape[dim] > 1:
            starts, width, step = _split_extent(packet, op, dim)
            lengths = [y.shape[dim] if y.ndim == x.ndim else 1 for y in op.results]
            filled = [start for start, n in zip(starts, lengths, strict=True) if n]  # an empty part has no channel
            if filled:
                labels = _couple_parts(recorder, labels, dim, filled, width, step)
        if labels.shape[dim] > 1:
            parts = [
                compress(labels.take(range(start, start + n * step, step), axis=dim))
                for start, n in zip(starts, lengths, strict=True)
            ]
        else:
            parts = [labels] * len(op.results)
        for y, part, labels_of_part in zip(op.results, parts, labels_of_parts, strict=True):
            labels_of_part.append(part.squeeze(dim) if y.ndim < x.ndim else part)
    for y, labels_of_part in zip(op.results, labels_of_parts, strict=True):
        recorder.set_info(y, labels_of_part, weight=recorder.info(x).weight)


def record_split(recorder: ChannelRecorder, packet: Any, op: Op) -> None:
    """Record the widths of a dimension and of its parts, and the channels of the parts.

    A hard-coded width that was an eighth of the dimension is more than an eighth after a cut.

    Args:
        recorder: The recorder of the run.
        packet: The operation without its overload.
        op: The operation, one of ``SPLITS``.
    """
    x, dim = op.args[0], _split_dim(packet, op)
    widths = tuple(y.shape[dim] for y in op.results if y.ndim == x.ndim)
    parts: tuple[ChannelLabels, ...] = ()
    vector = next((labels.reshape(-1) for labels in recorder.labels(x) if varying_dims(labels) == (dim,)), None)
    if vector is not None and len(widths) == len(op.results):
        starts, _, step = _split_extent(packet, op, dim)
        parts = tuple(vector[start : start + n * step : step] for start, n in zip(starts, widths, strict=True))
    recorder.record_scalars(ScalarArgs(SPLIT, tuple(map(float, (x.shape[dim], *widths))), parts))


def _split_dim(packet: Any, op: Op) -> int:
    position = 1 if packet in (aten.slice, aten.select, aten.unbind) else 2
    return int(op.argument(position, "dim", 0)) % int(op.args[0].ndim)


def _split_extent(packet: Any, op: Op, dim: int) -> tuple[list[int], int, int]:
    """Return where each part starts, how wide all of them are, and their step.

    Empty parts do not count. If the others differ in width, the width is larger than the dimension.
    """
    size = op.args[0].shape[dim]
    if packet is aten.slice:
        start = op.args[2] if len(op.args) > 2 and op.args[2] is not None else 0
        return [max(start + size if start < 0 else start, 0)], op.results[0].shape[dim], (*op.args[4:5], 1)[0]
    if packet is aten.select:
        return [op.args[2] % size], 1, 1
    widths = [1] * len(op.results) if packet is aten.unbind else [y.shape[dim] for y in op.results]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    filled = {width for width in widths if width}
    return starts, filled.pop() if len(filled) == 1 else size + 1, 1


def _couple_parts(
    recorder: ChannelRecorder, labels: ChannelLabels, dim: int, starts: list[int], width: int, step: int
) -> ChannelLabels:
    """Couple channels such that a cut takes the same share of each part of equal size.

    Parts of equal size are coupled position by position; if one part alone is taken, ``coupling`` decides. A part with
    a step takes one channel of each run of ``step`` channels, which are coupled. If parts differ in size, labels that
    depend on other dimensions as well (heads, beside the positions in them) are coupled along ``dim``, and others stay:
    trial cuts show whether the sizes follow.

    Returns:
        The labels to take the parts of.
    """
    size = labels.shape[dim]
    first = labels.take([0], axis=dim)
    front = np.moveaxis(labels, dim, 0)
    if width == size or (first.size == 1 and recorder.parts_are_known):
        return labels
    if step > 1 and size % step == 0 and width * step == size:
        runs = front.reshape((-1, step, *front.shape[1:]))
        recorder.join(runs, runs[:, :1])
    elif step == 1 and size % width == 0 and all(start % width == 0 for start in starts):
        by_part = front.reshape((-1, width, *front.shape[1:]))
        if len(starts) == 1 and first.size == 1:
            recorder.slices.append(by_part.reshape(-1, width))
        else:
            recorder.join(by_part, by_part[:1])
    elif first.size > 1:
        recorder.join(labels, first)
        return first
    else:
        recorder.has_unequal_parts = True
    return labels
