"""What a trigger is: asked before training and after every epoch, it answers with the reason to prune now, or None."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.triggers.weight_distance import WeightDistance


@dataclass(frozen=True)
class TriggerContext:
    """What a trigger can base its decision on.

    Args:
        model: The network.
        epoch: The number of epochs it has been trained; 0 before the first.
        distance: How far its weights have moved; measured only for triggers with ``uses_weight_distance``.
        mask: Computes the mask that the method would prune with now: one dimension, true where a unit is removed.
    """

    model: nn.Module
    epoch: int
    distance: WeightDistance
    mask: Callable[[], Tensor]


@runtime_checkable
class Trigger(Protocol):
    """Decides when a method prunes. Inherit from it, or write a class with the same attributes and methods.

    Example, which prunes when the weights have moved less than 1 in an epoch, and after 20 epochs in any case::

        class SmallStep(earlycrop.Trigger):
            latest = 20
            uses_weight_distance = True

            def update(self, context):
                if context.epoch == self.latest:
                    return "latest epoch"
                if context.epoch > 0 and context.distance.history.changes[-1] < 1:
                    return "the weights moved less than 1"
                return None

        pruner = earlycrop.Pruner(model, optimizer, loss, trigger=SmallStep(), epochs=80)

    Attributes:
        latest: The epoch after which it prunes at the latest; None if it may never prune.
        uses_weight_distance: Whether it needs ``TriggerContext.distance``.
    """

    latest: int | None = None
    uses_weight_distance: bool = False

    @abstractmethod
    def update(self, context: TriggerContext) -> str | None:
        """Decide whether to prune now. It is called before training and after every epoch.

        Args:
            context: What the decision can be based on.

        Returns:
            The reason to prune now, or None.
        """

    def log(self) -> dict[str, float]:
        """Return what it measured at the last update, to be logged by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: tensors, numbers, strings, and dicts and lists of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from ``state_dict``.

        Args:
            state: The state.
        """
        del state  # by default, there is none


class EpochWindow(Trigger):
    """A trigger that prunes at one of the epochs from ``earliest`` to ``latest``, and not before epoch 2.

    Args:
        latest: The epoch after which it prunes in any case.
        earliest: The first epoch after which it may prune. At least 2 is used: epoch 1 is the reference.

    Attributes:
        why_latest: Why ``latest`` is the latest epoch, for the reason of the event; empty if the user has set it.

    Raises:
        ValueError: ``latest`` comes before ``earliest``.
    """

    why_latest: str = ""

    def __init__(self, latest: int, earliest: int = 2) -> None:
        self.latest: int = latest
        self.earliest = max(earliest, 2)
        if latest < self.earliest:
            raise ValueError(
                f"the latest epoch to prune, {latest}, comes before the earliest, {self.earliest}: raise it"
            )

    def latest_reason(self, context: TriggerContext, why: str) -> str | None:
        """Return the reason to prune at the latest epoch, and None before it.

        Args:
            context: What the decision can be based on.
            why: Why the trigger has not pruned earlier.

        Returns:
            The reason, or None.
        """
        if context.epoch < self.latest:
            return None
        return f"latest epoch {self.latest}" + (f", {self.why_latest}" if self.why_latest else "") + f": {why}"
