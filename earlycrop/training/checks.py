"""Check that a training loop is the one that a pruner was made for."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from earlycrop.context import PruningContext
from earlycrop.procedures.base import Procedure
from earlycrop.utils.caller import warn
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.validation import check_batches

_procedures: WeakKeyDictionary[nn.Module, WeakSet[Procedure]] = WeakKeyDictionary()
"""The procedures that are at work on a network."""


class LoopChecks:
    """Warns where the training loop is not the one that a pruner was made for.

    Args:
        context: The network, and what goes on with it.
        procedure: The procedure of the pruner.
        structured: Whether nodes are cut.
    """

    def __init__(self, context: PruningContext, procedure: Procedure, structured: bool) -> None:
        self.context, self.procedure, self.structured = context, procedure, structured
        self._was_trained = self._has_been_trained()

    def check_step(self, epoch: int, batches: Any) -> None:
        """Check a step of the pruner before it is taken.

        Args:
            epoch: The number of epochs done.
            batches: What the step was given.

        Raises:
            TypeError: The batches are a single one, or cannot be iterated over.
        """
        epochs = self.procedure.total_epochs
        if epoch == 0 and not self._was_trained and self._has_been_trained():
            warn(
                "step is called for the first time after training has begun, and counts as the step before training: "
                "call step once before the first epoch, and then after every epoch",
            )
        if epoch == epochs + 1:
            warn(
                f"this pruner was made for {epochs} epochs, and step is called after another one: give the Pruner the "
                "number of all epochs, and call step once before training and once after every epoch",
            )
        if self.procedure.finished():
            return
        if epoch == 1 and self.structured:
            self.context.warn_of_state()
        check_batches(batches)
        self._register()

    def close(self) -> None:
        """Note that the procedure was closed."""
        _procedures.setdefault(self.context.network, WeakSet()).discard(self.procedure)

    def _has_been_trained(self) -> bool:
        """Return whether there are gradients, or an optimizer has a state."""
        has_state = any(bool(o.state) for o in flatten_optimizers(self.context.optimizers))
        return has_state or any(p.grad is not None for p in self.context.network.parameters())

    def _register(self) -> None:
        """Note that the procedure is at work on the network. Warn if another one is."""
        procedures = _procedures.setdefault(self.context.network, WeakSet())
        if self.procedure not in procedures:
            if any(not other.finished() for other in procedures):
                warn(
                    "another pruner of this model has not finished, and both would prune it: use one, or close() the "
                    "other",
                )
            procedures.add(self.procedure)
