"""Rules for what is looked up by index: channels stay along the indexed dimensions, and go on along the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels, varying_dims
from earlycrop.tracing.recorder import Arguments, ChannelRecorder, Options

INDEXED = "it is looked up by index"


def embedding(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    weight, index = arguments[:2]
    rows, width = watch.vector(weight, 0), watch.vector(weight, 1)
    watch.freeze([rows], "its rows are looked up by index")
    watch.role(rows, Role.LOOKUP)
    watch.role(width, Role.ROW)
    watch.learn(results[0], [] if width is None else [expand_labels(width, index.ndim, index.ndim + 1)])


def embedding_bag(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    weight = arguments[0]
    rows, width = watch.vector(weight, 0), watch.vector(weight, 1)
    watch.freeze([rows], "its rows are looked up by index")
    watch.role(rows, Role.LOOKUP)
    watch.role(width, Role.ROW)
    watch.learn(results[0], [] if width is None else [expand_labels(width, 1, 2)])


def index(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """``x[i, :, j]``: the indices' own dimensions stand where the first index stood, or in front if they are apart."""
    x, given = arguments[0], arguments[1]
    indices = [*given, *[None] * (x.ndim - len(given))]
    dims = [d for d, i in enumerate(indices) if i is not None]
    if any(indices[d].dtype == torch.bool for d in dims):
        raise ValueError("a mask covers several dimensions")
    together = dims == list(range(dims[0], dims[-1] + 1))
    wide = len(np.broadcast_shapes(*(tuple(indices[d].shape) for d in dims)))
    first = dims[0] if together else 0
    order = [d for d in range(x.ndim) if d not in dims]
    place = {d: i if i < first else i + wide for i, d in enumerate(order)}
    fields = []
    for f in watch.fields(x):
        if set(varying_dims(f)) & set(dims):
            watch.freeze([f], INDEXED)
            continue
        shape = [1] * results[0].ndim
        for d in varying_dims(f):
            shape[place[d]] = f.shape[d]
        fields.append(f.reshape(shape))
    watch.learn(results[0], fields)


def along_dim(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """``index_select(x, dim, index)``."""
    x, dim = arguments[0], arguments[1] % arguments[0].ndim
    watch.learn(results[0], _labels_without(watch, x, dim))


def gather(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """An index that is not merely repeated along another dimension has one entry for each channel there."""
    x, dim, by = arguments[0], arguments[1] % arguments[0].ndim, arguments[2]
    fields: list[ChannelLabels] = []
    for f in _labels_without(watch, x, dim):
        if all(by.stride(d) == 0 and by.shape[d] == x.shape[d] for d in varying_dims(f)):
            fields.append(f)
        else:
            watch.freeze([f], "it is gathered by indices of a fixed size")
    watch.learn(results[0], fields)


def _labels_without(watch: ChannelRecorder, x: Tensor, dim: int) -> list[ChannelLabels]:
    watch.freeze([f for f in watch.fields(x) if dim in varying_dims(f)], INDEXED)
    return [f for f in watch.fields(x) if dim not in varying_dims(f)]
