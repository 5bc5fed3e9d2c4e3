"""Rules for the operations that move entries without changing them: their fields are moved the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.labels import compress, expand_labels, pad_front, reshape_labels, varying_dims
from earlycrop.tracing.recorder import Arguments, ChannelRecorder, Options

aten: Any = torch.ops.aten
View: TypeAlias = Callable[[ChannelLabels, Tensor, Tensor, Arguments], ChannelLabels]


def _identity(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return f


def _view(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return reshape_labels(f, x.shape, y.shape)


def _permute(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return f.transpose([d % x.ndim for d in arguments[1]])


def _transpose(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return f.swapaxes(arguments[1], arguments[2])


def _t(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return f.T


def _expand(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return pad_front(f, y.ndim)


def _flip(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    return np.flip(f, tuple(d % x.ndim for d in arguments[1] if f.shape[d] > 1))


def _repeat(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    f = pad_front(f, y.ndim)
    return np.tile(f, [times if n > 1 else 1 for n, times in zip(f.shape, arguments[1], strict=True)])


def _shuffle(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    """Pixel shuffle: (N, C r r, H, W) to (N, C, H r, W r)."""
    n, c, h, w = x.shape
    r = arguments[1]
    split = reshape_labels(f, x.shape, (n, c // (r * r), r, r, h, w)).transpose(0, 1, 4, 2, 5, 3)
    return reshape_labels(split, (n, c // (r * r), h, r, w, r), y.shape)


def _unshuffle(f: ChannelLabels, x: Tensor, y: Tensor, arguments: Arguments) -> ChannelLabels:
    """The reverse: (N, C, H r, W r) to (N, C r r, H, W)."""
    n, c, h, w = x.shape
    r = arguments[1]
    split = reshape_labels(f, x.shape, (n, c, h // r, r, w // r, r)).transpose(0, 1, 3, 5, 2, 4)
    return reshape_labels(split, (n, c, r, r, h // r, w // r), y.shape)


VIEWS: dict[Any, View] = {
    **dict.fromkeys([aten.clone, aten._to_copy, aten.alias, aten.detach, aten.lift_fresh, aten.contiguous], _identity),
    **dict.fromkeys([aten.view, aten._unsafe_view, aten.reshape, aten.squeeze, aten.unsqueeze], _view),
    **dict.fromkeys([aten.squeeze_, aten.unsqueeze_], _view),
    aten.permute: _permute,
    **dict.fromkeys([aten.transpose, aten.transpose_], _transpose),
    **dict.fromkeys([aten.t, aten.t_], _t),
    aten.expand: _expand,
    aten.flip: _flip,
    aten.repeat: _repeat,
    aten.pixel_shuffle: _shuffle,
    aten.pixel_unshuffle: _unshuffle,
}


def view(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    x, y = arguments[0], results[0]
    if x is y:  # moved in place: the shape that it had is known, if anything is
        x = torch.empty(watch.known(y).shape, device="meta")
        watch.learn(x, watch.fields(y), weight=watch.known(y).weight)
    fields = [VIEWS[operation.overloadpacket](f, x, y, arguments) for f in watch.fields(x)]
    watch.rectangles += [f for f in fields if len(varying_dims(f)) > 1]
    watch.learn(y, fields, weight=watch.known(x).weight)


def channel_shuffle(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """(N, g C, ...) to (N, C g, ...): all of the g groups lose the same positions."""
    x, groups = arguments[:2]
    n, c, *rest = x.shape
    fields = []
    for f in watch.fields(x):
        split = reshape_labels(f, x.shape, (n, groups, c // groups, *rest))
        if split.shape[1] > 1:
            watch.join(split, split[:, :1])
        fields.append(reshape_labels(split.swapaxes(1, 2), (n, c // groups, groups, *rest), results[0].shape))
    watch.learn(results[0], fields)


SPLITS = {aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.unbind, aten.unsafe_split}


def split(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """Parts of equal size lose the same positions; a part that is no whole multiple of the others freezes them all."""
    x, packet = arguments[0], operation.overloadpacket
    dim = _split_dim(packet, arguments, options) % x.ndim
    fields: list[list[ChannelLabels]] = [[] for _ in results]
    for f in watch.fields(x):
        if f.shape[dim] == 1:
            for mine, y in zip(fields, results, strict=True):
                mine.append(f.reshape(f.shape[:dim] + f.shape[dim + 1 :]) if y.ndim < x.ndim else f)
            continue
        starts, width, step = _extent(packet, arguments, results, x, dim)
        if width == x.shape[dim]:
            pass
        elif step == 1 and x.shape[dim] % width == 0 and all(s % width == 0 for s in starts):
            split = np.moveaxis(f, dim, 0).reshape((-1, width, *np.moveaxis(f, dim, 0).shape[1:]))
            watch.join(split, split[:1])
        else:
            watch.freeze([f], "it is cut into parts of different sizes")
            continue
        for mine, y, start in zip(fields, results, starts, strict=True):
            n = y.shape[dim] if y.ndim == x.ndim else 1
            taken = compress(f.take(range(start, start + n * step, step), axis=dim))
            mine.append(taken.reshape(taken.shape[:dim] + taken.shape[dim + 1 :]) if y.ndim < x.ndim else taken)
    for y, mine in zip(results, fields, strict=True):
        watch.learn(y, mine, weight=watch.known(x).weight)


def split_shares(packet: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> Iterator[float]:
    """How much of the dimension each part has: a written size that was an eighth of it is not an eighth after a cut."""
    x = arguments[0]
    dim = _split_dim(packet, arguments, options) % x.ndim
    for y in results:
        if y.ndim == x.ndim and x.shape[dim]:
            yield y.shape[dim] / x.shape[dim]


def _split_dim(packet: Any, arguments: Arguments, options: Options) -> int:
    position = 1 if packet in (aten.slice, aten.select, aten.unbind) else 2
    return int(arguments[position] if len(arguments) > position else options.get("dim", 0))


def _extent(
    packet: Any, arguments: Arguments, results: list[Tensor], x: Tensor, dim: int
) -> tuple[list[int], int, int]:
    """Where each part starts, how wide the parts are (more than there is if they are not equal), and their step."""
    size = x.shape[dim]
    if packet is aten.slice:
        start = arguments[2] if len(arguments) > 2 and arguments[2] is not None else 0
        return [max(start + size if start < 0 else start, 0)], results[0].shape[dim], (*arguments[4:5], 1)[0]
    if packet is aten.select:
        return [arguments[2] % size], 1, 1
    widths = [1] * len(results) if packet is aten.unbind else [y.shape[dim] for y in results]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return starts, widths[0] if len(set(widths)) == 1 else size + 1, 1


def glu(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    """The first half, each entry times a function of its partner in the second."""
    x, y = arguments[0], results[0]
    dim = int(arguments[1] if len(arguments) > 1 else options.get("dim", -1)) % x.ndim
    fields = []
    for f in watch.fields(x):
        if f.shape[dim] > 1:
            first, second = np.split(f, 2, axis=dim)
            watch.join(second, first)
            f = first
        fields.append(f)
    watch.learn(y, fields)


def cat(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    """Along the dimension the channels follow each other; along the others they are joined."""
    y = results[0]
    dim = int(arguments[1] if len(arguments) > 1 else options.get("dim", 0)) % y.ndim
    operands = [t for t in arguments[0] if t.ndim == y.ndim]
    bent = [[f for f in watch.fields(t) if dim in varying_dims(f)] for t in operands]
    if all(len(fs) == 1 and varying_dims(fs[0]) == varying_dims(bent[0][0]) for fs in bent):
        fields = [np.concatenate([fs[0] for fs in bent], axis=dim)]
        watch.rectangles += [f for f in fields if len(varying_dims(f)) > 1]
    else:
        fields = _in_a_row(watch, operands, dim, y.ndim)
    watch.learn(y, fields + _joined(watch, operands, dim))


def _in_a_row(watch: ChannelRecorder, operands: list[Tensor], dim: int, ndim: int) -> list[ChannelLabels]:
    """The operands' channels along ``dim``, where they depend on nothing else; those of data may not be cut."""
    vectors = [watch.vector(t, dim) for t in operands]
    if all(v is None for v in vectors):
        return []
    whole = []
    for t, v in zip(operands, vectors, strict=True):
        if v is None:
            v = watch.fresh(t.shape[dim])
            watch.freeze([v], "it is concatenated with data of a fixed size")
        whole.append(v)
    return [expand_labels(np.concatenate(whole), dim, ndim)]


def _joined(watch: ChannelRecorder, operands: list[Tensor], dim: int) -> list[ChannelLabels]:
    """Fields that do not run along ``dim``, joined over the operands; what an operand lacks is frozen."""
    mine = [{varying_dims(f): f for f in watch.fields(t) if f.shape[dim] == 1} for t in operands]
    kept = []
    for where in {key for fields in mine for key in fields}:
        have = [fields[where] for fields in mine if where in fields]
        lacking = [t for t, fields in zip(operands, mine, strict=True) if where not in fields]
        if all(watch.known(t).uniform for t in lacking):
            for f in have[1:]:
                watch.join(f, have[0])
            kept.append(have[0])
        else:
            watch.freeze(have, "it is concatenated with data of a fixed size")
    return kept


def stack(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    operands, y = arguments[0], results[0]
    dim = int(arguments[1] if len(arguments) > 1 else options.get("dim", 0)) % y.ndim
    views = [t.unsqueeze(dim) for t in operands]
    for view, t in zip(views, operands, strict=True):
        watch.learn(view, [np.expand_dims(f, dim) for f in watch.fields(t)], uniform=watch.known(t).uniform)
    watch.learn(y, _joined(watch, views, dim))
