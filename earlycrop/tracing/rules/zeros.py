"""Whether a tensor's entries are zero once all parameters that make their channels are.

Where two activations are multiplied and summed over a channel, only then is the network without the channel the network
in which it is masked: ``elu(k) + 1`` of a masked key is 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules import views

aten: Any = torch.ops.aten


def _aten_operations(names: str) -> set[Any]:
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


KEEP_ZERO = _aten_operations(
    "bmm baddbmm embedding embedding_bag cat stack index index_select gather native_dropout "
    "relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel elu elu_ celu gelu gelu_ silu silu_ tanh tanh_ hardswish "
    "hardswish_ hardtanh hardtanh_ mish mish_ neg abs sin sqrt square sign relu6 softsign hardshrink softshrink "
    "mean sum amax amin avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d constant_pad_nd glu channel_shuffle "
    "_weight_norm_interface"
) | {*views.VIEWS, *views.SPLITS}
PRODUCTS_OF_MATRICES = _aten_operations("mm mv addmm")
SUMS = _aten_operations("add add_ sub sub_")
PRODUCTS = _aten_operations("mul mul_")
QUOTIENTS = _aten_operations("div div_ masked_fill masked_fill_")
NORMS = _aten_operations(
    "native_batch_norm native_group_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"
)


def is_zero_preserving(watch: ChannelRecorder, packet: Any, arguments: tuple[Any, ...], tensors: list[Tensor]) -> bool:
    """Whether the result of an operation on these ``tensors`` vanishes with its channels' parameters."""
    if packet in PRODUCTS_OF_MATRICES:
        return _of_matrices(watch, packet, arguments)
    if packet is aten.convolution:  # an output is its row of the weight, and its bias, whatever comes in
        return all(watch.known(t).vanishes for t in arguments[1:3] if t is not None)
    if packet in KEEP_ZERO:
        return all(known.vanishes for t in tensors if (known := watch.known(t)).fields)
    if packet in SUMS:
        whole = [t for t in arguments[:2] if isinstance(t, Tensor)]
        shifted = any(isinstance(n, int | float | complex) and n != 0 for n in arguments[:2])
        return not shifted and all(watch.known(t).vanishes for t in whole)
    if packet in PRODUCTS:
        return any(watch.known(t).vanishes for t in tensors) or not any(watch.fields(t) for t in tensors)
    if packet in QUOTIENTS:
        return watch.known(arguments[0]).vanishes
    if packet in NORMS:
        return all(isinstance(t, Tensor) and watch.known(t).weight for t in arguments[1:3])
    return False


def _of_matrices(watch: ChannelRecorder, packet: Any, arguments: tuple[Any, ...]) -> bool:
    """What is summed over does not matter: a result's channels are those of the first one's rows and the second one's
    columns.
    """
    *bias, a, b = arguments[:3] if packet is aten.addmm else arguments[:2]
    sides = [(a, 0), (b, 1)] if b.ndim > 1 else [(a, 0)]
    free = [t for t, dim in sides if any(f.shape[dim] > 1 for f in watch.fields(t))]
    return all(watch.known(t).vanishes for t in (*bias, *free))
