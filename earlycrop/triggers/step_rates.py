"""The learning rates that optimizers took their steps with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop.utils.parameters import hookable_optimizers


class StepRates:
    """Adds up the learning rates of all steps, so that the weights' movement can be measured by them.

    The rate of a step is the mean over the parameter groups, weighted by their numbers of entries. Of several
    optimizers, the one with the most entries counts. A copy of an optimizer has no hooks, so ``attach`` is called again
    after every epoch.

    Args:
        optimizers: All optimizers that train the network.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizer: Optimizer | None = None
        self._handle: RemovableHandle | None = None
        self._sum: Any = 0.0
        self.attach(optimizers)

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Count the steps of these optimizers from now on.

        Args:
            optimizers: All optimizers that train the network.
        """
        hookable = hookable_optimizers(optimizers)
        largest = max(hookable, key=lambda o: sum(_sizes(o)), default=None)
        if largest is not self._optimizer:
            self.release()
            self._optimizer = largest
            self._handle = None if largest is None else largest.register_step_post_hook(self._add)

    def take(self) -> float | None:
        """Return the sum since the last call, or None if there was no step with a learning rate."""
        total, self._sum = float(self._sum), 0.0
        return total if total > 0 else None

    def release(self) -> None:
        """Stop counting."""
        if self._handle is not None:
            self._handle.remove()
        self._optimizer = self._handle = None

    def _add(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        sizes = _sizes(optimizer)
        rates: list[Any] = [group.get("lr") for group in optimizer.param_groups]
        if None not in rates:  # a rate may be a tensor, which is not read here: reading waits for a GPU
            weighted = [rate * size for rate, size in zip(rates, sizes, strict=True)]
            self._sum = self._sum + sum(weighted) / max(1, sum(sizes))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: the hook stays with the original."""
        return {**vars(self), "_optimizer": None, "_handle": None}


def _sizes(optimizer: Optimizer) -> list[int]:
    return [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
