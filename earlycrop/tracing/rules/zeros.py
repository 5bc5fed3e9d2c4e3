"""Rules that say whether the entries of a result are zero when the parameters of their channels are zero.

They matter where two activations are multiplied and summed over a channel: a network without the channel equals a
network with the channel masked only if a masked channel is zero there. ``elu(k) + 1`` of a masked key is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules import splits, views

aten: Any = torch.ops.aten
ZeroRule: TypeAlias = Callable[[ChannelRecorder, Op], bool]


def aten_operations(names: str) -> set[Any]:
    """Return the ATen operations of these names that this version of torch has."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


def _all_inputs(recorder: ChannelRecorder, op: Op) -> bool:
    return all(info.zero_preserving for t in op.inputs if (info := recorder.info(t)).labels)


def _convolution(recorder: ChannelRecorder, op: Op) -> bool:
    """An output depends on its row of the weight and its bias, whatever the input."""
    return all(recorder.info(t).zero_preserving for t in op.args[1:3] if t is not None)


def _matrix_product(recorder: ChannelRecorder, op: Op) -> bool:
    """The channels of the result are those of the rows of ``a`` and of the columns of ``b``, and of the bias."""
    *bias, a, b = op.args[:3] if op.operation.overloadpacket is aten.addmm else op.args[:2]
    sides = [(a, 0), (b, 1)] if b.ndim > 1 else [(a, 0)]
    with_channels = [t for t, dim in sides if any(labels.shape[dim] > 1 for labels in recorder.labels(t))]
    return all(recorder.info(t).zero_preserving for t in (*bias, *with_channels))


def _sum(recorder: ChannelRecorder, op: Op) -> bool:
    terms = op.args[:2]
    has_constant = any(isinstance(n, int | float | complex) and n != 0 for n in terms)
    return not has_constant and all(recorder.info(t).zero_preserving for t in terms if isinstance(t, Tensor))


def _product(recorder: ChannelRecorder, op: Op) -> bool:
    infos = [recorder.info(t) for t in op.inputs]
    return any(info.zero_preserving for info in infos) or not any(info.labels for info in infos)


def _norm(recorder: ChannelRecorder, op: Op) -> bool:
    return all(isinstance(t, Tensor) and recorder.info(t).weight for t in op.args[1:3])


_FAMILIES: list[tuple[str, ZeroRule]] = [
    (
        "bmm baddbmm embedding embedding_bag cat stack index index_select gather native_dropout "
        "relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel elu elu_ celu gelu gelu_ silu silu_ tanh tanh_ "
        "hardswish hardswish_ hardtanh hardtanh_ mish mish_ neg abs sin sqrt square sign relu6 softsign hardshrink "
        "softshrink mean sum amax amin avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d constant_pad_nd glu channel_shuffle "
        "_weight_norm_interface",
        _all_inputs,
    ),
    ("mm mv addmm", _matrix_product),
    ("convolution", _convolution),
    ("add add_ sub sub_", _sum),
    ("mul mul_", _product),
    ("div div_ masked_fill masked_fill_", lambda recorder, op: recorder.info(op.args[0]).zero_preserving),
    (
        "native_batch_norm native_group_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_no_update",
        _norm,
    ),
]
ZERO_RULES: dict[Any, ZeroRule] = {
    **dict.fromkeys([*views.VIEWS, *splits.SPLITS], _all_inputs),
    **{operation: rule for names, rule in _FAMILIES for operation in aten_operations(names)},
}
"""ATen operation -> whether the entries of its result are zero when the parameters of their channels are zero.

The result of an operation without a rule is not zero.
"""
