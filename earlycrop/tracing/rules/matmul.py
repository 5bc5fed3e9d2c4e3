"""Rules for matrix products and convolutions: channels that are summed over are coupled, the others are kept."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels, varying_dims
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules.contraction import Channels, add_bias_role, contract, contract_all, cost_axes, count_cost

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
        add_bias_role(recorder, bias)
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
    contract(recorder, a, a_columns, b, b_rows)
    if recorder.info(b).weight:
        recorder.add_role(columns, Role.ROW)
    for channels in (b_rows, columns):
        if channels is not None and channels.size % ALIGNED:
            recorder.freeze([channels], f"its kernel needs a multiple of {ALIGNED} channels")
        elif channels is not None:
            by_run = channels.reshape(-1, ALIGNED)
            recorder.join(by_run, by_run[:, :1])
    count_cost(recorder, a.numel() * b.shape[2], (b_rows if a_columns is None else a_columns, columns))
    recorder.set_info(op.results[0], _stack_dims([], [] if columns is None else [columns]))


def bilinear(recorder: ChannelRecorder, op: Op) -> None:
    """``x W[i] y`` for each output i: both inputs are coupled with the columns of the weight."""
    x, weight, y, *dims = op.args[:7]
    if dims != [[1, 3], [0], [1, 2], [2, 3]]:
        raise ValueError("this is not the product of a bilinear layer")
    rows = recorder.labels_along(weight, 0)
    recorder.add_role(rows, Role.ROW)
    columns = []
    for t, dim in ((x, 1), (y, 2)):
        recorder.freeze([labels for labels in recorder.labels(t) if labels.shape[0] > 1], "it is a batch dimension")
        columns.append(recorder.labels_along(weight, dim))
        contract(recorder, t, recorder.labels_along(t, 1), weight, columns[-1])
    count_cost(recorder, x.shape[0] * weight.numel(), (rows, *columns))
    recorder.set_info(op.results[0], [] if rows is None else [expand_labels(rows, 1, 2)])


def distance(recorder: ChannelRecorder, op: Op) -> None:
    """The columns of both matrices are coupled, as two zeros add nothing to a distance. All rows are kept."""
    tensors = op.args[:2]
    a, b = (recorder.vectors_along(t, t.ndim - 1) for t in tensors)
    if (len(a), len(b)) != (1, 1):
        recorder.freeze([*a, *b], "a distance to data of a fixed width is summed over it")
    elif all(recorder.info(t).zero_preserving for t in tensors):
        recorder.join(a[0], b[0])
        recorder.activation_products.append(a[0])
    else:
        recorder.freeze([*a, *b], "a distance is summed over it, and is not zero where the channel is masked")
    for t in tensors:
        rows = [labels for labels in recorder.labels(t) if labels.shape[-1] == 1]
        recorder.freeze(rows, "distances are taken between its entries")
    recorder.set_info(op.results[0])


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
        contract(recorder, x, channels, weight, columns)
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
    count_cost(recorder, positions * weight.numel(), (rows, columns))
    recorder.set_info(op.results[0], [] if outputs is None else [expand_labels(outputs, 1, x.ndim)])
    if bias is not None:
        add_bias_role(recorder, bias)
        if outputs is None:
            recorder.freeze(recorder.labels(bias), "it is the bias of channels that may not be cut")
        elif recorder.labels(bias):
            recorder.join(outputs, recorder.labels(bias)[0].reshape(-1))


def _multiply(recorder: ChannelRecorder, a: Tensor, b: Tensor) -> list[ChannelLabels]:
    """Record a product of two matrices, a matrix and a vector, or two batches, and return the labels of its result."""
    if a.ndim == 3:
        return _multiply_batches(recorder, a, b)
    a_columns, b_rows = recorder.vectors_along(a, 1), recorder.vectors_along(b, 0)
    rows = recorder.vectors_along(a, 0, without=1)
    columns = recorder.vectors_along(b, 1, without=0) if b.ndim == 2 else []
    contract_all(recorder, a, a_columns, b, b_rows)
    entries = a._nnz() if a.is_sparse else a.numel()
    count_cost(recorder, entries * b.shape[1:].numel(), cost_axes(rows, a_columns or b_rows, columns))
    for t, vectors in ((a, rows), (b, columns)):
        if recorder.info(t).weight:
            for vector in vectors:
                recorder.add_role(vector, Role.ROW)
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
    contract_all(recorder, a, a_columns, b, b_rows)
    batch = [vector for vector in (a_batch, b_batch) if vector is not None][:1]
    count_cost(recorder, a.numel() * b.shape[2], cost_axes(batch, rows, a_columns or b_rows, columns))
    return _stack_dims(batch, rows, columns)


def _labels_of_batch(recorder: ChannelRecorder, t: Tensor) -> tuple[Channels, list[ChannelLabels], list[ChannelLabels]]:
    """Return the channels of a batch of matrices along each of its three dimensions.

    Labels that depend on the batch are coupled along the other dimensions, so that whole matrices are cut.
    """
    batch: Channels = None
    along: dict[int, list[ChannelLabels]] = {1: [], 2: []}
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
            along[dims[0]].append(labels.reshape(-1))
        else:
            mixed.append(labels)
    recorder.freeze(mixed, "its channels depend on several dimensions at once")
    return batch, along[1], along[2]


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


def _stack_dims(*dims: list[ChannelLabels]) -> list[ChannelLabels]:
    """Return the labels of a tensor from the channels along each of its dimensions."""
    return [expand_labels(vector, d, len(dims)) for d, vectors in enumerate(dims) for vector in vectors]
