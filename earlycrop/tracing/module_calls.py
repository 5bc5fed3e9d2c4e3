"""Record which modules of a network are running, and how each was called first, so that it can be run again alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.labels import varying_dims
from earlycrop.tracing.recorder import ChannelRecorder, ScalarArgs
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.object_state import ObjectState

Shapes = list[tuple[int, ...]]
OnCall = Callable[[str, str, Any], None]
"""Called after a module has run, with the module that called it, its own name, and its arguments and output."""
FixedSizes = list[tuple[int | None, ...]]
"""The shapes of tensors, with None along the dimensions that have channels, whose sizes follow a cut."""


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """The first call of a module: its arguments, what it returned, and the scalars that it computed with.

    sizes: the sizes that it returned. returned: the channels of what it returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sizes: FixedSizes
    returned: list[ChannelLabels]
    scalars: list[ScalarArgs]

    @property
    def repeatable(self) -> bool:
        """Whether the call can be made again: another object, such as a cache of keys, may have changed since."""
        leaves = tree_leaves((self.args, self.kwargs))
        return all(isinstance(v, Tensor | bool | int | float | str | None | torch.dtype) for v in leaves)


class ModuleCallRecorder:
    """Wrap the forwards of all modules of a network, so that a recorder knows which of them run.

    Args:
        network: A copy of the user's network; its forwards stay wrapped.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls: dict[str, ModuleCall] = {}
        self.called: set[str] = set()
        """The names of all modules that have run."""
        self._recorder: ChannelRecorder | None = None
        self._keeps_calls = False
        self._on_call: OnCall | None = None
        self._state: ObjectState | None = None
        """What the network holds, as it was before the first run in training mode."""
        for name, module in network.named_modules():
            if type(module).forward is not nn.Module.forward or "forward" in vars(module):
                module.__dict__["forward"] = self._wrap_forward(name, module.forward)
        network.register_forward_hook(self._freeze_outputs)

    @contextmanager
    def record(
        self, recorder: ChannelRecorder, keep_calls: bool = False, on_call: OnCall | None = None
    ) -> Iterator[None]:
        """Tell a recorder which modules run, and freeze what the network returns.

        Args:
            recorder: The recorder of the run.
            keep_calls: Store the first call of each module in ``calls``.
            on_call: What is called after each module.
        """
        self._recorder, self._keeps_calls, self._on_call = recorder, keep_calls, on_call
        try:
            yield
        finally:
            self._recorder = self._on_call = None

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """Put the network in training mode; on exit, put back what it held before the first run in training mode.

        That includes tensors that were cut since then.
        """
        self._state = self._state or ObjectState([self.network])
        try:
            self.network.train()
            yield
        finally:
            self._state.restore()

    def _wrap_forward(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            recorder = self._recorder
            if recorder is None:
                return forward(*args, **kwargs)
            caller, depth, first_scalar = recorder.module, len(recorder.module_stack), len(recorder.scalars)
            recorder.module_stack.append(name)
            output = forward(*args, **kwargs)  # if it fails, the stack says in which module
            del recorder.module_stack[depth:]
            self.called.add(name)
            if self._on_call is not None:
                self._on_call(caller, name, (args, kwargs, output))
            if self._keeps_calls and name not in self.calls:
                sizes, returned = fixed_sizes(recorder, output), returned_channels(recorder, output)
                self.calls[name] = ModuleCall(args, kwargs, sizes, returned, recorder.scalars[first_scalar:])
            return output

        wrapped.__wrapped__ = forward  # type: ignore[attr-defined]  # for those who ask for the signature
        return wrapped

    def _freeze_outputs(self, network: nn.Module, args: Any, output: Any) -> None:
        if self._recorder is not None:
            freeze_outputs(self._recorder, output)


def freeze_outputs(recorder: ChannelRecorder, output: Any) -> None:
    """Freeze the channels of what a network returned.

    Args:
        recorder: The recorder of the run.
        output: What the network returned.
    """
    recorder.operation = "return"
    for t in collect_tensors(output):
        recorder.freeze(recorder.labels(t), Graph.OUTPUT)


def output_shapes(output: Any) -> Shapes:
    """Return the shapes of the tensors in what a module returned.

    Args:
        output: What the module returned.
    """
    return [tuple(t.shape) for t in _output_tensors(output)]


def fixed_sizes(recorder: ChannelRecorder, output: Any) -> FixedSizes:
    """Return the sizes of what a module returned that no cut may change.

    Args:
        recorder: The recorder of the run.
        output: What the module returned.
    """
    sizes: FixedSizes = []
    for t in _output_tensors(output):
        variable = {d for labels in recorder.labels(t) for d in varying_dims(labels)}
        sizes.append(tuple(None if d in variable else n for d, n in enumerate(t.shape)))
    return sizes


def returned_channels(recorder: ChannelRecorder, output: Any) -> list[ChannelLabels]:
    """Return the channels of the tensors in what a module returned.

    Args:
        recorder: The recorder of the run.
        output: What the module returned.
    """
    return [labels for t in _output_tensors(output) for labels in recorder.labels(t)]


def fits(shapes: Shapes, sizes: FixedSizes) -> bool:
    """Return whether tensors of these shapes have the fixed sizes of the first run.

    Args:
        shapes: The shapes that a module returned after a cut.
        sizes: What it returned in the first run.
    """
    same_ndim = [len(shape) for shape in shapes] == [len(fixed) for fixed in sizes]
    pairs = ((n, m) for shape, fixed in zip(shapes, sizes, strict=False) for n, m in zip(shape, fixed, strict=False))
    return same_ndim and all(m is None or n == m for n, m in pairs)


def _output_tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else collect_tensors(output)
