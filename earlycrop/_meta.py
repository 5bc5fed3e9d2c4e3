"""Run a network on shapes alone: its weights lie on torch's meta device, which has no memory and does no arithmetic.

torch's fake tensors do the same with more checks, at many times the cost for every operation of a new shape.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

aten: Any = torch.ops.aten
META = torch.device("meta")


class NeedsValues(RuntimeError):
    """The forward reads a value that was never computed."""


class _Within(threading.local):
    """operation: whether torch's own code is at work on the meta device, and must not be told another."""

    operation = False


_within = _Within()


@cache
def _at(device: torch.device) -> tuple[type[Tensor], type[nn.Parameter]]:
    """Classes of tensors and parameters on the meta device that say that they are on ``device``, where the network is.

    Results of operations are given the class afterwards: nothing is called more often for it.
    """
    told = property(lambda self: META if _within.operation else device)
    body = {"__torch_function__": torch._C._disabled_torch_function_impl, "device": told}
    return type("Hollow", (Tensor,), body), type("HollowParameter", (nn.Parameter,), body)


def hollow(t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor without memory like ``t``, a parameter if it is one; of another ``shape``, contiguous, if given.

    It says that it is where ``t`` is.
    """
    is_parameter = isinstance(t, nn.Parameter)
    trained = is_parameter and t.requires_grad
    if shape is None and t.layout == torch.strided:
        empty = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META, requires_grad=trained)
    else:
        empty = torch.empty(t.shape if shape is None else shape, dtype=t.dtype, device=META, requires_grad=trained)
    empty.__class__ = _at(t.device)[is_parameter]
    return empty


class Weightless(TorchDispatchMode):
    """Operations that meet a tensor on the meta device are done there, whatever else they are given.

    Those on real tensors alone (a mask, indices, the batch before it enters the network) are done for real, so that a
    forward may look at their values; new tensors of floating numbers are made on the meta device. All that is there
    says that it is on ``device``.
    """

    def __init__(self, device: torch.device, real: bool = False) -> None:
        """``real``: do everything for real, whatever it costs."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self._disguise = _at(device)[0]
        self._metas: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, so that torch does not import its compiler, which takes seconds, and wrap every operation with it."""
        return False

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: list[Tensor]) -> Any:
        """What the operation gives; ``found``: the tensors among its arguments."""
        if self.real:
            return func(*args, **kwargs)
        _within.operation = True
        try:
            result = self._run(func, args, kwargs, found)
        finally:
            _within.operation = False
        if type(result) is Tensor:
            if result.is_meta:
                result.__class__ = self._disguise
        elif not isinstance(result, Tensor):
            for t in tree_leaves(result):
                if type(t) is Tensor and t.is_meta:
                    t.__class__ = self._disguise
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: list[Tensor]) -> Any:
        on_meta = [t.is_meta for t in found]
        if not found:
            if _makes_floats(func, kwargs):
                kwargs = {**kwargs, "device": META}
        elif any(on_meta):
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": META}
            if not all(on_meta):
                if func._schema.is_mutable and not on_meta[0]:
                    raise NeedsValues("a real tensor is written to with what was never computed")
                args, kwargs = self._on_meta(args), {k: self._on_meta(v) for k, v in kwargs.items()}
            if not kwargs and (shortcut := SHORTCUTS.get(func)) is not None:
                known = shortcut(*args)
                if known is not None:
                    return known
        return func(*args, **kwargs)

    def _on_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            if value not in self._metas:
                self._metas[value] = hollow(value.detach())
            return self._metas[value]
        if isinstance(value, list | tuple):
            return type(value)(self._on_meta(v) for v in value)
        return value


def tensors_among(arguments: Sequence[Any], options: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation is given, in lists too."""
    found: list[Tensor] = []
    _gather(arguments, found)
    if options:
        _gather(tuple(options.values()), found)
    return found


def _gather(values: Sequence[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            _gather(value, found)


@cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _makes_floats(func: Any, options: Mapping[str, Any]) -> bool:
    if not _takes_device(func):
        return False
    dtype = options.get("dtype")
    if dtype is None:
        return func.overloadpacket in FLOATS
    return bool(dtype.is_floating_point or dtype.is_complex)


FLOATS = {aten.zeros, aten.ones, aten.empty, aten.rand, aten.randn, aten.empty_strided}
"""Make floating numbers where no other type is asked for."""


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
"""The shape of a result, which torch finds by dozens of operations; None: the sizes do not agree, and torch says so."""


@contextmanager
def on_shapes(mode: Weightless) -> Iterator[None]:
    """Run under ``mode``, without gradients; random states stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), mode:
        yield
