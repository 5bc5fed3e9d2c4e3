"""Rules that say whether the entries of a result are zero when the parameters of their channels are zero.

They matter where two activations are multiplied and summed over a channel: a network without the channel equals a
network with the channel masked only if a masked channel is zero there. ``elu(k) + 1`` of a masked key is 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules import views

aten: Any = torch.ops.aten


def aten_operations(names: str) -> set[Any]:
    """Return the ATen operations of these names that this version of torch has."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


KEEP_ZERO = aten_operations(
    "bmm baddbmm embedding embedding_bag cat stack index index_select gather native_dropout "
    "relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel elu elu_ celu gelu gelu_ silu silu_ tanh tanh_ hardswish "
    "hardswish_ hardtanh hardtanh_ mish mish_ neg abs sin sqrt square sign relu6 softsign hardshrink softshrink "
    "mean sum amax amin avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d constant_pad_nd glu channel_shuffle "
    "_weight_norm_interface"
) | {*views.VIEWS, *views.SPLITS}
MATRIX_PRODUCTS = aten_operations("mm mv addmm")
SUMS = aten_operations("add add_ sub sub_")
PRODUCTS = aten_operations("mul mul_")
QUOTIENTS = aten_operations("div div_ masked_fill masked_fill_")
NORMS = aten_operations(
    "native_batch_norm native_group_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"
)


def is_zero_preserving(recorder: ChannelRecorder, packet: Any, op: Op) -> bool:
    """Return whether the entries of a result are zero when the parameters of their channels are zero.

    Args:
        recorder: The recorder of the run.
        packet: The operation without its overload.
        op: The operation.
    """
    if packet in MATRIX_PRODUCTS:
        return _is_matrix_product_zero_preserving(recorder, packet, op.args)
    if packet is aten.convolution:  # an output depends on its row of the weight and its bias, whatever the input
        return all(recorder.info(t).zero_preserving for t in op.args[1:3] if t is not None)
    if packet in KEEP_ZERO:
        return all(info.zero_preserving for t in op.inputs if (info := recorder.info(t)).labels)
    if packet in SUMS:
        terms = op.args[:2]
        has_constant = any(isinstance(n, int | float | complex) and n != 0 for n in terms)
        return not has_constant and all(recorder.info(t).zero_preserving for t in terms if isinstance(t, Tensor))
    if packet in PRODUCTS:
        infos = [recorder.info(t) for t in op.inputs]
        return any(info.zero_preserving for info in infos) or not any(info.labels for info in infos)
    if packet in QUOTIENTS:
        return recorder.info(op.args[0]).zero_preserving
    if packet in NORMS:
        return all(isinstance(t, Tensor) and recorder.info(t).weight for t in op.args[1:3])
    return False


def _is_matrix_product_zero_preserving(recorder: ChannelRecorder, packet: Any, args: tuple[Any, ...]) -> bool:
    """The channels of the result are those of the rows of ``a`` and of the columns of ``b``, and of the bias."""
    *bias, a, b = args[:3] if packet is aten.addmm else args[:2]
    sides = [(a, 0), (b, 1)] if b.ndim > 1 else [(a, 0)]
    with_channels = [t for t, dim in sides if any(labels.shape[dim] > 1 for labels in recorder.labels(t))]
    return all(recorder.info(t).zero_preserving for t in (*bias, *with_channels))
