"""Warn of training loops that are not those that a pruner was made for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from weakref import WeakKeyDictionary, WeakSet

from torch import nn
from torch.optim import Optimizer

from earlycrop.procedures.base import Procedure
from earlycrop.utils.parameters import flatten_optimizers

_procedures: WeakKeyDictionary[nn.Module, WeakSet[Procedure]] = WeakKeyDictionary()
"""The procedures that are at work on a network."""


def has_been_trained(network: nn.Module, optimizers: Sequence[Optimizer]) -> bool:
    """Return whether there are gradients, or an optimizer has a state."""
    has_state = any(bool(o.state) for o in flatten_optimizers(optimizers))
    return has_state or any(p.grad is not None for p in network.parameters())


def warn_of_late_step() -> None:
    """Warn that a pruner is called for the first time when training has begun."""
    warnings.warn(
        "step is called for the first time after training has begun, and counts as before training: call step once "
        "before the first epoch, and then after every epoch",
        stacklevel=3,
    )


def warn_of_further_step(epochs: int) -> None:
    """Warn that a pruner is called after more epochs than it was made for."""
    warnings.warn(
        f"step is called after more than {epochs} epochs, for which this pruner was made: call it once before training "
        "and after every epoch, and give the Pruner the number of all epochs",
        stacklevel=3,
    )


def register_procedure(network: nn.Module, procedure: Procedure) -> None:
    """Note that a procedure is at work on a network. Warn if another one is."""
    procedures = _procedures.setdefault(network, WeakSet())
    if procedure not in procedures:
        if any(not other.finished() for other in procedures):
            warnings.warn(
                "another pruner of this model has not finished, and both would prune it: use one, or close() the other",
                stacklevel=4,
            )
        procedures.add(procedure)


def forget_procedure(network: nn.Module, procedure: Procedure) -> None:
    """Note that a procedure was closed."""
    _procedures.setdefault(network, WeakSet()).discard(procedure)
