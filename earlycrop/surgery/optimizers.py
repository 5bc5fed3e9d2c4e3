"""Move optimizers to the cut parameters: their parameter groups and their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils._pytree import tree_leaves

from earlycrop.surgery.slicing import KeptIndices, Swap, select_entries
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.validation import as_optimizers

States = dict[str, dict[str, Any]]
"""Parameter name -> an optimizer's state of that parameter after the cut."""
_CLEAR_STATE = "clear its state first (optimizer.state.clear()), so that it starts afresh"


def check_optimizers(module: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None) -> None:
    """Check that every optimizer trains parameters of a module.

    Args:
        module: The module.
        optimizer: One optimizer, several, or None.

    Raises:
        TypeError: An entry is not an optimizer.
        ValueError: An optimizer holds none of the module's parameters.
    """
    model_ids = {id(p) for p in module.parameters()} if optimizer is not None else set()
    for outer in as_optimizers(optimizer):
        groups = [group for o in flatten_optimizers(outer) for group in o.param_groups]
        if not any(id(p) in model_ids for group in groups for p in group["params"]):
            raise ValueError("the optimizer holds none of the model's parameters: give the one that trains this model")


def cut_states(optimizer: Optimizer, tensors: Mapping[str, Tensor], keep: KeptIndices) -> States:
    """Compute the state of the parameters that are cut. The optimizer is not changed.

    Args:
        optimizer: The optimizer.
        tensors: The parameters before the cut, by name.
        keep: The indices that stay. State tensors are cut along the dimensions that they share with the parameter.

    Returns:
        The new state, by parameter name.

    Raises:
        SurgeryError: The optimizer has state that does not follow a parameter's shape, has 8 bits, or is stored
            elsewhere than by parameter.
    """
    _check_state_by_parameter(optimizer, {id(tensors[name]) for name in keep})
    if isinstance(optimizer, LBFGS) and any(optimizer.state.values()):
        raise SurgeryError(f"LBFGS keeps the curvature of all parameters at once, which a cut changes: {_CLEAR_STATE}")
    return {
        name: {
            key: _cut_state_entry(optimizer, name, tensors[name], dims, key, value)
            for key, value in optimizer.state.get(tensors[name], {}).items()
        }
        for name, dims in keep.items()
    }


def swap_parameters(optimizer: Optimizer, swap: Swap, states: States) -> None:
    """Replace the old parameters in an optimizer by the new ones, in the same groups and positions.

    Args:
        optimizer: The optimizer, changed in place.
        swap: The old and new parameters.
        states: The state of the new parameters, by name.
    """
    new_by_id = {id(old): new for old, new in swap.tensors.values()}
    for group in optimizer.param_groups:
        group["params"][:] = [new_by_id.get(id(p), p) for p in group["params"]]
    for name, (old, new) in swap.tensors.items():
        if old in optimizer.state:
            optimizer.state[new] = states[name]
            del optimizer.state[old]
    if isinstance(optimizer, LBFGS):
        optimizer._numel_cache = None


def snapshot_optimizer(optimizer: Optimizer) -> Callable[[], None]:
    """Record the parameter groups and the state of an optimizer, and return a function that restores them."""
    groups = [(group["params"], list(group["params"])) for group in optimizer.param_groups]
    state = dict(optimizer.state)

    def restore() -> None:
        for parameters, saved in groups:
            parameters[:] = saved
        optimizer.state.clear()
        optimizer.state.update(state)

    return restore


def _cut_state_entry(
    optimizer: Optimizer, name: str, parameter: Tensor, keep: Mapping[int, Tensor], key: str, value: Any
) -> Any:
    """Cut the state entry ``key`` of the parameter ``name`` to the parameter's new shape."""
    label = f"{type(optimizer).__name__} keeps '{key}' for '{name}'"
    if not isinstance(value, Tensor):
        if any(isinstance(t, Tensor) for t in tree_leaves(value)):
            raise SurgeryError(f"{label} as a {type(value).__name__} of tensors, which cannot be cut: {_CLEAR_STATE}")
        return value
    averaged = _averaged_dim(key, value, parameter)
    if value.numel() <= 1 and averaged is None:
        return value
    if type(value) not in (Tensor, nn.Parameter) or value.element_size() == 1:
        kind = str(value.dtype).removeprefix("torch.") if type(value) is Tensor else type(value).__name__
        why = "numbers of 8 bits or less share a scale with their block, and cannot be cut out of it"
        raise SurgeryError(f"{label} in {kind}: {why}: {_CLEAR_STATE}")
    if averaged is not None and value.ndim < parameter.ndim:
        full = value.unsqueeze(averaged)
        return _cut_state_entry(optimizer, name, parameter, keep, key, full).squeeze(averaged)
    if value.ndim != parameter.ndim or any(n not in (1, m) for n, m in zip(value.shape, parameter.shape, strict=True)):
        raise SurgeryError(f"{label} in a form that does not follow the parameter's shape: {_CLEAR_STATE}")
    small = select_entries(value, keep)
    if averaged is not None and averaged in keep:
        # A mean over a dimension that is cut: the sum stays, as removed entries are zero, and the count gets smaller.
        small = small * (parameter.shape[averaged] / keep[averaged].numel())
    return small


def _averaged_dim(key: str, value: Tensor, parameter: Tensor) -> int | None:
    """Return the dimension of a parameter over which a state entry is a mean, or None if it is no such mean.

    Optimizers that factor the second moment (Adafactor) keep means over the last dimension by row, and over the one
    before it by column. The dimension is 1 wide in the entry, or missing from it.
    """
    words = key.split("_")
    if parameter.ndim < 2 or not {"row", "col"} & set(words):
        return None
    dim = parameter.ndim - (1 if "row" in words else 2)
    before, after = parameter.shape[:dim], parameter.shape[dim + 1 :]
    return dim if value.shape in ((*before, *after), (*before, 1, *after)) else None


def _check_state_by_parameter(optimizer: Optimizer, cut_ids: set[int]) -> None:
    """Raise SurgeryError if parameters are stored outside of groups and state, or state not by parameter.

    ``cut_ids`` are the ids of the parameters that will be cut.
    """
    parameter_lists = {id(group["params"]) for group in optimizer.param_groups}

    def contains_cut(value: Any) -> bool:
        if isinstance(value, Mapping):
            return any(contains_cut(v) for pair in value.items() for v in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return id(value) not in parameter_lists and any(contains_cut(v) for v in value)
        return id(value) in cut_ids

    extra = {k: v for k, v in vars(optimizer).items() if k not in ("state", "param_groups")}
    for group in optimizer.param_groups:
        extra |= {k: v for k, v in group.items() if k != "params"}
    name = type(optimizer).__name__
    for key, value in extra.items():
        if contains_cut(value):
            raise SurgeryError(f"{name} also holds parameters in '{key}': make a new optimizer after the cut")
    owner: object
    for owner, value in optimizer.state.items():
        if not isinstance(owner, Tensor) and any(isinstance(t, Tensor) and t.numel() > 1 for t in tree_leaves(value)):
            raise SurgeryError(f"{name} keeps state by {owner!r} and not by parameter: {_CLEAR_STATE}")
