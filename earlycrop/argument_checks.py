"""Check that what a user gives fits together, and warn of what a pruning could not do with it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop.graph.types import layer_of
from earlycrop.selection.constraints import Limits
from earlycrop.surgery.optimizers import cut_states
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.parameters import flatten_optimizers, weight_matrices

_LISTED = 3


def check_not_all_excluded(network: nn.Module, limits: Limits) -> None:
    """Raise ValueError if limits exclude every layer."""
    names = list(dict.fromkeys(map(layer_of, weight_matrices(network))))
    kept = Limits(exclude=limits.exclude).to_bounds(names, dict.fromkeys(names, 1), {}).min_kept
    if names and len(kept) == len(names):
        raise ValueError(
            f"limits exclude all {len(names)} layers of the model, and nothing could be pruned: name fewer in exclude"
        )


def warn_untrained(network: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Warn where no optimizer holds a parameter that requires a gradient."""
    held = {id(p) for o in flatten_optimizers(optimizers) for group in o.param_groups for p in group["params"]}
    missing = [name for name, p in network.named_parameters() if p.requires_grad and id(p) not in held]
    if not optimizers:
        warnings.warn(
            "the pruner was given no optimizer, and the one that trains the model would not follow a pruning: give all "
            "optimizers that train the model",
            stacklevel=3,
        )
    elif missing:
        warnings.warn(
            f"the optimizers that were given do not hold {_enumerate(missing)}: give all optimizers that train the "
            "model, and call requires_grad_(False) on what is not trained",
            stacklevel=3,
        )


def warn_of_hooks(network: nn.Module) -> None:
    """Warn where parameters have hooks, with which they cannot be cut."""
    hooked = [
        name
        for name, p in network.named_parameters()
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
    ]
    if hooked:
        warnings.warn(
            f"{_enumerate(hooked)} cannot be cut, because of hooks that a cut would lose (masks of an unstructured "
            "pruning, or your own): remove them before the pruning, or leave these layers out with Limits(exclude=...)",
            stacklevel=3,
        )


def warn_of_state(network: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Warn where the state of an optimizer cannot follow a cut, from trial cuts of one parameter after another."""
    parameters = {name: p for name, p in network.named_parameters() if p.ndim and len(p) > 1}
    for optimizer in flatten_optimizers(optimizers):
        try:
            for name, p in parameters.items():
                if optimizer.state.get(p):
                    cut_states(optimizer, {name: p}, {name: {0: torch.arange(len(p) - 1, device=p.device)}})
        except SurgeryError as error:
            warnings.warn(f"the optimizer cannot follow a cut: {error}", stacklevel=4)


def _enumerate(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
