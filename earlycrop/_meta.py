"""Run a network on shapes alone: its weights lie on torch's meta device, which has no memory and does no arithmetic.

torch's fake tensors do the same with more checks, at many times the cost for every operation of a new shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten: Any = torch.ops.aten
META = torch.device("meta")


class NeedsValues(RuntimeError):
    """The forward reads a value that was never computed."""


def hollow(t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor without memory like ``t``, a parameter if it is one; of another ``shape``, contiguous, if given."""
    if shape is None and t.layout == torch.strided:
        empty = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META)
    else:
        empty = torch.empty(t.shape if shape is None else shape, dtype=t.dtype, device=META)
    return nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty


class Weightless(TorchDispatchMode):
    """Operations that meet a tensor on the meta device are done there, whatever else they are given.

    Those on real tensors alone (a mask, indices, the batch before it enters the network) are done for real, so that a
    forward may look at their values; new tensors of floating numbers are made on the meta device.
    """

    def __init__(self, real: bool = False) -> None:
        """``real``: do everything for real, whatever it costs."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self._metas: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the operation gives."""
        if self.real:
            return func(*args, **kwargs)
        found = tensors_among(args, kwargs)
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
        if func in SHORTCUTS and any(on_meta) and not kwargs:
            known = SHORTCUTS[func](*args)
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


def _makes_floats(func: Any, options: Mapping[str, Any]) -> bool:
    if not any(argument.name == "device" for argument in func._schema.arguments):
        return False
    dtype = options.get("dtype")
    if dtype is None:
        return func.overloadpacket in FLOATS
    return bool(dtype.is_floating_point or dtype.is_complex)


FLOATS = {aten.zeros, aten.ones, aten.empty, aten.rand, aten.randn, aten.empty_strided}
"""Make floating numbers where no other type is asked for."""


def _batch_norm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    *per_channel, training, _, _ = rest
    if training or x.ndim < 2 or any(t is not None and tuple(t.shape) != (x.shape[1],) for t in per_channel):
        return None
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _layer_norm(x: Tensor, shape: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    over = tuple(shape)
    if tuple(x.shape[x.ndim - len(over) :]) != over or any(t is not None and tuple(t.shape) != over for t in rest[:2]):
        return None
    rows = [*x.shape[: x.ndim - len(over)], *[1] * len(over)]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(rows), x.new_empty(rows)


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or bias.shape != b.shape[1:] or a.dtype != b.dtype:
        return None
    return a.new_empty((a.shape[0], b.shape[1]))


def _alike(x: Any, *rest: Any) -> Tensor | None:
    """Entry by entry, on one tensor or two that broadcast."""
    other = rest[0] if rest else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or any(isinstance(r, Tensor) for r in rest[1:]):
        return None
    if not isinstance(other, Tensor):
        return torch.empty_like(x)
    if other.dtype != x.dtype:
        return None
    shape = x.shape if x.shape == other.shape else torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]
    return torch.empty_like(x if shape == x.shape else other) if shape in (x.shape, other.shape) else x.new_empty(shape)


def _itself(x: Any, *rest: Any) -> Tensor | None:
    """In place."""
    known = _alike(x, *rest)
    return x if known is not None and known.shape == x.shape else None


def _mean(x: Tensor, dims: Sequence[int], keep: bool = False) -> Tensor | None:
    if not dims or not x.is_floating_point() or any(not -x.ndim <= d < x.ndim for d in dims):
        return None
    over = {d % x.ndim for d in dims}
    return x.new_empty([1 if d in over else n for d, n in enumerate(x.shape) if keep or d not in over])


_ENTRYWISE = (
    *("gelu", "clamp", "clamp_min", "sigmoid", "silu", "tanh", "relu", "roll", "hardswish", "hardsigmoid"),
    *("rsqrt", "sqrt", "exp", "neg"),
)
SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
    aten.mean.dim: _mean,
    **{getattr(aten, name).default: _alike for name in _ENTRYWISE},
    **{getattr(aten, name).Tensor: _alike for name in ("add", "mul", "sub", "div")},
    **{getattr(aten, name).default: _itself for name in ("hardswish_", "silu_", "relu_", "hardtanh_", "hardsigmoid_")},
    **{getattr(aten, name).Tensor: _itself for name in ("add_", "mul_", "sub_", "div_")},
}  # fmt: skip
"""The shape of a result, which torch finds by dozens of operations; None: the sizes do not agree, and torch says so."""


class _Device(TorchFunctionMode):
    """Lets tensors on the meta device say that they are where the network is."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.device if isinstance(result, torch.device) and result.type == "meta" else result


@contextmanager
def on_shapes(mode: Weightless, device: torch.device) -> Iterator[None]:
    """Run under ``mode``; what it keeps on the meta device says that it is on ``device``.

    Without gradients; random states stay as they are.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _Device(device), mode:
        yield
