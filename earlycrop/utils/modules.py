"""Reaching into a module: its parameters by name, putting others in their place, and leaving it as it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NORMS = (nn.modules.batchnorm._BatchNorm,)
"""Modules whose training mode means batch statistics and whose evaluation mode means running ones."""


def list_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of each in it, itself first: ``named_modules`` without a generator a level."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def enter(path: str, m: nn.Module) -> None:
        if id(m) not in seen:
            seen.add(id(m))
            found.append((path, m))
            for name, child in m._modules.items():
                if child is not None:
                    enter(f"{path}.{name}" if path else name, child)

    enter("", module)
    return found


def tensor_owners(module: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every (owner, attribute) that holds a parameter or buffer, by the tensor's id: a tied one has several."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for _, owner in list_modules(module):
        for held in (owner._parameters, owner._buffers):
            for attribute, tensor in held.items():
                if tensor is not None:
                    found.setdefault(id(tensor), []).append((owner, attribute))
    return found


def tensors_by_name(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one once, under its first name."""
    modules = list_modules(module)
    return _named_entries(modules, "_parameters") | _named_entries(modules, "_buffers")


def parameters_by_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name; a tied one once, under its first name."""
    return _named_entries(list_modules(module), "_parameters")


def _named_entries(modules: list[tuple[str, nn.Module]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, owner in modules:
        held = vars(owner)[where]
        if held:
            for name, t in held.items():
                if t is not None and id(t) not in seen:
                    seen.add(id(t))
                    found[f"{path}.{name}" if path else name] = t
    return found


def assign_tensor(where: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
    """Hold ``tensor`` at each of these places, where there is one like it.

    Lists that modules keep (``nn.LSTM``) follow in their own ``__setattr__``.
    """
    for owner, attribute in where:
        if type(owner).__setattr__ is not nn.Module.__setattr__:
            setattr(owner, attribute, tensor)
        elif attribute in owner._parameters:
            owner._parameters[attribute] = tensor  # type: ignore[assignment]
        else:
            owner._buffers[attribute] = tensor


def call_model(model: nn.Module, example: Any) -> Any:
    """Run ``model`` on ``example``, given as a tensor, a tuple, a dict of keywords or a callable of the model."""
    if isinstance(example, tuple):
        return model(*example)
    if isinstance(example, Mapping):
        return model(**example)
    if callable(example) and not isinstance(example, Tensor):
        return example(model)
    return model(example)


def collect_tensors(output: Any) -> list[Tensor]:
    """The tensors that a forward returned, in containers, dataclasses and distributions too.

    Any other object (a cache of keys and values, say) is taken for the network's own state, and not for an output.
    """
    found: list[Tensor] = []
    seen: set[int] = set()

    def walk(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif _holds_outputs(leaf) and id(leaf) not in seen:
                seen.add(id(leaf))
                walk(dict(vars(leaf)))

    walk(output)
    return found


def is_functorch_tensor(t: Tensor) -> bool:
    """Whether this stands for values inside torch.vmap or another of torch.func's: it means nothing outside."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def _holds_outputs(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return is_dataclass(value) or isinstance(value, torch.distributions.Distribution | SimpleNamespace)
