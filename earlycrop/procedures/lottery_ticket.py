"""Lottery tickets with rewinding: many trainings, each from the same early epoch, each with fewer weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch

from earlycrop.events import Event
from earlycrop.procedures.base import Job
from earlycrop.pruning import run_pruning
from earlycrop.surgery.masks import Masks
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.modules import tensors_by_name
from earlycrop.utils.parameters import flatten_optimizers

SHARE_PER_ROUND = 0.2
"""Of the weights that are left go after each training."""


class LotteryTicket:
    """The lottery ticket with rewinding: train, remove 20 % of what is left, put all that remains back to where it was
    after epoch k, and so on; at the target, train once more from there.

    Parameters, buffers, the optimizer, ``copies`` and ``companions`` go back. Source: Frankle et al. 2020, algorithm 1
    and section 3 (k > 0); Frankle and Carbin 2019 (k = 0).

    Raises:
        ValueError: the share to rewind to is no share below 1.
    """

    def __init__(self, job: Job, rewind: float) -> None:
        if not 0 <= rewind < 1:
            raise ValueError(f"rewind must be a share of the epochs, from 0 to below 1, and is {rewind}")
        target = job.request.targets[-1]
        self.to = ceil(rewind * job.epochs)
        if self.to >= job.epochs:
            raise ValueError(
                f"rewinding to epoch {self.to} of {job.epochs} leaves nothing to train: rewind further back"
            )
        self.targets = [target]
        step = 1 - SHARE_PER_ROUND
        while 1 - step < target - 1e-9:
            self.targets.insert(-1, 1 - step)
            step *= 1 - SHARE_PER_ROUND
        self.epochs = job.epochs
        self.total = job.epochs + len(self.targets) * (job.epochs - self.to)
        self._round = 0
        self._start: dict[str, Any] | None = None
        self._masks: Masks | None = None

    def position(self, epoch: int) -> int:
        again = self.epochs - self.to
        rewinds = min(len(self.targets), 1 + (epoch - self.epochs) // again) if epoch >= self.epochs else 0
        return epoch - rewinds * again

    def step(self, job: Job, epoch: int, walk: WeightDistance, batches: Iterable[Any]) -> Event | None:
        if epoch == self.to:
            self._start = self._state(job)
        done = self._round
        if done == len(self.targets) or epoch != self.epochs + done * (self.epochs - self.to):
            return None
        target = self.targets[done]
        reason = f"training {done + 1} of {len(self.targets) + 1} is over; rewound to epoch {self.to}"
        request = replace(job.request, targets=[target])
        event = run_pruning(
            request, job.model, job.loss, job.read(batches), job.optimizer, reason, epoch, job.copies, group=job.group
        )
        if self._masks is not None:
            self._masks.release()
        assert event.masks is not None
        assert self._start is not None
        self._masks, self._round = event.masks, done + 1
        self._put_back(job, self._start)
        event.masks.enforce(job.optimizer)
        return event

    def _state(self, job: Job) -> dict[str, Any]:
        return {
            "tensors": {name: t.detach().cpu().clone() for name, t in tensors_by_name(job.inside).items()},
            "optimizers": [copy.deepcopy(o.state_dict()) for o in flatten_optimizers(job.optimizer)],
            "copies": [copy.deepcopy(c.state_dict()) for c in job.copies],
            "companions": [copy.deepcopy(c.state_dict()) for c in job.companions],
        }

    def _put_back(self, job: Job, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, t in tensors_by_name(job.inside).items():
                t.copy_(state["tensors"][name])
        for o, held in zip(flatten_optimizers(job.optimizer), state["optimizers"], strict=True):
            o.load_state_dict(copy.deepcopy(held))
        for kind, live in (("copies", job.copies), ("companions", job.companions)):
            for one, held in zip(live, state.get(kind, ()), strict=True):
                one.load_state_dict(copy.deepcopy(held))

    def finished(self) -> bool:
        return self._round == len(self.targets)

    def log(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """The masks stay: they are the event's."""

    def state_dict(self) -> dict[str, Any]:
        return {"round": self._round, "start": None if self.finished() else self._start}

    def load_state_dict(self, job: Job, state: Mapping[str, Any]) -> None:
        self._round, self._start = int(state["round"]), state["start"]

    def adopt(self, masks: Masks | None) -> None:
        """The masks of the last event, made anew from a checkpoint."""
        self._masks = masks
