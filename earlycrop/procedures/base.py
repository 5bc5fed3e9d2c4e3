"""What all procedures share. A procedure decides when to prune during training, and prunes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from earlycrop.context import PruningContext
from earlycrop.events import Event, PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.surgery.masks import Masks
from earlycrop.tracing.trace import trace_batches
from earlycrop.triggers.weight_distance import WeightDistance


@dataclass(frozen=True)
class TrainingPlan:
    """What a procedure is to do, and on what.

    Args:
        context: The network, and what goes on with it.
        request: What to prune.
        epochs: For how many epochs the network is trained.
        score_batches: How many batches the scores are computed on; None for all.
        rewind_with: What is rewound together with the network, such as schedulers.
    """

    context: PruningContext
    request: PruningRequest
    epochs: int
    score_batches: int | None
    rewind_with: Sequence[Any] = ()

    def read_batches(self, batches: Iterable[Any]) -> list[Any]:
        """Read the batches to score on."""
        return list(islice(batches, self.score_batches))

    def trace(self, batches: list[Any]) -> Graph:
        """Trace the network as it is now.

        Raises:
            ValueError: There is no batch.
        """
        if not batches:
            raise ValueError("there is no batch to score on: give at least one batch of training data")
        return trace_batches(self.context.network, self.context.loss, batches)


class Procedure(ABC):
    """Decide when to prune during training, and prune. ``step`` is called before training and after every epoch.

    Attributes:
        plan: What to do, and on what.
        total_epochs: How many epochs are trained in all.
    """

    uses_weight_distance = False
    """Whether it looks at how far the weights have moved."""
    trigger_name: str | None = None
    """The name of its trigger's class, if it has one."""
    pending_reason: str | None = None
    """The reason of a pruning that failed and is to be repeated, or None."""
    can_branch = False
    """Whether what it does depends on nothing before the epoch in which it prunes."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.total_epochs = plan.epochs

    @abstractmethod
    def step(self, epoch: int, distance: WeightDistance, batches: Iterable[Any]) -> Event | None:
        """Prune if it is time, and return what was done. May be called again after an error."""

    @abstractmethod
    def finished(self) -> bool:
        """Return whether nothing is left to do."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a ``state_dict()``; the network has its sizes of then."""

    def position(self, epoch: int) -> int:
        """Return how many epochs of training the network has behind it after ``epoch`` epochs: fewer after a rewind."""
        return epoch

    def log(self) -> dict[str, float]:
        """Return what was measured at the last step."""
        return {}

    def has_hooks(self) -> bool:
        """Return whether hooks are registered that a copy would lack."""
        return False

    def set_masks(self, masks: Masks) -> None:
        """Replace the masks of the last event by these, which were made from a checkpoint."""
        del masks

    @abstractmethod
    def close(self) -> None:
        """Remove all hooks but those of masks."""
