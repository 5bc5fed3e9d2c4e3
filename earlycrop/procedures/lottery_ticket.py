"""Lottery tickets with rewinding: train, prune and rewind, again and again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch

from earlycrop.events import Event
from earlycrop.procedures.base import Procedure, TrainingPlan
from earlycrop.pruning import run_pruning
from earlycrop.surgery.masks import Masks
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.modules import tensors_by_name
from earlycrop.utils.parameters import flatten_optimizers

SHARE_PER_ROUND = 0.2
"""The share of the remaining weights that is removed after each training."""


class LotteryTicket(Procedure):
    """Train, remove 20 % of the weights that are left, rewind the others to their values after epoch k, and repeat.

    Once the target is reached, train once more from epoch k. Parameters, buffers, the optimizers, the averages of the
    weights and ``rewind_with`` are rewound.

    Args:
        plan: What to prune.
        rewind: k as a share of the epochs, below 1.

    Raises:
        ValueError: ``rewind`` leaves no epoch to train.

    Source: Frankle et al. 2020, algorithm 1 and section 3 (k > 0); Frankle and Carbin 2019 (k = 0).
    """

    def __init__(self, plan: TrainingPlan, rewind: float) -> None:
        super().__init__(plan)
        self.rewind_epoch = ceil(rewind * plan.epochs)
        if self.rewind_epoch >= plan.epochs:
            raise ValueError(
                f"rewinding to epoch {self.rewind_epoch} of {plan.epochs} leaves nothing to train: rewind further back"
            )
        self.targets = _make_targets(plan.request.targets[-1])
        self.total_epochs = plan.epochs + len(self.targets) * self._epochs_again
        self._round = 0
        self._start: dict[str, Any] | None = None
        self._masks: Masks | None = None

    @property
    def _epochs_again(self) -> int:
        """How many epochs are trained after each rewind."""
        return self.plan.epochs - self.rewind_epoch

    def position(self, epoch: int) -> int:
        past_first = epoch - self.plan.epochs
        rewinds = min(len(self.targets), 1 + past_first // self._epochs_again) if past_first >= 0 else 0
        return epoch - rewinds * self._epochs_again

    def step(self, epoch: int, distance: WeightDistance, batches: Iterable[Any]) -> Event | None:
        if epoch == self.rewind_epoch:
            self._start = self._snapshot()
        rounds_done, plan = self._round, self.plan
        if self.finished() or epoch != plan.epochs + rounds_done * self._epochs_again:
            return None
        reason = f"training {rounds_done + 1} of {len(self.targets) + 1} is over; rewound to epoch {self.rewind_epoch}"
        request = replace(plan.request, targets=[self.targets[rounds_done]])
        event = run_pruning(request, plan.context, plan.read_batches(batches), reason, epoch)
        if self._masks is not None:
            self._masks.release()
        assert event.masks is not None
        assert self._start is not None
        self._masks, self._round = event.masks, rounds_done + 1
        self._rewind(self._start)
        event.masks.enforce(plan.context.optimizers)
        return event

    def _stateful(self) -> dict[str, Iterable[Any]]:
        """Return what is rewound beside the network, by kind."""
        context = self.plan.context
        optimizers = flatten_optimizers(context.optimizers)
        return {"optimizers": optimizers, "ema_models": context.ema_models, "rewind_with": self.plan.rewind_with}

    def _snapshot(self) -> dict[str, Any]:
        tensors = tensors_by_name(self.plan.context.network)
        states = {kind: [copy.deepcopy(x.state_dict()) for x in xs] for kind, xs in self._stateful().items()}
        return {"tensors": {name: t.detach().cpu().clone() for name, t in tensors.items()}, **states}

    def _rewind(self, snapshot: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, t in tensors_by_name(self.plan.context.network).items():
                t.copy_(snapshot["tensors"][name])
        for kind, objects in self._stateful().items():
            for x, state in zip(objects, snapshot[kind], strict=True):
                x.load_state_dict(copy.deepcopy(state))

    def finished(self) -> bool:
        return self._round == len(self.targets)

    def close(self) -> None:
        """Do nothing: its masks belong to the event."""

    def state_dict(self) -> dict[str, Any]:
        return {"round": self._round, "start": None if self.finished() else self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._round, self._start = int(state["round"]), state["start"]

    def set_masks(self, masks: Masks) -> None:
        self._masks = masks


def _make_targets(target: float) -> list[float]:
    """Return the sparsity after each training."""
    targets = [target]
    left = 1 - SHARE_PER_ROUND
    while 1 - left < target - 1e-9:
        targets.insert(-1, 1 - left)
        left *= 1 - SHARE_PER_ROUND
    return targets
