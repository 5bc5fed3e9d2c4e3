"""What all procedures share: how a method goes about its pruning while a model is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim import Optimizer

from earlycrop.events import Event, PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.tracing.trace import trace
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.distributed import ProcessGroup
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import unwrap


@dataclass
class Job:
    """What a procedure works on; ``companions``: what is rewound beside model and optimizer (schedulers, say);
    ``group``: the processes that train the model.
    """

    model: nn.Module
    optimizer: Optimizer | Sequence[Optimizer]
    loss: Loss
    request: PruningRequest
    epochs: int
    score_batches: int | None
    copies: Sequence[nn.Module]
    companions: Sequence[Any]
    group: ProcessGroup = None

    @property
    def inside(self) -> nn.Module:
        return unwrap(self.model)

    def read(self, batches: Iterable[Any]) -> list[Any]:
        """The batches to score on."""
        return list(islice(batches, self.score_batches))

    def traced(self, batches: list[Any]) -> Graph:
        """The graph of the model as it is now.

        Raises:
            ValueError: there is no batch.
        """
        if not batches:
            raise ValueError("there is no batch to score on: give at least one batch of training data")
        return trace(self.inside, lambda m: self.loss(m, batches[0]))


@runtime_checkable
class Procedure(Protocol):
    """total: how many epochs are trained in all."""

    total: int

    def position(self, epoch: int) -> int:
        """How many epochs of the model's training are behind it after ``epoch`` epochs: fewer after a rewind."""

    def step(self, job: Job, epoch: int, walk: WeightDistance, batches: Iterable[Any]) -> Event | None:
        """Prune if it is time; what was done, or None. It may be asked again after an error."""

    def finished(self) -> bool:
        """Whether it has nothing left to do."""

    def log(self) -> dict[str, float]:
        """What it measured at the last step."""

    def close(self) -> None:
        """Take off every hook."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

    def load_state_dict(self, job: Job, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``; the model has its shape of then."""
