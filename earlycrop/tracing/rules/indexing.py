"""Rules for lookups by index: channels along an indexed dimension are frozen, and the others are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder

INDEXED = "it is looked up by index"


def embedding(recorder: ChannelRecorder, op: Op) -> None:
    """The rows of the weight are frozen, and its columns become the last dimension of the result."""
    weight, _ = op.args[:2]
    result = op.results[0]
    rows, columns = recorder.labels_along(weight, 0), recorder.labels_along(weight, 1)
    recorder.freeze([rows], "its rows are looked up by index")
    recorder.add_role(rows, Role.LOOKUP)
    recorder.add_role(columns, Role.ROW)
    recorder.set_info(result, [] if columns is None else [expand_labels(columns, result.ndim - 1, result.ndim)])


def index(recorder: ChannelRecorder, op: Op) -> None:
    """``x[i, :, j]`` freezes the channels along the indexed dimensions, and moves the others to where they are now.

    The dimensions of the indices stand where the first index stood, or in front if the indices are apart.
    """
    x, partial_indices = op.args[:2]
    indices = [*partial_indices, *[None] * (x.ndim - len(partial_indices))]
    indexed = [d for d, i in enumerate(indices) if i is not None]
    if any(indices[d].dtype == torch.bool for d in indexed):
        raise ValueError("a mask covers several dimensions")
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    index_ndim = len(np.broadcast_shapes(*(tuple(indices[d].shape) for d in indexed)))
    first = indexed[0] if adjacent else 0
    kept = [d for d in range(x.ndim) if d not in indexed]
    new_dim = {d: i if i < first else i + index_ndim for i, d in enumerate(kept)}
    new_labels = []
    for labels in recorder.labels(x):
        if set(varying_dims(labels)) & set(indexed):
            recorder.freeze([labels], INDEXED)
            continue
        shape = [1] * op.results[0].ndim
        for d in varying_dims(labels):
            shape[new_dim[d]] = labels.shape[d]
        new_labels.append(labels.reshape(shape))
    recorder.set_info(op.results[0], new_labels)


def index_select(recorder: ChannelRecorder, op: Op) -> None:
    """``index_select(x, dim, index)`` freezes the channels along ``dim``, and keeps the others."""
    x, dim = op.args[0], op.args[1] % op.args[0].ndim
    recorder.set_info(op.results[0], _freeze_along(recorder, x, dim))


def gather(recorder: ChannelRecorder, op: Op) -> None:
    """``gather(x, dim, index)`` freezes the channels along ``dim``, and keeps those that the index is expanded along.

    Any other index has a fixed number of entries along the channels, and freezes them.
    """
    x, dim, indices = op.args[0], op.args[1] % op.args[0].ndim, op.args[2]
    kept: list[ChannelLabels] = []
    for labels in _freeze_along(recorder, x, dim):
        if all(indices.stride(d) == 0 and indices.shape[d] == x.shape[d] for d in varying_dims(labels)):
            kept.append(labels)
        else:
            recorder.freeze([labels], "it is gathered by indices of a fixed size")
    recorder.set_info(op.results[0], kept)


def _freeze_along(recorder: ChannelRecorder, x: Tensor, dim: int) -> list[ChannelLabels]:
    """Freeze the channels along a dimension, and return the others."""
    recorder.freeze([labels for labels in recorder.labels(x) if dim in varying_dims(labels)], INDEXED)
    return [labels for labels in recorder.labels(x) if dim not in varying_dims(labels)]
