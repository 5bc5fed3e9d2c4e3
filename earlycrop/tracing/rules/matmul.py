"""Rules for matrix products and convolutions: channels that are summed over are coupled, the others are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, CostTerm, Role
from earlycrop.tracing.labels import expand_labels, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder

Channels: TypeAlias = ChannelLabels | None
"""The channels along one dimension, or None if there are none."""
ALIGNED = 8
"""Channels that are cut together where a kernel needs strides of multiples of 16 bytes."""
WITHIN_GROUP = "it is a position within a group, and this convolution is cut by whole groups"


def product(recorder: ChannelRecorder, op: Op) -> None:
    """The columns of the first matrix are coupled with the rows of the second, or with the entries of a vector.

    So it is in each matrix of a batch; channels that depend on the matrix (attention heads) are kept whole.
    """
    recorder.set_info(op.results[0], _multiply(recorder, *op.args[:2]))


def biased_product(recorder: ChannelRecorder, op: Op) -> None:
    """As for ``product``, and the first argument is coupled with the result."""
    bias, a, b = op.args[:3]
    result = op.results[0]
    recorder.set_info(result, _multiply(recorder, a, b))
    if result.ndim == 2:
        _add_bias_role(recorder, bias)
    recorder.set_info(result, recorder.elementwise([bias, result], result.ndim))


def grouped_product(recorder: ChannelRecorder, op: Op) -> None:
    """Rows of a matrix in ranges, each multiplied by a matrix of its own out of a stack (the experts of a mixture).

    The kernels need strides of multiples of 16 bytes, so that 8 channels are coupled, which suits half precision too.
    Which matrix is used is decided by data, and all of them stay.
    """
    a, b = op.args[:2]
    if (a.ndim, b.ndim) != (2, 3) or op.argument(3, "bias", None) is not None:
        raise ValueError("not a stack of matrices")
    recorder.freeze([recorder.labels_along(a, 0, without=1)], "its rows are distributed among matrices")
    recorder.freeze([recorder.labels_along(b, 0)], "which of these matrices is used is decided by data")
    a_columns, b_rows, columns = recorder.labels_along(a, 1), recorder.labels_along(b, 1), recorder.labels_along(b, 2)
    _contract(recorder, a, a_columns, b, b_rows)
    if recorder.info(b).weight:
        recorder.add_role(columns, Role.ROW)
    for channels in (b_rows, columns):
        if channels is not None and channels.size % ALIGNED:
            recorder.freeze([channels], f"its kernel needs a multiple of {ALIGNED} channels")
        elif channels is not None:
            by_run = channels.reshape(-1, ALIGNED)
            recorder.join(by_run, by_run[:, :1])
    _count_cost(recorder, a.numel() * b.shape[2], (_first_not_none(a_columns, b_rows), columns))
    recorder.set_info(op.results[0], _stack_dims(None, columns))


def convolution(recorder: ChannelRecorder, op: Op) -> None:
    """The input's channels are coupled with the weight's columns, and its rows and bias become the output's channels.

    Channels along a dimension that is convolved are frozen, and those that depend on it as well are coupled along it.
    """
    x, weight, bias, *_, transposed, _, groups = op.args[:9]
    spatial = set(range(2, x.ndim))
    kept = recorder.couple_or_freeze_along(
        recorder.labels(x), spatial, "it runs along the dimensions that are convolved"
    )
    recorder.freeze([labels for labels in kept if labels.shape[1] == 1], "it runs along the samples of a convolution")
    rows = recorder.labels_along(weight, int(transposed))
    columns = recorder.labels_along(weight, 1 - int(transposed))
    channels = recorder.labels_along(x, 1)
    kernel = [recorder.labels_along(weight, d) for d in range(2, weight.ndim)]
    recorder.freeze(kernel, "it is a spatial dimension of a kernel")
    if recorder.info(weight).weight:
        recorder.add_role(rows, Role.ROW)
    if groups == 1:
        _contract(recorder, x, channels, weight, columns)
        outputs = rows
    else:
        if channels is None:
            channels = recorder.new_channels(x.shape[1])
            recorder.freeze([channels], "it is convolved in groups with data of a fixed width")
        by_group = channels.reshape(groups, -1)
        if transposed:
            outputs, rows, columns = _contract_groups_transposed(recorder, weight, by_group, rows, columns)
        else:
            outputs, rows, columns = _contract_groups(recorder, by_group, rows, columns)
    positions = x.numel() // x.shape[1] if transposed else op.results[0].numel() // op.results[0].shape[1]
    _count_cost(recorder, positions * weight.numel(), (rows, columns))
    recorder.set_info(op.results[0], [] if outputs is None else [expand_labels(outputs, 1, x.ndim)])
    if bias is not None:
        _add_bias_role(recorder, bias)
        if outputs is None:
            recorder.freeze(recorder.labels(bias), "it is the bias of channels that may not be cut")
        elif recorder.labels(bias):
            recorder.join(outputs, recorder.labels(bias)[0].reshape(-1))


def _contract(recorder: ChannelRecorder, a: Any, a_channels: Channels, b: Any, b_channels: Channels) -> None:
    """Couple the channels of two tensors along the dimension that is summed over."""
    a_info, b_info = recorder.info(a), recorder.info(b)
    if a_info.weight:
        recorder.add_role(a_channels, Role.COLUMN)
    if b_info.weight:  # of two weights that are multiplied, the first one consumes what the second one produces
        recorder.add_role(b_channels, Role.ROW if a_info.weight else Role.COLUMN)
    if a_channels is not None and b_channels is not None:
        recorder.join(a_channels, b_channels)
        if not (a_info.weight or b_info.weight):
            recorder.activation_products.append(a_channels)
            if not (a_info.zero_preserving or b_info.zero_preserving):
                why = "a product of two activations is summed over it, and is not zero where the channel is masked"
                recorder.freeze([a_channels], why)
    elif not (a_info.uniform or b_info.uniform):
        why = "it is multiplied with data of a fixed width, such as the network's input"
        recorder.freeze([a_channels, b_channels], why)


def _multiply(recorder: ChannelRecorder, a: Tensor, b: Tensor) -> list[ChannelLabels]:
    """Record a product of two matrices, a matrix and a vector, or two batches, and return the labels of its result."""
    if a.ndim == 3:
        return _multiply_batches(recorder, a, b)
    a_columns, b_rows = recorder.labels_along(a, 1), recorder.labels_along(b, 0)
    rows = recorder.labels_along(a, 0, without=1)
    columns = recorder.labels_along(b, 1, without=0) if b.ndim == 2 else None
    _contract(recorder, a, a_columns, b, b_rows)
    axes = rows, _first_not_none(a_columns, b_rows), columns
    _count_cost(recorder, a.numel() * b.shape[1:].numel(), axes)
    for t, channels in ((a, rows), (b, columns)):
        if recorder.info(t).weight:
            recorder.add_role(channels, Role.ROW)
    return _stack_dims(*(rows, columns)[: b.ndim])


def _multiply_batches(recorder: ChannelRecorder, a: Tensor, b: Tensor) -> list[ChannelLabels]:
    """Record a product of two batches of matrices, and return the labels of its result."""
    a_batch, rows, a_columns = _labels_of_batch(recorder, a)
    b_batch, b_rows, columns = _labels_of_batch(recorder, b)
    if a_batch is not None and b_batch is not None:
        recorder.join(a_batch, b_batch)
        recorder.activation_products.append(a_batch)
        recorder.mark_distinct(a_batch)
        recorder.mark_distinct(b_batch)
    elif not recorder.info(b if b_batch is None else a).uniform:
        recorder.freeze([a_batch, b_batch], "it is multiplied batch by batch with data of a fixed size")
    _contract(recorder, a, a_columns, b, b_rows)
    batch = _first_not_none(a_batch, b_batch)
    _count_cost(recorder, a.numel() * b.shape[2], (batch, rows, _first_not_none(a_columns, b_rows), columns))
    return _stack_dims(batch, rows, columns)


def _labels_of_batch(recorder: ChannelRecorder, t: Tensor) -> tuple[Channels, Channels, Channels]:
    """Return the channels of a batch of matrices along each of its three dimensions.

    Labels that depend on the batch are coupled along the other dimensions, so that whole matrices are cut.
    """
    batch: Channels = None
    along: dict[int, ChannelLabels] = {}
    mixed = []
    for labels in recorder.labels(t):
        dims = varying_dims(labels)
        if labels.shape[0] > 1:
            by_index = labels.reshape(labels.shape[0], -1)
            recorder.join(by_index, by_index[:, :1])
            if batch is not None:
                recorder.join(batch, by_index[:, 0])
            else:
                batch = by_index[:, 0]
        elif len(dims) == 1:
            along[dims[0]] = labels.reshape(-1)
        else:
            mixed.append(labels)
    recorder.freeze(mixed, "its channels depend on several dimensions at once")
    return batch, along.get(1), along.get(2)


def _contract_groups(
    recorder: ChannelRecorder, by_group: ChannelLabels, rows: Channels, columns: Channels
) -> tuple[Channels, Channels, Channels]:
    """Couple the input's channels with those of the weight of a grouped convolution.

    Either whole groups are cut or the same positions in every group, whichever is finer. ``by_group`` are the channels
    of the input, a row a group.

    Returns:
        The channels of the output, and the rows and columns of the weight that may be cut.
    """
    cuts_groups = _cuts_whole_groups(recorder, by_group)
    if (rows if cuts_groups else columns) is None:
        recorder.freeze([by_group.reshape(-1)], "the kernel that it is convolved with may not be cut")
    first = by_group[:, :1] if cuts_groups else by_group[:1]
    recorder.join(by_group, first)
    if rows is not None:
        outputs = rows.reshape(by_group.shape[0], -1)
        recorder.join(outputs, first if cuts_groups else outputs[:1])
    if columns is not None and cuts_groups:
        recorder.freeze([columns], WITHIN_GROUP)
    elif columns is not None:
        recorder.join(by_group, columns[None])
        recorder.add_role(columns, Role.COLUMN)
    return rows, rows, None if cuts_groups else columns


def _contract_groups_transposed(
    recorder: ChannelRecorder, weight: Tensor, by_group: ChannelLabels, rows: Channels, columns: Channels
) -> tuple[Channels, Channels, Channels]:
    """The same for a transposed convolution: its weight has a column an input channel, and the rows of one group."""
    channels = by_group.reshape(-1)
    cuts_groups = _cuts_whole_groups(recorder, by_group)
    if columns is None:
        recorder.freeze([channels], "the kernel that it is convolved with may not be cut")
    recorder.join(by_group, by_group[:, :1] if cuts_groups else by_group[:1])
    if columns is not None:
        recorder.join(columns, channels)
        recorder.add_role(columns, Role.COLUMN)
    if cuts_groups:
        recorder.freeze([rows], WITHIN_GROUP)
        return np.repeat(by_group[:, 0], weight.shape[1]), None, columns
    return None if rows is None else np.tile(rows, by_group.shape[0]), rows, columns


def _cuts_whole_groups(recorder: ChannelRecorder, by_group: ChannelLabels) -> bool:
    """Return whether a grouped convolution is cut by whole groups; a trial cut does as the first run."""
    groups, width = by_group.shape
    if recorder.is_same(by_group, by_group[:, :1]):
        return True
    if recorder.is_same(by_group, by_group[:1]):
        return False
    return bool(width == 1 or groups >= width)


def _count_cost(recorder: ChannelRecorder, macs: int, axes: Sequence[Channels]) -> None:
    """Record the multiply-accumulates of an operation as a product over the channels of these axes."""
    vectors = tuple(channels for channels in axes if channels is not None)
    for channels in vectors:
        macs //= channels.size
    recorder.cost_terms.append(CostTerm(macs, vectors, recorder.module))


def _add_bias_role(recorder: ChannelRecorder, bias: Any) -> None:
    if isinstance(bias, Tensor) and bias.ndim == 1 and recorder.info(bias).weight:
        recorder.add_role(recorder.labels_along(bias, 0), Role.ROW)


def _stack_dims(*dims: Channels) -> list[ChannelLabels]:
    """Return the labels of a tensor from the channels along each of its dimensions."""
    return [expand_labels(channels, d, len(dims)) for d, channels in enumerate(dims) if channels is not None]


def _first_not_none(a: Channels, b: Channels) -> Channels:
    return b if a is None else a
