"""Unwrap compiled, parallel and averaged models, and say which wrappers must be made again after a cut."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.modules import tensors_by_name
from earlycrop.utils.validation import as_modules


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile``, ``DistributedDataParallel``, ``DataParallel`` or ``AveragedModel``.

    Args:
        model: A network, wrapped any number of times or not at all.

    Returns:
        The network.

    Raises:
        ValueError: Its parameters are sharded over processes.
    """
    for _, attribute in _wrapper_chain(model):
        model = getattr(model, attribute)
    tensor_module: Any = sys.modules.get("torch.distributed.tensor")
    for path, m in model.named_modules():
        if type(m).__name__ == "FullyShardedDataParallel":
            why = "the parameters are sharded by FullyShardedDataParallel"
            raise ValueError(f"{why}: prune the model before wrapping it")
        for name, t in chain(m._parameters.items(), m._buffers.items()) if tensor_module is not None else ():
            if isinstance(t, tensor_module.DTensor):
                full_name = f"{path}.{name}".removeprefix(".")
                why = f"'{full_name}' is sharded over processes (a DTensor)"
                raise ValueError(f"{why}: prune the model before fully_shard")
    return model


def unwrap_stateless(model: nn.Module) -> nn.Module:
    """Remove the outer wrappers that have no parameters or buffers of their own (all but ``AveragedModel``)."""
    while (attribute := _wrapped_attribute(model)) and not isinstance(model, AveragedModel):
        model = getattr(model, attribute)
    return model


def unwrap_ema_models(
    ema_models: nn.Module | Iterable[nn.Module], model: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> list[nn.Module]:
    """Find the copy of the network inside each EMA model: the module itself, or its attribute ``module``.

    Args:
        ema_models: One module, or several.
        model: The network that they are copies of.
        shapes: The shapes of its parameters and buffers, by name.

    Returns:
        The copies.

    Raises:
        TypeError: An entry is not a module.
        ValueError: An entry is not a copy of the model, or shares tensors with it or another entry.
    """
    used = {id(t) for t in tensors_by_name(model).values()}
    networks = []
    for i, ema_model in enumerate(as_modules(ema_models)):
        label = f"ema_models[{i}] ({type(ema_model).__name__})"
        inside = unwrap(ema_model)
        for network in (inside, getattr(inside, "module", None)):
            if isinstance(network, nn.Module) and tensor_shapes(network) == shapes:
                break
        else:
            why = "the names or shapes of its parameters or buffers differ"
            advice = "Give a deep copy, or a wrapper that holds one as its .module"
            raise ValueError(f"{label} is no copy of the model: {why}. {advice}")
        tensors = {id(t) for t in tensors_by_name(network).values()}
        if tensors & used:
            advice = "leave it out, or give it tensors of its own"
            raise ValueError(f"{label} shares tensors with the model or another EMA model: {advice}")
        used |= tensors
        networks.append(network)
    return networks


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of parameters and buffers by name."""
    return {name: tuple(t.shape) for name, t in tensors_by_name(model).items()}


def check_unchanged(parameters: Mapping[str, Tensor], before: Mapping[str, Sequence[int]]) -> None:
    """Check that no parameter has appeared or changed its shape since it was recorded.

    Args:
        parameters: The parameters now, by name.
        before: The recorded shapes, by name.

    Raises:
        ValueError: A parameter is new, or its shape differs.
    """
    for name, p in parameters.items():
        if name not in before or tuple(before[name]) != tuple(p.shape):
            past = f"had the shape {tuple(before[name])}" if name in before else "did not exist"
            raise ValueError(
                f"'{name}' {past} when the pruner last looked, and has the shape {tuple(p.shape)} now: something else, "
                "another pruner say, has changed the model. Make a new pruner for the model as it is"
            )


def rewrap_message(model: nn.Module) -> str | None:
    """Return a warning for after a cut if a wrapper still holds the parameters from before it, or else None.

    Only ``DistributedDataParallel`` keeps them. Compiled models recompile when a size changes.
    """
    if not any(isinstance(wrapper, DistributedDataParallel) for wrapper, _ in _wrapper_chain(model)):
        return None
    cause = "the DistributedDataParallel around the model still synchronises the parameters from before the cut"
    return f"{cause}: wrap what is inside again, with the options that you gave it"


def process_group_of(model: nn.Module) -> ProcessGroup:
    """Return the group of the ``DistributedDataParallel`` around the network, or None if there is a single process."""
    for wrapper, _ in _wrapper_chain(model):
        if isinstance(wrapper, DistributedDataParallel) and wrapper.process_group.size() > 1:
            return wrapper.process_group
    return None


def _wrapper_chain(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the wrappers from the outside in, each with the attribute that holds the wrapped module."""
    wrappers = []
    while attribute := _wrapped_attribute(model):
        wrappers.append((model, attribute))
        model = getattr(model, attribute)
    return wrappers


def _wrapped_attribute(model: nn.Module) -> str | None:
    eval_frame = sys.modules.get("torch._dynamo.eval_frame")  # the import takes seconds; without it nothing is compiled
    if eval_frame is not None and isinstance(model, eval_frame.OptimizedModule):
        return "_orig_mod"
    return "module" if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel) else None
