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
        found: list[Tensor] = []
        _gather(args, found)
        if kwargs:
            _gather(tuple(kwargs.values()), found)
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


def _alike(x: Tensor, *rest: Any) -> Tensor | None:
    return torch.empty_like(x) if x.is_floating_point() and not any(isinstance(r, Tensor) for r in rest) else None


SHORTCUTS: dict[Any, Callable[..., Any]] = {
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
    **dict.fromkeys(
        [aten.gelu.default, aten.clamp.default, aten.clamp_min.default, aten.sigmoid.default, aten.silu.default,
         aten.tanh.default, aten.relu.default, aten.roll.default],
        _alike,
    ),
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
