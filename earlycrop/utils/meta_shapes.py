"""Shortcuts for the result shapes of common operations, for which torch runs dozens of others on the meta device.

A shortcut is given the arguments of an operation, all of them on the meta device, and returns its result there. It
returns None where the sizes do not fit or the call has another form; torch then runs the operation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
META = torch.device("meta")


def _empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the shape of ``x``, whose dimensions lie in the same order in memory."""
    dtype = dtype or x.dtype
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=dtype, device=META)
    if not all(x.stride()):  # it was expanded: its order says little
        return torch.empty_like(x, dtype=dtype)
    strides, n = [0] * x.ndim, 1
    for d in sorted(range(x.ndim), key=lambda d: (x.stride(d), -d)):
        strides[d], n = n, n * x.shape[d]
    return torch.empty_strided(x.shape, strides, dtype=dtype, device=META)


def _empty(shape: Sequence[int], x: Tensor) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=META)


def _batch_norm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    *per_channel, training, _, _ = rest
    width = x.shape[1:2]
    if len(width) < 1 or any(t is not None and t.shape != width for t in per_channel):
        return None
    statistics = _empty(width if training else (0,), x)
    return _empty_like(x), statistics, statistics


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not -first.ndim <= dim < first.ndim or not all(_is_row_major(t) and t.dtype == first.dtype for t in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors if t.ndim == first.ndim)
    dim %= first.ndim
    same = (t.ndim == first.ndim and t.shape[:dim] == first.shape[:dim] for t in tensors)
    if not all(same) or any(t.shape[dim + 1 :] != first.shape[dim + 1 :] for t in tensors):
        return None
    return _empty(shape, first)


def _is_row_major(x: Tensor) -> bool:
    """Return whether the dimensions lie in memory in their order, as in a contiguous tensor and in parts of one."""
    return x.is_contiguous() or all(a >= b > 0 for a, b in pairwise(x.stride()))


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    same = (t.shape == first.shape and t.dtype == first.dtype and _is_row_major(t) for t in tensors)
    if not -first.ndim - 1 <= dim <= first.ndim or not all(same):
        return None
    shape = list(first.shape)
    shape.insert(dim % (first.ndim + 1), len(tensors))
    return _empty(shape, first)


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """An index along one dimension."""
    given = [(d, index) for d, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(indices) > x.ndim or not x.is_contiguous():
        return None
    dim, index = given[0]
    if index.dtype != torch.long or not index.is_contiguous():
        return None
    return _empty((*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]), x)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor | None:
    """Each dimension has (n + 2 padding - dilation (kernel - 1) - 1) // stride + 1 positions."""
    *extents, transposed, _, groups = geometry
    nd = x.ndim - 2
    if transposed or nd < 1 or weight.ndim != x.ndim or x.shape[1] != weight.shape[1] * groups:
        return None
    if weight.shape[0] % groups or x.dtype != weight.dtype:
        return None
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        return None
    if not x.is_contiguous() or not weight.is_contiguous():  # perhaps channels last, and so is the result
        return None
    stride, padding, dilation = (tuple(v) * nd if len(v) == 1 else v for v in extents)
    dims = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    positions = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in dims]
    return _empty((x.shape[0], weight.shape[0], *positions), x) if min(positions) > 0 else None


def _layer_norm(x: Tensor, shape: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    over = tuple(shape)
    if x.shape[x.ndim - len(over) :] != over or any(t is not None and t.shape != over for t in rest[:2]):
        return None
    rows = [*x.shape[: x.ndim - len(over)], *[1] * len(over)]
    return _empty(x.shape, x), _empty(rows, x), _empty(rows, x)


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *sizes: Any) -> tuple[Tensor, ...] | None:
    samples, channels, positions, groups, _ = sizes
    if not x.is_contiguous() or x.numel() != samples * channels * positions or groups < 1 or channels % groups:
        return None
    if any(t is not None and (t.shape != (channels,) or t.dtype != x.dtype) for t in (weight, bias)):
        return None
    return _empty(x.shape, x), _empty((samples, groups), x), _empty((samples, groups), x)


def _upsample_like(nearest: Any) -> Callable[..., Tensor]:
    """Return a shortcut that runs an upsampling of the same size whose shapes torch computes in one step."""
    return lambda x, size, *rest: nearest(x, size)


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if bias.shape != b.shape[1:] or bias.dtype != a.dtype:
        return None
    return _mm(a, b)


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return None
    return _empty((a.shape[0], b.shape[1]), a)


def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1] or a.dtype != b.dtype:
        return None
    return _empty((a.shape[0], a.shape[1], b.shape[2]), a)


def _grouped_mm(a: Tensor, b: Tensor, *rest: Any) -> Tensor | None:
    """Ranges of rows, each multiplied by one of a stack of matrices; torch itself has shapes for bfloat16 alone."""
    if (
        a.ndim != 2
        or b.ndim != 3
        or a.shape[1] != b.shape[1]
        or a.dtype != b.dtype
        or any(r is not None for r in rest[1:])
    ):
        return None
    if any(n * a.element_size() % 16 for n in b.shape[1:]):  # torch says that strides must be aligned
        return None
    return _empty((a.shape[0], b.shape[2]), a)


def _elementwise(x: Any, *rest: Any) -> Tensor | None:
    """An elementwise operation on one tensor, or on two that broadcast."""
    other = rest[0] if rest else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or any(isinstance(r, Tensor | complex) for r in rest[1:]):
        return None
    if isinstance(other, complex):
        return None
    if not isinstance(other, Tensor):
        return _empty_like(x)
    if other.dtype != x.dtype:
        return None
    if x.shape == other.shape or _broadcasts_to(other.shape, x.shape):
        return _empty_like(x)
    if _broadcasts_to(x.shape, other.shape):
        return _empty_like(other)
    shape = torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]
    return _empty(shape, x)


def _compare(x: Any, *rest: Any) -> Tensor | None:
    result = _elementwise(x, *rest)
    return None if result is None else _empty_like(result, torch.bool)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if a.dtype != b.dtype or not (condition.is_contiguous() and a.is_contiguous() and b.is_contiguous()):
        return None
    shapes = (condition.shape, a.shape, b.shape)
    largest = max(shapes, key=lambda shape: (len(shape), prod(shape)))
    return _empty(largest, a) if all(_broadcasts_to(shape, largest) for shape in shapes) else None


def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor | None:
    if isinstance(value, complex) or not x.is_floating_point():
        return None
    return _where(mask, x, x) if _broadcasts_to(mask.shape, x.shape) else None


def _softmax(x: Tensor, dim: int, *dtype: Any) -> Tensor | None:
    if any(dtype) or not x.is_floating_point() or not x.is_contiguous() or not -x.ndim <= dim < x.ndim:
        return None
    return _empty(x.shape, x)


def _triangle(x: Tensor, *diagonal: int) -> Tensor | None:
    return _empty(x.shape, x) if x.ndim > 1 and x.is_contiguous() else None


def _broadcasts_to(small: Sequence[int], large: Sequence[int]) -> bool:
    return len(small) <= len(large) and all(n in (1, m) for n, m in zip(reversed(small), reversed(large), strict=False))


def _in_place(x: Any, *rest: Any) -> Tensor | None:
    """An elementwise operation that writes its result to ``x``."""
    result = _elementwise(x, *rest)
    return x if result is not None and result.shape == x.shape else None


def _mean(x: Tensor, dims: Sequence[int], keep: bool = False) -> Tensor | None:
    if not dims or not x.is_floating_point() or any(not -x.ndim <= d < x.ndim for d in dims):
        return None
    over = {d % x.ndim for d in dims}
    return _empty([1 if d in over else n for d, n in enumerate(x.shape) if keep or d not in over], x)


_ELEMENTWISE_NAMES = (
    "gelu clamp clamp_min sigmoid silu tanh relu roll hardswish hardsigmoid hardtanh leaky_relu elu softplus mish "
    "rsqrt sqrt exp log neg abs cos sin"
)
_IN_PLACE_NAMES = "hardswish_ silu_ relu_ hardtanh_ hardsigmoid_ leaky_relu_ elu_"
_ARITHMETIC_NAMES = "add mul sub div"
_COMPARISON_NAMES = "eq ne lt le gt ge"
SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.upsample_linear1d.default: _upsample_like(aten.upsample_nearest1d.default),
    aten.upsample_bilinear2d.default: _upsample_like(aten.upsample_nearest2d.default),
    aten.upsample_bicubic2d.default: _upsample_like(aten.upsample_nearest2d.default),
    aten.upsample_trilinear3d.default: _upsample_like(aten.upsample_nearest3d.default),
    aten.convolution.default: _convolution,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.index.Tensor: _index,
    aten.where.self: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _softmax,
    aten._safe_softmax.default: _softmax,
    aten.tril.default: _triangle,
    aten.triu.default: _triangle,
    aten.pow.Tensor_Scalar: _elementwise,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.mean.dim: _mean,
    **({aten._grouped_mm.default: _grouped_mm} if hasattr(aten, "_grouped_mm") else {}),
    **{getattr(aten, name).default: _elementwise for name in _ELEMENTWISE_NAMES.split()},
    **{getattr(aten, name).default: _in_place for name in _IN_PLACE_NAMES.split()},
    **{getattr(aten, name).Tensor: _elementwise for name in _ARITHMETIC_NAMES.split()},
    **{getattr(aten, name).Scalar: _elementwise for name in _ARITHMETIC_NAMES.split()},
    **{getattr(aten, f"{name}_").Tensor: _in_place for name in _ARITHMETIC_NAMES.split()},
    **{getattr(aten, f"{name}_").Scalar: _in_place for name in _ARITHMETIC_NAMES.split()},
    **{getattr(aten, name).Tensor: _compare for name in _COMPARISON_NAMES.split()},
    **{getattr(aten, name).Scalar: _compare for name in _COMPARISON_NAMES.split()},
}
"""ATen operation -> its shortcut."""
