"""Run a network on shapes alone: its weights lie on torch's meta device, which allocates and computes nothing.

Torch's fake tensors do the same with more checks, at many times the cost for every operation of a new shape.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from earlycrop.utils.meta_shapes import META, SHORTCUTS
from earlycrop.utils.random_states import preserve_random_states

aten: Any = torch.ops.aten
SEQUENCES = (list, tuple)


class NeedsValuesError(RuntimeError):
    """The forward reads a value that was never computed."""


class _ThreadState(threading.local):
    """Whether this thread runs torch's own code for the meta device, which must see the true device."""

    runs_kernel = False


_thread_state = _ThreadState()


@cache
def _meta_classes(device: torch.device) -> tuple[type[Tensor], type[nn.Parameter]]:
    """Return classes of meta tensors and meta parameters whose ``device`` is the device of the network.

    A result of an operation gets its class afterwards, so that no operation takes longer because of the class.
    """
    device_property = property(lambda self: META if _thread_state.runs_kernel else device)
    body = {"__torch_function__": torch._C._disabled_torch_function_impl, "device": device_property}
    return type("MetaTensor", (Tensor,), body), type("MetaParameter", (nn.Parameter,), body)


def meta_like(t: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Return a tensor like ``t`` that has no memory.

    Args:
        t: A tensor or parameter; the result is a parameter if ``t`` is one.
        shape: The shape of the result, which is then contiguous. By default, shape and strides are those of ``t``.

    Returns:
        A tensor on the meta device that reports the device of ``t`` as its own.
    """
    is_parameter = isinstance(t, nn.Parameter)
    requires_grad = is_parameter and t.requires_grad
    if shape is None and t.layout == torch.strided:
        empty = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META, requires_grad=requires_grad)
    else:
        shape = t.shape if shape is None else shape
        empty = torch.empty(shape, dtype=t.dtype, device=META, requires_grad=requires_grad)
    empty.__class__ = _meta_classes(t.device)[is_parameter]
    return empty


class MetaMode(TorchDispatchMode):
    """Run every operation that is given a meta tensor on the meta device.

    Operations on real tensors alone (a mask, indices, the batch before it enters the network) compute real values, so
    that a forward may read them. New floating-point tensors are made on the meta device.

    Args:
        device: The device that all meta tensors report.
        real: Compute all values, however long it takes.
    """

    def __init__(self, device: torch.device, real: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self._meta_class = _meta_classes(device)[0]
        self._meta_copies: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, so that torch does not import its compiler, which takes seconds, and wrap every operation with it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {}, tensor_arguments(args, kwargs or {}))[0]

    def run(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor]
    ) -> tuple[Any, list[Tensor]]:
        """Run an operation; ``inputs`` are the tensors among its arguments.

        Returns:
            Its result, and the tensors in it.
        """
        if self.real:
            result = func(*args, **kwargs)
        else:
            _thread_state.runs_kernel = True
            try:
                result = self._run(func, args, kwargs, inputs)
            finally:
                _thread_state.runs_kernel = False
        tensors = [result] if isinstance(result, Tensor) else tensor_arguments((result,), {})
        for t in tensors:
            if type(t) is Tensor and t.is_meta:
                t.__class__ = self._meta_class
        return result, tensors

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: list[Tensor]) -> Any:
        on_meta = [t.is_meta for t in inputs]
        if not inputs:
            if _makes_floats(func, kwargs):
                kwargs = {**kwargs, "device": META}
        elif any(on_meta):
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": META}
            if not all(on_meta):
                if func._schema.is_mutable and not on_meta[0]:
                    raise NeedsValuesError("values that were never computed are written to a real tensor")
                args, kwargs = self._to_meta(args), {k: self._to_meta(v) for k, v in kwargs.items()}
            if not kwargs and (shortcut := SHORTCUTS.get(func)) is not None:
                result = shortcut(*args)
                if result is not None:
                    return result
        return func(*args, **kwargs)

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            if value not in self._meta_copies:
                self._meta_copies[value] = meta_like(value.detach())
            return self._meta_copies[value]
        if isinstance(value, list | tuple):
            return type(value)(self._to_meta(v) for v in value)
        return value


def tensor_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments of an operation, those in lists included.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.

    Returns:
        The tensors in the order of the arguments; one that is given twice is listed twice.
    """
    tensors: list[Tensor] = []
    _collect_tensors(args, tensors)
    _collect_tensors(kwargs.values(), tensors)
    return tensors


def _collect_tensors(values: Iterable[Any], tensors: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, SEQUENCES):
            _collect_tensors(value, tensors)


@cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _makes_floats(func: Any, kwargs: Mapping[str, Any]) -> bool:
    if not _takes_device(func):
        return False
    dtype = kwargs.get("dtype")
    if dtype is None:
        return func.overloadpacket in FLOAT_FACTORIES
    return bool(dtype.is_floating_point or dtype.is_complex)


FLOAT_FACTORIES = {aten.zeros, aten.ones, aten.empty, aten.rand, aten.randn, aten.empty_strided}
"""Operations that make floating-point tensors unless another type is asked for."""


@contextmanager
def shapes_only(mode: MetaMode) -> Iterator[None]:
    """Run under ``mode`` without gradients, and restore all random states on the way out.

    Args:
        mode: The mode to run under.
    """
    with preserve_random_states(), torch.no_grad(), mode:
        yield
