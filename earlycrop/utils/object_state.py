"""Record what objects hold, and restore it: what a module keeps beside its parameters."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.utils.modules import is_functorch_tensor

_SKIPPED = (type, FunctionType, MethodType, ModuleType, logging.Logger, Optimizer, nn.Parameter)
"""What is not looked into. A forward pass and a loss do not step an optimizer, and change no parameter."""
_ATOMS = frozenset({bool, int, float, str, type(None)})
_CONTAINERS = frozenset({list, dict, OrderedDict, set, deque})
"""Types that most attributes of a module have, which need no slow test of what else they are."""


class ObjectState:
    """The contents of objects, and of all that they hold.

    It has the attributes of plain objects and modules, the items of lists, dicts, sets and queues, the values of
    tensors and arrays, and the states of generators. Parameters and optimizers are left out.

    Args:
        objects: Where to begin.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        """Containers without an item, as most of a module's are: they are recorded faster apart."""
        self._values: list[tuple[Any, Any]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        visited: set[int] = set()
        pending = list(objects)
        while pending:
            value = pending.pop()
            kind = type(value)
            if kind in _ATOMS or id(value) in visited:
                continue
            if kind in _CONTAINERS and not value:
                visited.add(id(value))
                self._empty.append(value)
            elif kind in _CONTAINERS or not isinstance(value, _SKIPPED):
                visited.add(id(value))  # the id stays in use: what is visited is recorded, or held by what is
                pending.extend(self._record(value))

    def restore(self) -> None:
        """Put everything back, in place."""
        for owner, saved in self._attributes:
            current = vars(owner)
            for name in current.keys() - saved.keys():
                del current[name]
            current.update(saved)
        for container in self._empty:
            if container:
                container.clear()
        for container, items in self._containers:
            if not _holds_same(container, items):
                container.clear()
                container.extend(items) if isinstance(container, list | deque) else container.update(items)
        with torch.no_grad():
            for tensor, values in self._values:
                if isinstance(tensor, np.ndarray):
                    tensor[...] = values
                elif not torch.equal(tensor, values):  # an expanded tensor cannot be written to, nor has it changed
                    tensor.copy_(values)
        for generator, state in self._generators:
            generator.set_state(state)

    def _record(self, value: Any) -> Iterable[Any]:
        """Record one object, and return what it holds."""
        if type(value) in _CONTAINERS:
            self._containers.append((value, value.copy()))
            return value.values() if isinstance(value, dict) else value
        if isinstance(value, Tensor):
            if value.layout == torch.strided and not (value.is_meta or value.is_nested or is_functorch_tensor(value)):
                self._values.append((value, value.detach().clone()))
            return ()
        if isinstance(value, np.ndarray):
            if value.flags.writeable:
                self._values.append((value, value.copy()))
            return ()
        if not isinstance(value, nn.Module) and isinstance(value, torch.Generator):
            self._generators.append((value, value.get_state()))
            return ()
        contents: list[Any] = []
        if isinstance(value, list | dict | set | deque):
            self._containers.append((value, value.copy()))
            contents.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, tuple | frozenset):
            contents.extend(value)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._attributes.append((value, dict(attributes)))
            contents.extend(attributes.values())
        return contents


def _holds_same(container: Any, items: Any) -> bool:
    """Return whether a container holds the same objects in the same order."""
    if len(container) != len(items) or not items:
        return len(container) == len(items)
    if isinstance(container, set):
        return bool(container == items)
    if isinstance(container, dict):
        return all(a is b and c is d for (a, c), (b, d) in zip(container.items(), items.items(), strict=True))
    return all(a is b for a, b in zip(container, items, strict=True))
