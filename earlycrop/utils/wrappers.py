"""Modules around a network: the one inside is traced and cut, and what must be wrapped again is said."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.modules import list_modules, tensors_by_name
from earlycrop.utils.validation import as_modules

_STALE = DistributedDataParallel
"""It keeps the parameters that it was made with. Compiled code is compiled anew where a size has changed."""


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DistributedDataParallel``, ``DataParallel`` or ``AveragedModel``.

    Raises:
        ValueError: its parameters are sharded over processes.
    """
    for _, attribute in _wrapper_chain(model):
        model = getattr(model, attribute)
    sharded = sys.modules.get("torch.distributed.tensor")
    held = {} if sharded is None else tensors_by_name(model)
    for name, t in held.items():
        if isinstance(t, sharded.DTensor):  # type: ignore[union-attr]
            raise ValueError(f"'{name}' is sharded over processes (a DTensor): prune the model before fully_shard")
    if any(type(m).__name__ == "FullyShardedDataParallel" for _, m in list_modules(model)):
        raise ValueError(
            "the model's parameters are sharded by FullyShardedDataParallel: prune it before it is wrapped"
        )
    return model


def unwrap_stateless(model: nn.Module) -> nn.Module:
    """The module whose parameters and buffers make the model, without wrappers that have none of their own."""
    while (attribute := _wrapped_attribute(model)) and not isinstance(model, AveragedModel):
        model = getattr(model, attribute)
    return model


def unwrap_ema_models(
    copies: nn.Module | Iterable[nn.Module], model: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> list[nn.Module]:
    """The networks in ``copies``, each itself or its attribute ``module``.

    Raises:
        TypeError: one is no module. ValueError: one is not a copy of the model, or shares its parameters.
    """
    mine = {id(t) for t in tensors_by_name(model).values()}
    found = []
    for i, given in enumerate(as_modules(copies)):
        inside = unwrap(given)
        for candidate in (inside, getattr(inside, "module", None)):
            if isinstance(candidate, nn.Module) and tensor_shapes(candidate) == shapes:
                break
        else:
            raise ValueError(
                f"copies[{i}] ({type(given).__name__}) is no copy of the model: its parameters or buffers have other "
                "names or shapes. Give a deep copy, or a wrapper that holds one as its .module"
            )
        held = {id(t) for t in tensors_by_name(candidate).values()}
        if held & mine:
            raise ValueError(
                f"copies[{i}] ({type(given).__name__}) shares tensors with the model or another copy: leave it out, or "
                "give it tensors of its own"
            )
        mine |= held
        found.append(candidate)
    return found


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters and buffers by name."""
    return {name: tuple(t.shape) for name, t in tensors_by_name(model).items()}


def check_unchanged(parameters: Mapping[str, Tensor], before: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError where parameters have not the shapes that they had at an earlier look at the model."""
    for name, p in parameters.items():
        if name not in before or tuple(before[name]) != tuple(p.shape):
            had = f"had the shape {tuple(before[name])}" if name in before else "was not there"
            raise ValueError(
                f"'{name}' {had} when the pruner last looked, and has the shape {tuple(p.shape)} now: something else, "
                "another pruner say, has changed the model. Make a new pruner for the model as it is"
            )


def warn_rewrap(model: nn.Module, stacklevel: int) -> None:
    """Warn where something around the network holds parameters from before the cut, with the line to type."""
    if told := rewrap_message(model):
        warnings.warn(told, stacklevel=stacklevel + 1)


def rewrap_message(model: nn.Module) -> str | None:
    """The sentence of that warning; None where nothing around the network holds its parameters."""
    around = _wrapper_chain(model)
    while around and not isinstance(around[-1][0], _STALE):
        around.pop()
    if not around:
        return None
    line = "model" + "".join(f".{attribute}" for _, attribute in around)
    for wrapper, _ in reversed(around):
        line = f"{_constructor_name(wrapper)}({line})"
    return (
        f"the {_STALE.__name__} around the model still synchronises the parameters from before the cut: wrap what is "
        f"inside again, with the options that you gave it: model = {line}"
    )


def process_group_of(model: nn.Module) -> ProcessGroup:
    """The processes that DistributedDataParallel trains the model on, if those are several."""
    for wrapper, _ in _wrapper_chain(model):
        if isinstance(wrapper, DistributedDataParallel) and wrapper.process_group.size() > 1:
            return wrapper.process_group
    return None


def _wrapper_chain(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The wrappers around the network, from the outside in, each with the attribute that holds what it wraps."""
    around = []
    while attribute := _wrapped_attribute(model):
        around.append((model, attribute))
        model = getattr(model, attribute)
    return around


def _wrapped_attribute(model: nn.Module) -> str | None:
    """The attribute with the network that ``model`` wraps, or None."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # importing it takes seconds, and only it makes them
    if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
        return "_orig_mod"
    return "module" if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel) else None


def _constructor_name(wrapper: nn.Module) -> str:
    known = {DataParallel: "torch.nn.DataParallel", AveragedModel: "torch.optim.swa_utils.AveragedModel"}
    if isinstance(wrapper, _STALE):
        return "torch.nn.parallel.DistributedDataParallel"
    return next((name for kind, name in known.items() if isinstance(wrapper, kind)), "torch.compile")
