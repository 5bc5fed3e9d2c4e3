"""Rules for lookups and writes by index: channels along an indexed dimension are frozen, and the others are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels, pad_front, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules import writes

INDEXED = "it is looked up by index"
MASKS = (torch.bool, torch.uint8)


def embedding(recorder: ChannelRecorder, op: Op) -> None:
    """The rows of the weight are frozen, and its columns become the last dimension of the result."""
    weight, indices = op.args[:2]
    result = op.results[0]
    rows, columns = recorder.labels_along(weight, 0), recorder.labels_along(weight, 1)
    recorder.freeze([rows], "its rows are looked up by index")
    recorder.add_role(rows, Role.LOOKUP)
    recorder.add_role(columns, Role.ROW)
    labels = [] if columns is None else [expand_labels(columns, result.ndim - 1, result.ndim)]
    if result.ndim == indices.ndim + 1:
        labels += [array[..., None] for array in recorder.labels(indices)]
    else:  # a bag of rows is added up
        recorder.freeze(recorder.labels(indices), INDEXED)
    recorder.set_info(result, labels)


def index(recorder: ChannelRecorder, op: Op) -> None:
    """``x[i, :, j]`` freezes the channels along the indexed dimensions, and moves the others to where they are now."""
    x, indices = op.args[:2]
    layout = _find_layout(recorder, x, indices)
    labels = list(layout.labels_of_indices)
    for array in _freeze_along(recorder, x, set(layout.indexed)):
        shape = [1] * op.results[0].ndim
        for d in varying_dims(array):
            shape[layout.new_dim[d]] = array.shape[d]
        labels.append(array.reshape(shape))
    recorder.set_info(op.results[0], labels)


def index_put(recorder: ChannelRecorder, op: Op) -> None:
    """``x[i, :, j] = y`` couples the channels of x and y along the dimensions that are not indexed.

    ``x[mask] = 3`` couples x with the mask.
    """
    x, indices, values = op.args[:3]
    masks = [(d, i) for d, i in enumerate(indices) if i is not None and i.dtype in MASKS]
    if len(masks) == 1 and values.numel() == 1 and all(i is None or i is masks[0][1] for i in indices):
        dim, mask = masks[0]
        shape = (1,) * dim + tuple(mask.shape) + (1,) * (x.ndim - dim - mask.ndim)
        labels = [array.reshape(_put_at(dim, array.shape, x.ndim)) for array in recorder.labels(mask)]
        labels = recorder.elementwise([x, _stand_in(recorder, mask, shape, labels)], x.ndim)
    else:
        layout = _find_layout(recorder, x, indices)
        recorder.freeze(layout.labels_of_indices, INDEXED)
        labels = _put_values(recorder, x, values, layout)
    writes.set_written(recorder, op.results[0], labels)


def index_select(recorder: ChannelRecorder, op: Op) -> None:
    """``index_select(x, dim, index)`` freezes the channels along ``dim``, and keeps the others."""
    x, dim, indices = op.args[0], op.args[1] % op.args[0].ndim, op.args[2]
    recorder.freeze(recorder.labels(indices), INDEXED)
    recorder.set_info(op.results[0], _freeze_along(recorder, x, {dim}))


def gather(recorder: ChannelRecorder, op: Op) -> None:
    """``gather(x, dim, index)`` freezes the channels along ``dim``, and couples x and the index along the others.

    An index of a fixed size along the channels freezes them, unless it is expanded along them.
    """
    x, dim, indices = op.args[0], op.args[1] % op.args[0].ndim, op.args[2]
    recorder.set_info(op.results[0], _couple_but_along(recorder, dim, [x, indices]))


def scatter(recorder: ChannelRecorder, op: Op) -> None:
    """``scatter(x, dim, index, source)`` freezes the channels along ``dim``, and couples all tensors along the others.

    So do ``index_add`` and its like, whose index is a vector.
    """
    x, dim = op.args[0], op.args[1] % op.args[0].ndim
    if op.args[2].ndim < x.ndim:
        recorder.freeze(recorder.labels(op.args[2]), INDEXED)
    operands = [t for t in op.inputs if t.ndim == x.ndim]
    writes.set_written(recorder, op.results[0], _couple_but_along(recorder, dim, operands))


def scatter_slice(recorder: ChannelRecorder, op: Op) -> None:
    """``x.slice_scatter(y, dim)`` and ``x.select_scatter(y, dim, i)`` write into a part of a copy of x."""
    x, source = op.args[:2]
    dim = int(op.argument(2, "dim", 0)) % x.ndim
    if source.ndim < x.ndim:
        labels = [np.expand_dims(array, dim) for array in recorder.labels(source)]
        source = _stand_in(recorder, source, source.unsqueeze(dim).shape, labels)
    recorder.set_info(op.results[0], _couple_but_along(recorder, dim, [x, source]))


@dataclass(frozen=True)
class _Layout:
    """Where the dimensions of x are in ``x[i, :, j]``.

    indexed: the dimensions that are indexed. first: where the dimensions of the indices stand, which is where the first
    index stood, or in front if the indices are apart. index_ndim: how many these are. new_dim: where each other
    dimension is. labels_of_indices: the labels of the result that come from the indices.
    """

    indexed: list[int]
    first: int
    index_ndim: int
    new_dim: dict[int, int]
    labels_of_indices: list[ChannelLabels]


def _find_layout(recorder: ChannelRecorder, x: Tensor, indices: Sequence[Tensor | None]) -> _Layout:
    """Return where the dimensions of x are in ``x[indices]``. A mask covers as many of them as it has."""
    indexed: list[int] = []
    d = 0
    for i in indices:
        covered = i.ndim if i is not None and i.dtype in MASKS else 1
        indexed += range(d, d + covered) if i is not None else ()
        d += covered
    given = [i for i in indices if i is not None]
    masks = [i for i in given if i.dtype in MASKS]
    if masks:
        recorder.freeze([labels for i in given for labels in recorder.labels(i)], INDEXED)
    numbers = [i for i in given if i.dtype not in MASKS]
    index_ndim = max([i.ndim for i in numbers] + [1] * bool(masks))
    first = indexed[0] if indexed == list(range(indexed[0], indexed[-1] + 1)) else 0
    kept = [d for d in range(x.ndim) if d not in indexed]
    new_dim = {d: i if i < first else i + index_ndim for i, d in enumerate(kept)}
    ndim = len(kept) + index_ndim
    labels = [] if masks else recorder.elementwise(numbers, index_ndim)
    moved = [array.reshape(_put_at(first, array.shape, ndim)) for array in labels]
    return _Layout(indexed, first, index_ndim, new_dim, moved)


def _put_values(recorder: ChannelRecorder, x: Tensor, values: Tensor, layout: _Layout) -> list[ChannelLabels]:
    """Couple x with values that are written to ``x[indices]``, and return the labels of x."""
    ndim = len(layout.new_dim) + layout.index_ndim
    old_dim = {new: old for old, new in layout.new_dim.items()}
    at_index = {d for d in range(ndim) if d not in old_dim}
    moved, shape = [], [1] * x.ndim
    for d, n in enumerate(values.shape, ndim - values.ndim):
        if d in old_dim and values.stride(d - ndim):
            shape[old_dim[d]] = n
    labels = [pad_front(array, ndim) for array in recorder.labels(values)]
    for array in recorder.couple_or_freeze_along(labels, at_index, INDEXED):
        new_shape = [1] * x.ndim
        for d in varying_dims(array):
            new_shape[old_dim[d]] = array.shape[d]
        moved.append(array.reshape(new_shape))
    kept = _stand_in(recorder, x, x.shape, _freeze_along(recorder, x, set(layout.indexed)))
    return recorder.elementwise([kept, _stand_in(recorder, values, shape, moved)], x.ndim)


def _couple_but_along(recorder: ChannelRecorder, dim: int, tensors: Sequence[Tensor]) -> list[ChannelLabels]:
    """Freeze the channels of tensors along a dimension, couple them along all others, and return their labels.

    Channels along dimensions that differ in size are frozen too.
    """
    ndim = tensors[0].ndim
    frozen = {dim} | {d for d in range(ndim) if len({t.shape[d] for t in tensors}) > 1}
    kept = [_freeze_along(recorder, t, frozen) for t in tensors]
    coupled = {d for labels in kept for array in labels for d in varying_dims(array)}
    operands = []
    for t, labels in zip(tensors, kept, strict=True):
        shape = [n if d in coupled and not _is_constant_along(t, d) else 1 for d, n in enumerate(t.shape)]
        operands.append(_stand_in(recorder, t, shape, labels))
    return recorder.elementwise(operands, ndim)


def _is_constant_along(t: Tensor, dim: int) -> bool:
    """Return whether all entries along a dimension are known to be equal, as those of indices that were repeated."""
    if t.stride(dim) == 0 or t.shape[dim] == 1:
        return True
    is_data = not (t.is_meta or t.is_floating_point() or t.is_complex())
    return is_data and bool((t == t.narrow(dim, 0, 1)).all())


def _freeze_along(recorder: ChannelRecorder, x: Tensor, dims: set[int]) -> list[ChannelLabels]:
    """Freeze the channels along some dimensions, and return the others."""
    recorder.freeze([labels for labels in recorder.labels(x) if dims & set(varying_dims(labels))], INDEXED)
    return [labels for labels in recorder.labels(x) if not dims & set(varying_dims(labels))]


def _stand_in(recorder: ChannelRecorder, t: Tensor, shape: Sequence[int], labels: Sequence[ChannelLabels]) -> Tensor:
    """Return a tensor of another shape that stands for ``t`` where channels are coupled."""
    empty = torch.empty(shape, device="meta")
    recorder.set_info(empty, labels, uniform=recorder.info(t).uniform)
    return empty


def _put_at(first: int, shape: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return a shape of ``ndim`` dimensions that has ``shape`` from the dimension ``first`` on, and ones elsewhere."""
    return (1,) * first + tuple(shape) + (1,) * (ndim - first - len(shape))
