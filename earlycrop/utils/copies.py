"""Copy modules, even those that keep results of earlier runs, which ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copy_module(module: M, memo: Mapping[int, Any] | None = None) -> M:
    """Copy a module as ``copy.deepcopy`` does, even if it keeps tensors with a graph, whose copies are detached.

    ``nn.utils.weight_norm`` keeps the last weight that it computed, for one.

    Args:
        module: The module to copy.
        memo: The id of an object -> what the copy holds in its place.

    Returns:
        The copy.
    """
    memo = dict(memo or {})
    try:
        return copy.deepcopy(module, dict(memo))
    except RuntimeError:  # as of a tensor with a graph
        return copy.deepcopy(module, memo | _detached_results(module))


def _detached_results(module: nn.Module) -> dict[int, Any]:
    """Return copies of the results of earlier runs that modules keep, by id: deepcopy refuses tensors with a graph.

    A module may keep them in containers, and in objects such as the distribution of a policy's last actions.
    """
    modules = list(module.modules())
    visited = {id(m) for m in modules}
    results: dict[int, Any] = {}
    pending = [value for m in modules for value in vars(m).values()]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                results[id(value)] = value.detach()
        elif id(value) not in visited and not isinstance(value, type | ModuleType | FunctionType | nn.Module):
            visited.add(id(value))
            if isinstance(value, Mapping):
                pending.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                pending.extend(value)
            else:
                pending.extend(getattr(value, "__dict__", {}).values())
    return results
