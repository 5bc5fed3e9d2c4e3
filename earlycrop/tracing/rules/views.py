"""Rules for operations that move entries without changing them: labels are moved in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.labels import expand_labels, pad_front, reshape_labels, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder

aten: Any = torch.ops.aten
LabelMove: TypeAlias = Callable[[ChannelLabels, Tensor, Tensor, tuple[Any, ...]], ChannelLabels]
"""A function of labels of the input, the input, the result and the arguments that returns labels of the result."""


def _reshape(labels: ChannelLabels, x: Tensor, y: Tensor, args: tuple[Any, ...]) -> ChannelLabels:
    return reshape_labels(labels, x.shape, y.shape)


def _repeat(labels: ChannelLabels, x: Tensor, y: Tensor, args: tuple[Any, ...]) -> ChannelLabels:
    labels = pad_front(labels, y.ndim)
    return np.tile(labels, [times if n > 1 else 1 for n, times in zip(labels.shape, args[1], strict=True)])


def _pixel_shuffle(labels: ChannelLabels, x: Tensor, y: Tensor, args: tuple[Any, ...]) -> ChannelLabels:
    """(N, C r r, H, W) to (N, C, H r, W r)."""
    n, c, h, w = x.shape
    r = args[1]
    moved = reshape_labels(labels, x.shape, (n, c // (r * r), r, r, h, w)).transpose(0, 1, 4, 2, 5, 3)
    return reshape_labels(moved, (n, c // (r * r), h, r, w, r), y.shape)


def _pixel_unshuffle(labels: ChannelLabels, x: Tensor, y: Tensor, args: tuple[Any, ...]) -> ChannelLabels:
    """(N, C, H r, W r) to (N, C r r, H, W)."""
    n, c, h, w = x.shape
    r = args[1]
    moved = reshape_labels(labels, x.shape, (n, c, h // r, r, w // r, r)).transpose(0, 1, 3, 5, 2, 4)
    return reshape_labels(moved, (n, c, r, r, h // r, w // r), y.shape)


VIEWS: dict[Any, LabelMove] = {
    **dict.fromkeys(
        [
            aten.clone,
            aten._to_copy,
            aten.alias,
            aten.detach,
            aten.lift_fresh,
            aten.contiguous,
            aten._conj,
            aten._conj_physical,
            aten._neg_view,
            aten.resolve_conj,
            aten.resolve_neg,
        ],
        lambda labels, *_: labels,
    ),
    **dict.fromkeys([aten.view, aten._unsafe_view, aten.reshape], _reshape),
    **dict.fromkeys([aten.squeeze, aten.squeeze_, aten.unsqueeze, aten.unsqueeze_], _reshape),
    aten.permute: lambda labels, x, y, args: labels.transpose([d % x.ndim for d in args[1]]),
    **dict.fromkeys([aten.transpose, aten.transpose_], lambda labels, x, y, args: labels.swapaxes(args[1], args[2])),
    **dict.fromkeys([aten.t, aten.t_], lambda labels, *_: labels.T),
    aten.expand: lambda labels, x, y, args: pad_front(labels, y.ndim),
    aten.flip: lambda labels, x, y, args: np.flip(labels, tuple(d % x.ndim for d in args[1] if labels.shape[d] > 1)),
    aten.repeat: _repeat,
    aten.view_as_real: lambda labels, *_: labels[..., None],
    aten.pixel_shuffle: _pixel_shuffle,
    aten.pixel_unshuffle: _pixel_unshuffle,
}
FIXED_OPERAND = "it is concatenated with data of a fixed size"


def view(recorder: ChannelRecorder, op: Op) -> None:
    """A view or copy keeps the channels; labels that depend on several dimensions are coupled at the end."""
    x, y = op.args[0], op.results[0]
    info = recorder.info(x)
    if x is y:  # changed in place: its shape before is the recorded one
        x = torch.empty(info.shape, device="meta")
    move = VIEWS[op.operation.overloadpacket]
    moved = [move(labels, x, y, op.args) for labels in info.labels]
    recorder.multi_dim += [labels for labels in moved if len(varying_dims(labels)) > 1]
    recorder.set_info(y, moved, weight=info.weight)


def channel_shuffle(recorder: ChannelRecorder, op: Op) -> None:
    """(N, g C, ...) to (N, C g, ...): the same position in each of the g groups is coupled."""
    x, groups = op.args[:2]
    n, c, *rest = x.shape
    moved = []
    for labels in recorder.labels(x):
        by_group = reshape_labels(labels, x.shape, (n, groups, c // groups, *rest))
        if by_group.shape[1] > 1:
            recorder.join(by_group, by_group[:, :1])
        shape = (n, c // groups, groups, *rest)
        moved.append(reshape_labels(by_group.swapaxes(1, 2), shape, op.results[0].shape))
    recorder.set_info(op.results[0], moved)


def glu(recorder: ChannelRecorder, op: Op) -> None:
    """Each channel of the first half is coupled with its gate in the second half."""
    x = op.args[0]
    dim = int(op.argument(1, "dim", -1)) % x.ndim
    halves = []
    for labels in recorder.labels(x):
        if labels.shape[dim] > 1:
            labels, gates = np.split(labels, 2, axis=dim)
            recorder.join(gates, labels)
        halves.append(labels)
    recorder.set_info(op.results[0], halves)


def cat(recorder: ChannelRecorder, op: Op) -> None:
    """Along ``dim`` the channels follow each other; along the other dimensions they are coupled."""
    y = op.results[0]
    dim = int(op.argument(1, "dim", 0)) % y.ndim
    operands = [t for t in op.args[0] if t.ndim == y.ndim]
    along_dim = [[labels for labels in recorder.labels(t) if dim in varying_dims(labels)] for t in operands]
    if all(len(arrays) == 1 and varying_dims(arrays[0]) == varying_dims(along_dim[0][0]) for arrays in along_dim):
        concatenated = [np.concatenate([arrays[0] for arrays in along_dim], axis=dim)]
        recorder.multi_dim += [labels for labels in concatenated if len(varying_dims(labels)) > 1]
    else:
        _couple_whole_heads(recorder, operands, dim)
        concatenated = _concatenate_vectors(recorder, operands, dim)
    recorder.set_info(y, concatenated + _couple_other_dims(recorder, operands, dim))


def stack(recorder: ChannelRecorder, op: Op) -> None:
    """The operands' channels are coupled; the new dimension has none."""
    operands, y = op.args[0], op.results[0]
    dim = int(op.argument(1, "dim", 0)) % y.ndim
    unsqueezed = [t.unsqueeze(dim) for t in operands]
    for operand, t in zip(unsqueezed, operands, strict=True):
        labels = [np.expand_dims(array, dim) for array in recorder.labels(t)]
        recorder.set_info(operand, labels, uniform=recorder.info(t).uniform)
    recorder.set_info(y, _couple_other_dims(recorder, unsqueezed, dim))


def _couple_whole_heads(recorder: ChannelRecorder, operands: list[Tensor], dim: int) -> None:
    """Couple labels that depend on ``dim`` and on others along ``dim``, if some operand's depend on the others alone.

    Positions of a head are concatenated with something that has a channel a head, so that only whole heads can go.
    """
    head_dims = {varying_dims(labels) for t in operands for labels in recorder.labels(t)}
    for t in operands:
        arrays = recorder.labels(t)
        for i, labels in enumerate(arrays):
            others = tuple(d for d in varying_dims(labels) if d != dim)
            if others != varying_dims(labels) and others in head_dims:
                first = labels.take([0], axis=dim)
                recorder.join(labels, first)
                arrays[i] = first


def _concatenate_vectors(recorder: ChannelRecorder, operands: list[Tensor], dim: int) -> list[ChannelLabels]:
    """Return the channels of all operands along ``dim``; operands without channels get new ones that are frozen."""
    vectors = [recorder.labels_along(t, dim) for t in operands]
    if all(v is None for v in vectors):
        return []
    concatenated = []
    for t, v in zip(operands, vectors, strict=True):
        if v is None:
            v = recorder.new_channels(t.shape[dim])
            recorder.freeze([v], FIXED_OPERAND)
        concatenated.append(v)
    return [expand_labels(np.concatenate(concatenated), dim, operands[0].ndim)]


def _couple_other_dims(recorder: ChannelRecorder, operands: list[Tensor], dim: int) -> list[ChannelLabels]:
    """Couple the operands' labels that do not depend on ``dim``; freeze those that some operand does not have.

    An operand that is uniform, or expanded along the dimensions that the labels depend on, fits any size.
    """
    by_dims = [{varying_dims(v): v for v in recorder.labels(t) if v.shape[dim] == 1} for t in operands]
    coupled = []
    for dims in {dims for labels in by_dims for dims in labels}:
        present = [labels[dims] for labels in by_dims if dims in labels]
        without = [t for t, labels in zip(operands, by_dims, strict=True) if dims not in labels]
        if all(recorder.info(t).uniform or not any(t.stride(d) for d in dims) for t in without):
            for labels in present[1:]:
                recorder.join(labels, present[0])
            coupled.append(present[0])
        else:
            recorder.freeze(present, FIXED_OPERAND)
    return coupled
