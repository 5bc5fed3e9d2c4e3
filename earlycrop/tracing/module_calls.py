"""Which modules of a network are running, told to a watch; and how each of them was called first, so that it can be run
again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop.graph.graph import Graph
from earlycrop.tracing.recorder import ChannelRecorder, ScalarArgs
from earlycrop.utils.contexts import preserve_attributes, preserve_state
from earlycrop.utils.modules import collect_tensors, list_modules

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module in the first run, to be repeated: what it was given, the shapes that it returned, and the
    plain numbers that it reckoned with.
    """

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shapes: Shapes
    numbers: list[ScalarArgs]

    @property
    def repeatable(self) -> bool:
        """Whether it can be made again: an object (a cache of keys, say) may not be what it was."""
        given = tree_leaves((self.arguments, self.options))
        return all(isinstance(v, Tensor | bool | int | float | str | None | torch.dtype) for v in given)


class ModuleCallRecorder:
    """Stands in the place of every forward of a network, a copy of the user's, for as long as that lives."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls: dict[str, ModuleCall] = {}
        self._watch: ChannelRecorder | None = None
        self._keeping = False
        for name, module in list_modules(network):
            if type(module).forward is not nn.Module.forward or "forward" in vars(module):
                module.__dict__["forward"] = self._announced(name, module.forward)
        network.register_forward_hook(self._returned)

    @contextmanager
    def told(self, watch: ChannelRecorder, keep_calls: bool = False) -> Iterator[None]:
        """Meanwhile, the watch knows which modules run, and what the whole network returns is frozen.

        ``keep_calls``: fill ``calls``.
        """
        self._watch, self._keeping = watch, keep_calls
        try:
            yield
        finally:
            self._watch = None

    def _announced(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def announced(*arguments: Any, **options: Any) -> Any:
            watch = self._watch
            if watch is None:
                return forward(*arguments, **options)
            depth, since = len(watch.stack), len(watch.numbers)
            watch.stack.append(name)
            output = forward(*arguments, **options)  # where it fails, the stack says in which module
            del watch.stack[depth:]
            if self._keeping and name not in self.calls:
                self.calls[name] = ModuleCall(arguments, options, output_shapes(output), watch.numbers[since:])
            return output

        announced.__wrapped__ = forward  # type: ignore[attr-defined]  # for those who ask for the signature
        return announced

    def _returned(self, network: nn.Module, given: Any, output: Any) -> None:
        if self._watch is not None:
            freeze_outputs(self._watch, output)


@contextmanager
def training_mode(network: nn.Module) -> Iterator[None]:
    """Meanwhile, a copy of the user's network is in training mode; what it keeps and counts there is forgotten, and no
    random state moves on.
    """
    with preserve_attributes(network), preserve_state(network):
        network.train()
        yield


def freeze_outputs(watch: ChannelRecorder, output: Any) -> None:
    """What a network returns keeps its size."""
    watch.operation = "return"
    for t in collect_tensors(output):
        watch.freeze(watch.fields(t), Graph.OUTPUT)


def output_shapes(output: Any) -> Shapes:
    """The shapes of the tensors in what a module returned."""
    if isinstance(output, Tensor):
        return [tuple(output.shape)]
    return [tuple(t.shape) for t in collect_tensors(output)]
