"""Rules for writes: what a tensor is overwritten with, and what a write into a part of a tensor means for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.labels import varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder

PARTIAL_WRITE = "it is written into a part of another tensor"


def copy(recorder: ChannelRecorder, op: Op) -> None:
    """A tensor that is overwritten takes the channels of the source; a part of a tensor is coupled with the source."""
    target, source = op.args[:2]
    overwritten = target._base is None and target.ndim == source.ndim
    labels = recorder.elementwise([source] if overwritten else [target, source], target.ndim)
    set_written(recorder, target, labels)


def fill(recorder: ChannelRecorder, op: Op) -> None:
    """A tensor that is filled with a number keeps its channels, and is uniform."""
    target = op.args[0]
    recorder.set_info(target, recorder.labels(target), uniform=True)


def set_written(recorder: ChannelRecorder, target: Tensor, labels: Sequence[ChannelLabels]) -> None:
    """Record the labels of a tensor that has been written to.

    The written channels become those of the tensor that it is a part of, if that was uniform, such as zeros that
    results are collected in. Otherwise the rest of that tensor has a fixed size, and freezes them.

    Args:
        recorder: The recorder of the run.
        target: The tensor.
        labels: Its labels after the write.
    """
    base = target._base
    if base is not None:
        known = {d for array in recorder.labels(target) for d in varying_dims(array)}
        new = [array for array in labels if not known & set(varying_dims(array))]
        if new and not _extend(recorder, base, target, new):
            recorder.freeze(new, PARTIAL_WRITE)
            return
    recorder.set_info(target, labels)


def after_write(recorder: ChannelRecorder, target: Tensor, zero_preserving: bool) -> None:
    """Record what a write means for the tensor that its target is a part of: it is no longer uniform.

    Args:
        recorder: The recorder of the run.
        target: The tensor that was written to.
        zero_preserving: Whether what was written is zero where the parameters of its channels are zero.
    """
    base = target._base
    if base is not None:
        info = recorder.info(base)
        keeps_zeros = info.zero_preserving and zero_preserving
        recorder.set_info(base, info.labels, weight=info.weight)
        recorder.info(base).zero_preserving = keeps_zeros


def _extend(recorder: ChannelRecorder, base: Tensor, target: Tensor, new: Sequence[ChannelLabels]) -> bool:
    """Give a tensor the labels that were written into its part ``target``, and return whether that is possible."""
    info = recorder.info(base)
    extended = list(info.labels)
    for array in new:
        moved = _labels_of_base(array, target, base)
        if moved is None:
            return False
        same = [other for other in info.labels if varying_dims(other) == varying_dims(moved)]
        if same:
            recorder.join(moved, same[0])
        elif info.uniform and not any(set(varying_dims(other)) & set(varying_dims(moved)) for other in extended):
            extended.append(moved)
        else:
            return False
    recorder.set_info(base, extended, info.uniform, info.weight)
    return True


def _labels_of_base(labels: ChannelLabels, part: Tensor, base: Tensor) -> ChannelLabels | None:
    """Return labels of a part of a tensor as labels of the tensor; None if they do not go all along its dimensions."""
    offset = part.storage_offset() - base.storage_offset()
    dims = []
    for d in varying_dims(labels):
        stride, size = part.stride(d), part.shape[d]
        same = [e for e in range(base.ndim) if base.stride(e) == stride and base.shape[e] == size]
        if len(same) != 1 or offset % (stride * size) >= stride:
            return None
        dims.append(same[0])
    moved = labels.squeeze(tuple(d for d, n in enumerate(labels.shape) if n == 1)).transpose(np.argsort(dims))
    shape = [1] * base.ndim
    for d, n in zip(sorted(dims), moved.shape, strict=True):
        shape[d] = n
    return moved.reshape(shape)
