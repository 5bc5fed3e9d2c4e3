"""What optimizers hold of the parameters that are cut: places in their groups, and state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Adafactor, Optimizer
from torch.utils._pytree import tree_leaves

from earlycrop.surgery.slicing import KeptIndices, Swap, select_entries
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import parameters_by_name
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.validation import as_optimizers

States = dict[str, dict[str, Any]]
"""By parameter name, an optimizer's state after the cut."""
_CLEAR_STATE = "clear its state first (optimizer.state.clear()), so that it starts afresh"


def check_optimizers(module: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None) -> None:
    """Raise ValueError where an optimizer trains nothing of the module, or what the module no longer has, and TypeError
    where it is none.
    """
    mine = {id(p) for p in parameters_by_name(module).values()} if optimizer is not None else set()
    for one in as_optimizers(optimizer):
        if not any(id(p) in mine for o in flatten_optimizers(one) for group in o.param_groups for p in group["params"]):
            raise ValueError("the optimizer holds none of the model's parameters: give the one that trains this model")


def cut_states(optimizer: Optimizer, named: Mapping[str, Tensor], keep: KeptIndices) -> States:
    """The state of the parameters that are cut: tensors that run along their dimensions are cut the same way.

    Raises:
        SurgeryError: state that does not follow a parameter's shape, in 8 bits, or kept elsewhere than by parameter.
    """
    _check_state_by_parameter(optimizer, {id(named[name]) for name in keep})
    if isinstance(optimizer, LBFGS) and any(optimizer.state.values()):
        raise SurgeryError(
            "LBFGS keeps the curvature of all parameters at once, which is that of the network before the cut: "
            + _CLEAR_STATE
        )
    states = {}
    for name, dims in keep.items():
        held = optimizer.state.get(named[name], {})
        states[name] = {
            key: _cut_state_entry(optimizer, name, named[name], dims, key, value) for key, value in held.items()
        }
    return states


def swap_parameters(optimizer: Optimizer, swap: Swap, states: States) -> None:
    """Hold the live parameters, in the same groups and places, with their state."""
    new_of = {id(old): new for old, new in swap.tensors.values()}
    for group in optimizer.param_groups:
        group["params"][:] = [new_of.get(id(p), p) for p in group["params"]]
    for name, (old, new) in swap.tensors.items():
        if old in optimizer.state:
            optimizer.state[new] = states[name]
            del optimizer.state[old]
    if isinstance(optimizer, LBFGS):
        optimizer._numel_cache = None


def snapshot_optimizer(optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts groups and state back as they are now."""
    groups = [(group["params"], list(group["params"])) for group in optimizer.param_groups]
    state = dict(optimizer.state)

    def restore() -> None:
        for held, before in groups:
            held[:] = before
        optimizer.state.clear()
        optimizer.state.update(state)

    return restore


def _cut_state_entry(
    optimizer: Optimizer, name: str, old: Tensor, dims: Mapping[int, Tensor], key: str, value: Any
) -> Any:
    """One entry of a parameter's state, as long as the parameter will be."""
    where = f"{type(optimizer).__name__} keeps '{key}' for '{name}'"
    if not isinstance(value, Tensor):
        if any(isinstance(t, Tensor) for t in tree_leaves(value)):
            raise SurgeryError(
                f"{where} as a {type(value).__name__} of tensors, which a cut cannot follow: {_CLEAR_STATE}"
            )
        return value
    if value.numel() <= 1:
        return value
    if type(value) not in (Tensor, nn.Parameter) or value.element_size() == 1:
        kind = str(value.dtype).removeprefix("torch.") if type(value) is Tensor else type(value).__name__
        raise SurgeryError(
            f"{where} in {kind}: numbers of 8 bits or less share their scale with a block of others, and cannot be cut "
            f"out of it: {_CLEAR_STATE}"
        )
    if value.ndim != old.ndim or any(n not in (1, m) for n, m in zip(value.shape, old.shape, strict=True)):
        raise SurgeryError(f"{where} in a form that does not follow the parameter's shape: {_CLEAR_STATE}")
    small = select_entries(value, dims)
    if isinstance(optimizer, Adafactor):
        # means over a dimension that is cut: of the same sums, with zeros where entries go, over fewer entries
        for dim, index in dims.items():
            if value.shape[dim] == 1:
                small = small * (old.shape[dim] / index.numel())
    return small


def _check_state_by_parameter(optimizer: Optimizer, gone: set[int]) -> None:
    """Raise SurgeryError where tensors that are cut, or state of no parameter, are held beside groups and state."""
    mine = {id(group["params"]) for group in optimizer.param_groups}

    def holds(value: Any) -> bool:
        if isinstance(value, Mapping):
            return any(holds(v) for pair in value.items() for v in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return id(value) not in mine and any(holds(v) for v in value)
        return id(value) in gone

    beside = {k: v for k, v in vars(optimizer).items() if k not in ("state", "param_groups")}
    for group in optimizer.param_groups:
        beside |= {k: v for k, v in group.items() if k != "params"}
    name = type(optimizer).__name__
    for key, value in beside.items():
        if holds(value):
            raise SurgeryError(
                f"{name} holds parameters in '{key}' as well, where a cut cannot follow: make a new one after the cut"
            )
    owner: object
    for owner, value in optimizer.state.items():
        if not isinstance(owner, Tensor) and any(isinstance(t, Tensor) and t.numel() > 1 for t in tree_leaves(value)):
            raise SurgeryError(
                f"{name} keeps state by {owner!r} and not by parameter, which a cut cannot follow: {_CLEAR_STATE}"
            )
