"""Run a network on shapes alone: its weights lie on torch's meta device, which has no memory and does no arithmetic.

torch's fake tensors do the same with more checks, at many times the cost for every operation of a new shape.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from earlycrop.utils.meta_shapes import META, SHORTCUTS

aten: Any = torch.ops.aten


class NeedsValuesError(RuntimeError):
    """The forward reads a value that was never computed."""


class _ThreadState(threading.local):
    """operation: whether torch's own code is at work on the meta device, and must not be told another."""

    operation = False


_thread_state = _ThreadState()


@cache
def _meta_classes(device: torch.device) -> tuple[type[Tensor], type[nn.Parameter]]:
    """Classes of tensors and parameters on the meta device that say that they are on ``device``, where the network is.

    Results of operations are given the class afterwards: nothing is called more often for it.
    """
    told = property(lambda self: META if _thread_state.operation else device)
    body = {"__torch_function__": torch._C._disabled_torch_function_impl, "device": told}
    return type("Hollow", (Tensor,), body), type("HollowParameter", (nn.Parameter,), body)


def meta_like(t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor without memory like ``t``, a parameter if it is one; of another ``shape``, contiguous, if given.

    It says that it is where ``t`` is.
    """
    is_parameter = isinstance(t, nn.Parameter)
    trained = is_parameter and t.requires_grad
    if shape is None and t.layout == torch.strided:
        empty = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META, requires_grad=trained)
    else:
        empty = torch.empty(t.shape if shape is None else shape, dtype=t.dtype, device=META, requires_grad=trained)
    empty.__class__ = _meta_classes(t.device)[is_parameter]
    return empty


class MetaMode(TorchDispatchMode):
    """Operations that meet a tensor on the meta device are done there, whatever else they are given.

    Those on real tensors alone (a mask, indices, the batch before it enters the network) are done for real, so that a
    forward may look at their values; new tensors of floating numbers are made on the meta device. All that is there
    says that it is on ``device``.
    """

    def __init__(self, device: torch.device, real: bool = False) -> None:
        """``real``: do everything for real, whatever it costs."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self._disguise = _meta_classes(device)[0]
        self._metas: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, so that torch does not import its compiler, which takes seconds, and wrap every operation with it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {}, tensor_arguments(args, kwargs or {}))

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: list[Tensor]) -> Any:
        """What the operation gives; ``found``: the tensors among its arguments."""
        if self.real:
            return func(*args, **kwargs)
        _thread_state.operation = True
        try:
            result = self._run(func, args, kwargs, found)
        finally:
            _thread_state.operation = False
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
                    raise NeedsValuesError("a real tensor is written to with what was never computed")
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
                self._metas[value] = meta_like(value.detach())
            return self._metas[value]
        if isinstance(value, list | tuple):
            return type(value)(self._on_meta(v) for v in value)
        return value


def tensor_arguments(arguments: Sequence[Any], options: Mapping[str, Any]) -> list[Tensor]:
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


@contextmanager
def shapes_only(mode: MetaMode) -> Iterator[None]:
    """Run under ``mode``, without gradients; random states stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), mode:
        yield
