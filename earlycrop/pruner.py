"""The seam that a training loop calls: a ``Pruner`` that is asked before training and after every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop._optimizers import require_its_optimizers
from earlycrop._wrappers import insides_of, shapes_of, unwrapped
from earlycrop.event import Event, Request
from earlycrop.flow import Loss
from earlycrop.limits import NO_LIMITS, Limits
from earlycrop.masks import Masks
from earlycrop.methods import METHODS, Method
from earlycrop.pruning import carry_out
from earlycrop.trigger import Trigger


class Pruner:
    """Prunes a model while it is trained: call ``step`` once before training and after every epoch.

        pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.95, epochs=80)
        pruner.step(batches)
        for epoch in range(80):
            train_one_epoch(model, optimizer)
            pruner.step(batches)

    model, optimizer: pruned in place; the optimizer, or all of several, goes on with the live parameters and their
    state.
    A compiled or wrapped model is pruned inside, and ``loss`` is given what is inside (see :func:`earlycrop.shrink`).
    loss: (model, batch) -> scalar. method: a name in ``METHODS``, or a ``Method``. sparsity: the share of ``of``
    (weights, nodes, macs, bytes or time) to remove, above 0 and below 1. epochs: the whole budget. rounds: of iterative
    methods. score_batches: how many batches a scoring reads (the authors take 5), None for all that ``step`` is given.
    trigger: in place of the method's own. gate: where a node's gate stands ("rows", "columns" or "auto"), see
    :class:`earlycrop.event.Request`. copies: averages of the model's weights, pruned at the same places. limits:
    floors, ceilings, layers to leave alone, multiples of channels.

    Raises:
        ValueError: an argument is unknown or out of its range, or an optimizer or a copy is not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss: Loss,
        method: str | Method = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        epochs: int,
        of: str = "weights",
        rounds: int = 5,
        score_batches: int | None = 5,
        trigger: Trigger | None = None,
        gate: str = "auto",
        copies: Sequence[nn.Module] = (),
        limits: Limits = NO_LIMITS,
    ) -> None:
        if isinstance(method, str):
            if method not in METHODS:
                raise ValueError(f"there is no method '{method}': take one of {', '.join(METHODS)}")
            method = METHODS[method]
        for name, value in (("epochs", epochs), ("rounds", rounds), ("score_batches", score_batches)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, and is {value}")
        inside = unwrapped(model)
        require_its_optimizers(inside, optimizer)
        insides_of(copies, inside, shapes_of(inside))
        self.copies = copies
        self.model, self.optimizer, self.loss, self.method = model, optimizer, loss, method
        self.score_batches = score_batches
        self.request: Request | None = None
        """What will be pruned; None for a method that prunes nothing."""
        if method.criterion is not None:
            targets = method.schedule(sparsity, rounds)
            self.request = Request(method.criterion, method.structured, targets, of, gate, limits)
            limits.require_known(inside)
            self.trigger = method.trigger(sparsity, epochs) if trigger is None else trigger
        self.epoch = -1
        """Epochs done at the last ``step``; -1 before the first."""
        self.event: Event | None = None
        """The pruning, once it has taken place."""
        self._due: str | None = None
        """Why a pruning is due that has failed."""

    def step(self, batches: Iterable[Any]) -> Event | None:
        """Count an epoch, and prune if the trigger says so; what was done, or None.

        ``batches``: training data, read only when there is something to score.

        Raises:
            ValueError, FlowError, TraceError, SurgeryError: see :func:`earlycrop.prune`.
        """
        self.epoch += 1
        if self.request is None or self.event is not None:
            return None
        reason = self._due or self.trigger.update(unwrapped(self.model), self.epoch)
        if reason is None:
            return None
        request = self.request
        if request.gate == "auto":  # a norm's running statistics mean nothing before there was any training
            request = replace(request, gate="rows" if self.epoch else "columns")
        try:
            read = list(islice(batches, self.score_batches))
            self.event = carry_out(
                request, self.model, self.loss, read, self.optimizer, reason, self.epoch, self.copies
            )
        except BaseException:  # the same step can be taken again once the cause is mended
            self._due, self.epoch = reason, self.epoch - 1
            raise
        self.model = unwrapped(self.model)  # a wrapper from before the cut must not be kept alive
        return self.event

    def log(self) -> dict[str, float]:
        """What the trigger measured at the last ``step``, up to the pruning."""
        pruned_earlier = self.event is not None and self.event.epoch < self.epoch
        return {} if self.request is None or pruned_earlier else self.trigger.log()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model (:func:`earlycrop.save`) and the optimizer's state."""
        waiting = self.request is not None and self.event is None
        masks = None if self.event is None else self.event.masks
        return {
            "epoch": self.epoch,
            "event": None if self.event is None else self.event.record(),
            "trigger": self.trigger.state_dict() if waiting else None,
            "masks": None if masks is None else masks.removed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``, after the model and the optimizer's state have been loaded."""
        self.epoch = int(state["epoch"])
        if state["trigger"] is not None:
            self.trigger.load_state_dict(state["trigger"])
        if self.event is not None and self.event.masks is not None:
            self.event.masks.release()
        self.event = None
        if state["event"] is not None:
            masks = None if state["masks"] is None else Masks(self.model, state["masks"], self.optimizer, self.copies)
            self.event = Event.of_record(state["event"], masks)
