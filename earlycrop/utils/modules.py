"""Read a module's parameters and buffers by name, replace them, run it, and collect the tensors that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NORMS = (nn.modules.batchnorm._BatchNorm,)
"""Modules that use batch statistics in training mode and running statistics in evaluation mode."""


def tensor_owners(module: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Find where each parameter and buffer is stored.

    Args:
        module: The module to search, with its submodules.

    Returns:
        For the id of each tensor, the (module, attribute) pairs that hold it. A tied tensor has several.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for tensors in (owner._parameters, owner._buffers):
            for attribute, tensor in tensors.items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append((owner, attribute))
    return owners


def tensors_by_name(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name. A tied tensor appears once, under its first name."""
    modules = list(module.named_modules())
    tensors: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for path, owner in modules:
            for name, t in getattr(owner, kind).items():
                if t is not None and id(t) not in seen:
                    seen.add(id(t))
                    tensors[f"{path}.{name}" if path else name] = t
    return tensors


def assign_tensor(places: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
    """Store ``tensor`` in place of the parameter or buffer at each of ``places``.

    Modules that override ``__setattr__`` (``nn.LSTM``) are set through it, because they keep lists of their parameters.

    Args:
        places: (module, attribute) pairs, as ``tensor_owners`` returns them.
        tensor: The new tensor.
    """
    for owner, attribute in places:
        if type(owner).__setattr__ is not nn.Module.__setattr__:
            setattr(owner, attribute, tensor)
        elif attribute in owner._parameters:
            owner._parameters[attribute] = tensor  # type: ignore[assignment]
        else:
            owner._buffers[attribute] = tensor


def flatten_recurrent_weights(model: nn.Module) -> None:
    """Put the weights of each recurrent layer side by side in memory, if it runs on cuDNN.

    cuDNN copies them at every forward pass otherwise, and torch warns.

    Args:
        model: The module, after its weights were replaced.
    """
    with torch.inference_mode(False):  # what is made in it could not be trained
        for m in model.modules():
            if isinstance(m, nn.RNNBase):
                m.flatten_parameters()


def call_model(model: nn.Module, example: Any) -> Any:
    """Run ``model`` on ``example``.

    Args:
        model: The module to call.
        example: A tensor, a tuple of positional arguments, a dict of keyword arguments, or a callable of the model.

    Returns:
        The output of the model, or what the callable returns.
    """
    if isinstance(example, tuple):
        return model(*example)
    if isinstance(example, Mapping):
        return model(**example)
    if callable(example) and not isinstance(example, Tensor):
        return example(model)
    return model(example)


def collect_tensors(output: Any) -> list[Tensor]:
    """Collect the tensors in the output of a forward pass.

    Any object other than those below (a key-value cache, say) counts as the network's own state and is skipped.

    Args:
        output: A tensor, or a nest of containers, dataclasses, namespaces and distributions.

    Returns:
        The tensors, in the order of the nest.
    """
    tensors: list[Tensor] = []
    visited: set[int] = set()

    def collect(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                tensors.append(leaf)
            elif _is_output_container(leaf) and id(leaf) not in visited:
                visited.add(id(leaf))
                collect(dict(vars(leaf)))

    collect(output)
    return tensors


def is_functorch_tensor(t: Tensor) -> bool:
    """Return whether ``t`` is a wrapper of torch.vmap or another torch.func transform, invalid outside of it."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def _is_output_container(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return is_dataclass(value) or isinstance(value, torch.distributions.Distribution | SimpleNamespace)
