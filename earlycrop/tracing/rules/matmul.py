"""Rules for matrix products, convolutions and look-ups: what is summed over is joined, the other sides go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, CostTerm, Role
from earlycrop.tracing.labels import expand_labels, varying_dims
from earlycrop.tracing.recorder import Arguments, ChannelRecorder, Options


def _contract(
    watch: ChannelRecorder, a: Any, a_vector: ChannelLabels | None, b: Any, b_vector: ChannelLabels | None
) -> None:
    """Both run along the dimension that is summed over."""
    a_known, b_known = watch.known(a), watch.known(b)
    if a_known.weight:
        watch.role(a_vector, Role.COLUMN)
    if b_known.weight:
        watch.role(b_vector, Role.ROW if a_known.weight else Role.COLUMN)  # of two factors of a matrix one makes it
    if a_vector is not None and b_vector is not None:
        watch.join(a_vector, b_vector)
        if not (a_known.weight or b_known.weight):
            watch.activation_products.append(a_vector)
            if not (a_known.vanishes or b_known.vanishes):
                watch.freeze(
                    [a_vector], "a product of two activations is summed over it, which is not zero where it is masked"
                )
    elif not (a_known.uniform or b_known.uniform):
        watch.freeze([a_vector, b_vector], "it is multiplied with data of a fixed width, such as the network's input")


def _matrix_product(watch: ChannelRecorder, a: Tensor, b: Tensor) -> list[ChannelLabels]:
    a_inner, b_inner = watch.vector(a, 1), watch.vector(b, 0)
    a_rows, b_columns = watch.vector(a, 0, without=1), watch.vector(b, 1, without=0)
    _contract(watch, a, a_inner, b, b_inner)
    inner = b_inner if a_inner is None else a_inner
    _count_cost(watch, a.shape[0] * a.shape[1] * b.shape[1], (a_rows, inner, b_columns))
    for t, vector in ((a, a_rows), (b, b_columns)):
        if watch.known(t).weight:
            watch.role(vector, Role.ROW)
    return [expand_labels(v, d, 2) for d, v in enumerate((a_rows, b_columns)) if v is not None]


def _count_cost(watch: ChannelRecorder, total: int, vectors: Sequence[ChannelLabels | None]) -> None:
    axes = tuple(v for v in vectors if v is not None)
    for v in axes:
        total //= v.size
    watch.cost_terms.append(CostTerm(total, axes, watch.module))


def mm(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _matrix_product(watch, arguments[0], arguments[1]))


def mv(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    """A matrix and a vector: every row is multiplied with it."""
    a, b = arguments[:2]
    a_inner, b_inner = watch.vector(a, 1), watch.vector(b, 0)
    rows = watch.vector(a, 0, without=1)
    _contract(watch, a, a_inner, b, b_inner)
    _count_cost(watch, a.shape[0] * a.shape[1], (rows, b_inner if a_inner is None else a_inner))
    if watch.known(a).weight:
        watch.role(rows, Role.ROW)
    watch.learn(results[0], [] if rows is None else [rows])


def addmm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    bias, a, b = arguments[:3]
    watch.learn(results[0], _matrix_product(watch, a, b))
    _bias(watch, bias)
    watch.learn(results[0], watch.elementwise([bias, results[0]], 2))


def _bias(watch: ChannelRecorder, bias: Any) -> None:
    if isinstance(bias, Tensor) and bias.ndim == 1 and watch.known(bias).weight:
        watch.role(watch.vector(bias, 0), Role.ROW)


def _batched_product(watch: ChannelRecorder, a: Tensor, b: Tensor) -> list[ChannelLabels]:
    """A product for each index of the batch: channels that depend on that index go with it, whole (attention heads)."""

    def sides(
        t: Tensor, inner: int, outer: int
    ) -> tuple[ChannelLabels | None, ChannelLabels | None, ChannelLabels | None]:
        batch = None
        for f in watch.fields(t):
            if f.shape[0] > 1:
                by_index = f.reshape(f.shape[0], -1)
                watch.join(by_index, by_index[:, :1])
                if batch is not None:
                    watch.join(batch, by_index[:, 0])
                batch = by_index[:, 0] if batch is None else batch
        only = {
            varying_dims(f): f.reshape(-1) for f in watch.fields(t) if f.shape[0] == 1 and len(varying_dims(f)) == 1
        }
        bent = [f for f in watch.fields(t) if f.shape[0] == 1 and len(varying_dims(f)) > 1]
        watch.freeze(bent, "its channels depend on several dimensions at once here")
        return batch, only.get((inner,)), only.get((outer,))

    a_batch, a_inner, a_outer = sides(a, 2, 1)
    b_batch, b_inner, b_outer = sides(b, 1, 2)
    if a_batch is not None and b_batch is not None:
        watch.join(a_batch, b_batch)
        watch.activation_products.append(a_batch)
        watch.apart(a_batch)
        watch.apart(b_batch)
    elif not watch.known(b if b_batch is None else a).uniform:
        watch.freeze([a_batch, b_batch], "it is multiplied batch by batch with data of a fixed size")
    _contract(watch, a, a_inner, b, b_inner)
    batch = b_batch if a_batch is None else a_batch
    inner = b_inner if a_inner is None else a_inner
    _count_cost(watch, a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2], (batch, a_outer, inner, b_outer))
    return [expand_labels(v, d, 3) for d, v in enumerate((batch, a_outer, b_outer)) if v is not None]


def bmm(watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _batched_product(watch, arguments[0], arguments[1]))


def baddbmm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    watch.learn(results[0], _batched_product(watch, arguments[1], arguments[2]))
    watch.learn(results[0], watch.elementwise([arguments[0], results[0]], 3))


def convolution(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    x, weight, bias, *_, transposed, _, groups = arguments[:9]
    watch.freeze(
        [f for f in watch.fields(x) if max(varying_dims(f)) > 1], "it runs along the dimensions that are convolved"
    )
    rows, columns = watch.vector(weight, int(transposed)), watch.vector(weight, 1 - int(transposed))
    channels = watch.vector(x, 1)
    watch.freeze([watch.vector(weight, d) for d in range(2, weight.ndim)], "it is the extent of a kernel")
    if watch.known(weight).weight:
        watch.role(rows, Role.ROW)
    if groups == 1:
        _contract(watch, x, channels, weight, columns)
        outputs = rows
    else:
        outputs, rows, columns = _grouped(watch, weight, groups, channels, rows, columns, transposed)
    positions = results[0].numel() // results[0].shape[1] if not transposed else x.numel() // x.shape[1]
    _count_cost(watch, positions * weight.numel(), (rows, columns))
    watch.learn(results[0], [] if outputs is None else [expand_labels(outputs, 1, x.ndim)])
    if bias is not None:
        _bias(watch, bias)
        if outputs is None:
            watch.freeze(watch.fields(bias), "it is the bias of channels that may not be cut")
        elif watch.fields(bias):
            watch.join(outputs, watch.fields(bias)[0].reshape(-1))


def _grouped(
    watch: ChannelRecorder, weight: Tensor, groups: int, channels: ChannelLabels | None, rows: ChannelLabels | None,
    columns: ChannelLabels | None, transposed: bool,
) -> tuple[ChannelLabels | None, ChannelLabels | None, ChannelLabels | None]:  # fmt: skip
    """Nodes are whole groups, or positions within every group, whichever is finer.

    Gives the output channels, and the rows and columns of the weight that may be cut. A transposed weight has all input
    channels along its columns (dimension 0), and the outputs of one group along its rows.
    """
    if channels is None:
        channels = watch.fresh(groups * (weight.shape[0] // groups if transposed else weight.shape[1]))
        watch.freeze([channels], "it is convolved in groups with data of a fixed width")
    by_group = channels.reshape(groups, -1)
    whole = by_group.shape[1] == 1 or groups >= by_group.shape[1]
    if watch.same(by_group, by_group[:, :1]):  # known from a first run, as is the other case
        whole = True
    elif watch.same(by_group, by_group[:1]):
        whole = False
    if (columns if transposed or not whole else rows) is None:
        watch.freeze([channels], "the kernel that it is convolved with may not be cut")
    across = by_group[:, :1] if whole else by_group[:1]
    watch.join(by_group, across)
    if not transposed:
        outputs = None if rows is None else rows.reshape(groups, -1)
        if outputs is not None:
            watch.join(outputs, across if whole else outputs[:1])
        if columns is not None and whole:
            watch.freeze([columns], "it is a position within a group, and this convolution is cut by whole groups")
        elif columns is not None:
            watch.join(by_group, columns[None])
            watch.role(columns, Role.COLUMN)
        return rows, rows, None if whole else columns
    if columns is not None:
        watch.join(columns, channels)
        watch.role(columns, Role.COLUMN)
    if whole:
        watch.freeze([rows], "it is a position within a group, and this convolution is cut by whole groups")
        return np.repeat(by_group[:, 0], weight.shape[1]), None, columns
    return None if rows is None else np.tile(rows, groups), rows, columns
