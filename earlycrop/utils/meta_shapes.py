"""The shapes of common operations' results, which torch finds on its meta device by dozens of other operations.

Each rule is given an operation's arguments, all on the meta device, and gives its result there; or None where the sizes
do not agree or the form is another one, which torch then deals with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
META = torch.device("meta")


def _like(x: Tensor) -> Tensor:
    """A tensor as wide as ``x``, in the same order in memory."""
    return _made(x.shape, x) if x.is_contiguous() else torch.empty_like(x)


def _made(shape: Sequence[int], x: Tensor) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=META)


def _batch_norm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    *per_channel, training, _, _ = rest
    width = x.shape[1:2]
    if len(width) < 1 or any(t is not None and t.shape != width for t in per_channel):
        return None
    statistics = _made(width if training else (0,), x)
    return _like(x), statistics, statistics


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not -first.ndim <= dim < first.ndim or not all(t.is_contiguous() and t.dtype == first.dtype for t in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors if t.ndim == first.ndim)
    dim %= first.ndim
    same = (t.ndim == first.ndim and t.shape[:dim] == first.shape[:dim] for t in tensors)
    if not all(same) or any(t.shape[dim + 1 :] != first.shape[dim + 1 :] for t in tensors):
        return None
    return _made(shape, first)


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, added: Sequence[int], groups: int,
) -> Tensor | None:  # fmt: skip
    """Of n positions along a dimension are left (n + 2 padding - dilation (kernel - 1) - 1) // stride + 1."""
    nd = x.ndim - 2
    inputs = weight.shape[1] * groups
    if transposed or nd < 1 or weight.ndim != x.ndim or x.shape[1] != inputs or weight.shape[0] % groups:
        return None
    if x.dtype != weight.dtype or (bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1])):
        return None
    if not x.is_contiguous() or not weight.is_contiguous():  # channels last, perhaps, and so is the result
        return None
    stride, padding, dilation = (tuple(v) * nd if len(v) == 1 else v for v in (stride, padding, dilation))
    extents = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in extents]
    return _made((x.shape[0], weight.shape[0], *left), x) if min(left) > 0 else None


def _layer_norm(x: Tensor, shape: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    over = tuple(shape)
    if x.shape[x.ndim - len(over) :] != over or any(t is not None and t.shape != over for t in rest[:2]):
        return None
    rows = [*x.shape[: x.ndim - len(over)], *[1] * len(over)]
    return _made(x.shape, x), _made(rows, x), _made(rows, x)


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if bias.shape != b.shape[1:] or bias.dtype != a.dtype:
        return None
    return _mm(a, b)


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.dtype != b.dtype:
        return None
    return _made((a.shape[0], b.shape[1]), a)


def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1] or a.dtype != b.dtype:
        return None
    return _made((a.shape[0], a.shape[1], b.shape[2]), a)


def _alike(x: Any, *rest: Any) -> Tensor | None:
    """Entry by entry, on one tensor or two that broadcast."""
    other = rest[0] if rest else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or any(isinstance(r, Tensor) for r in rest[1:]):
        return None
    if not isinstance(other, Tensor):
        return _like(x)
    if other.dtype != x.dtype:
        return None
    if x.shape == other.shape or _fits(other.shape, x.shape):
        return _like(x)
    if _fits(x.shape, other.shape):
        return _like(other)
    shape = torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]
    return _made(shape, x)


def _fits(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether it broadcasts to the other."""
    return len(small) <= len(large) and all(n in (1, m) for n, m in zip(reversed(small), reversed(large), strict=False))


def _itself(x: Any, *rest: Any) -> Tensor | None:
    """In place."""
    known = _alike(x, *rest)
    return x if known is not None and known.shape == x.shape else None


def _mean(x: Tensor, dims: Sequence[int], keep: bool = False) -> Tensor | None:
    if not dims or not x.is_floating_point() or any(not -x.ndim <= d < x.ndim for d in dims):
        return None
    over = {d % x.ndim for d in dims}
    return _made([1 if d in over else n for d, n in enumerate(x.shape) if keep or d not in over], x)


_ENTRYWISE = (
    *("gelu", "clamp", "clamp_min", "sigmoid", "silu", "tanh", "relu", "roll", "hardswish", "hardsigmoid"),
    *("rsqrt", "sqrt", "exp", "neg"),
)
SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.convolution.default: _convolution,
    aten.cat.default: _cat,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.mean.dim: _mean,
    **{getattr(aten, name).default: _alike for name in _ENTRYWISE},
    **{getattr(aten, name).Tensor: _alike for name in ("add", "mul", "sub", "div")},
    **{getattr(aten, name).default: _itself for name in ("hardswish_", "silu_", "relu_", "hardtanh_", "hardsigmoid_")},
    **{getattr(aten, name).Tensor: _itself for name in ("add_", "mul_", "sub_", "div_")},
}  # fmt: skip
