"""What the callbacks have in common: a pruner that is made when training begins, or goes on with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop._wrappers import unwrapped
from earlycrop.flow import Loss
from earlycrop.pruner import Pruner


class Asked:
    """Holds a :class:`earlycrop.Pruner`, as ``pruner``, once training has begun."""

    go_on: str
    """How training goes on from a checkpoint."""

    def __init__(
        self,
        method: str = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        loss: Loss | None = None,
        batches: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        self.method, self.sparsity, self.loss, self.batches, self.options = method, sparsity, loss, batches, options
        self.pruner: Pruner | None = None
        self._resumed: Mapping[str, Any] | None = None

    @property
    def small(self) -> bool:
        """Whether a model has been shrunk, so that a fresh one does not take its weights."""
        return self.pruner is not None and self.pruner.event is not None and self.pruner.method.structured

    @property
    def named(self) -> str:
        """The method's name, for a checkpoint; a ``Method`` of one's own has none."""
        return self.method if isinstance(self.method, str) else "a method of your own"

    def begin(
        self, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], loss: Loss, epochs: int, done: int
    ) -> Pruner:
        """Make the pruner when ``done`` epochs are over, and take up the state that was resumed from, or that of the
        pruner before where the same model's training simply goes on: what it has pruned stands.

        Raises:
            ValueError: see :class:`earlycrop.Pruner`; the method trains several times over; or the training that begins
            is not one that the pruner can go on with: nothing is pruned twice.
        """
        before, state = self.pruner, self._resumed
        if before is not None and unwrapped(before.model) is not unwrapped(model):
            before = None
        if before is not None and state is None:
            if before.epoch <= done:
                state = before.state_dict()
            elif before.event is not None:
                raise ValueError(
                    "this PruningCallback has pruned this model already, and training begins anew: make a fresh model, "
                    f"a Trainer and a callback for it, or go on from a checkpoint by {self.go_on}"
                )
        if state is None and done:
            raise ValueError(
                f"training is in epoch {done + 1}, and this PruningCallback was not there: make a new Trainer"
            )
        pruner = Pruner(model, optimizer, loss, self.method, self.sparsity, epochs=epochs, **self.options)
        if pruner.total_epochs != epochs:
            raise ValueError(f"{self.method} trains {pruner.total_epochs} epochs in all: use a loop of your own")
        if before is not None:  # its hooks are on an optimizer that may be gone, and the new one has its own
            before.close()
            if before.event is not None and before.event.masks is not None:
                before.event.masks.release()
        if state is not None:
            pruner.load_state_dict(state)
        self.pruner, self._resumed = pruner, None
        return pruner
