"""A model of one weight vector that is put where a test wants it."""

from __future__ import annotations

import torch
from torch import nn

from earlycrop.triggers.base import Trigger, TriggerContext
from earlycrop.triggers.weight_distance import WeightDistance


class Moved:
    """A model of one weight vector that is put where a test wants it, and a trigger that looks at it."""

    def __init__(self, trigger: Trigger) -> None:
        self.model = nn.Linear(2, 1, bias=False).double()
        self.trigger, self.distance = trigger, WeightDistance()

    def to(self, epoch: int, x: float, y: float) -> str | None:
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[x, y]]))
        self.distance.update(self.model)
        return self.trigger.update(
            TriggerContext(self.model, epoch, self.distance, lambda: torch.zeros(3, dtype=torch.bool))
        )
