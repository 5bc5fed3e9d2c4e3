"""What a training loop calls: a ``Pruner``, asked once before training and after every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop.context import PruningContext
from earlycrop.events import Event, PruningRequest
from earlycrop.methods import METHODS, Method, MethodName, make_procedure, method_name
from earlycrop.procedures.base import Procedure, TrainingPlan
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.selection.targets import Measure
from earlycrop.surgery.masks import Masks
from earlycrop.training.checks import LoopChecks
from earlycrop.training.log import TrainingLog
from earlycrop.training.options import DEFAULT_OPTIONS, PrunerOptions
from earlycrop.training.state import check_state
from earlycrop.triggers.base import Trigger
from earlycrop.triggers.triggers import TriggerName
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import (
    check_loss,
    check_positive_int,
    check_sparsity,
    check_type,
    look_up,
)


class Pruner:
    """Prune a model while it is trained: call ``step`` once before training and after every epoch.

    Args:
        model: The model. It is pruned in place. If it is compiled or wrapped (``DistributedDataParallel``, ...), the
            network inside is pruned.
        optimizer: The optimizer, or all optimizers, that train the model. They continue with the pruned parameters and
            their state.
        loss: A function ``(network, batch) -> scalar`` that calls the network it is given. It may return the terms of
            the loss instead, as a tuple or a dict of scalars, of which the training loss is the sum. Of a dict with the
            key ``"loss"``, that entry alone counts.
        method: A name in ``METHODS``, or a :class:`Method`.
        sparsity: The share of ``of`` to remove, above 0 and below 1.
        epochs: For how many epochs the model is trained, before and after the pruning together.
        of: What the sparsity is a share of.
        rounds: In how many rounds an iterative method reaches the target.
        score_batches: How many batches the scores are computed on (the authors take 5), or None for all that ``step``
            is given.
        trigger: When to prune, in place of the method's own trigger: a :class:`Trigger`, a name in ``TRIGGERS``, or the
            number of the epoch to prune after.
        ema_models: Averages of the model's weights, or a single one. They are pruned at the same places.
        limits: Floors, ceilings, layers to leave alone, multiples of channels.
        options: Further settings; see :class:`PrunerOptions`.

    Attributes:
        total_epochs: How many epochs to train in all: ``epochs``, but several times that for ``ltr``, which trains
            again and again.
        epoch: The number of epochs done at the last ``step``; -1 before the first.
        event: The last pruning, or None.
        events: All prunings so far. Only the last one has its masks.
        request: What will be pruned; None for a method that prunes nothing.
        position: How many epochs of training the model has behind it: fewer than were trained, after a rewind.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is unknown or out of its range, an optimizer or an average is not the model's, the
            trigger cannot fire within the epochs, the network lacks what the method needs, or it cannot be traced
            (see :func:`earlycrop.trace`).

    Notes:
        Where several processes train the model, each makes a pruner, and calls ``step`` with the same number of
        batches, each its own. Gradients and Hessian products are averaged, and all processes make the same cut.

        ``copy.deepcopy((model, optimizer, pruner))`` gives a pruner that holds the masks of the copied model.

    Examples:
        >>> pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.95, epochs=80)
        >>> pruner.step(batches)
        >>> for epoch in range(pruner.total_epochs):
        ...     train_one_epoch(model, optimizer)
        ...     pruner.step(batches)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss: Loss,
        method: MethodName | Method = "earlycrop-s",
        sparsity: float = 0.9,
        *,
        epochs: int,
        of: Measure = "weights",
        rounds: int = 5,
        score_batches: int | None = 5,
        trigger: Trigger | TriggerName | int | None = None,
        ema_models: nn.Module | Sequence[nn.Module] = (),
        limits: Limits = NO_LIMITS,
        options: PrunerOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.method = look_up("method", method, METHODS, Method)
        self.options = options
        if self.method.criterion is not None:
            check_loss(loss)
        check_type("limits", limits, Limits, "write earlycrop.Limits(floors=...)")
        check_type("options", options, PrunerOptions, "write earlycrop.PrunerOptions(gate=...)")
        if self.method.criterion is not None or options.log_triggers:
            sparsity = check_sparsity(sparsity)
        epochs, rounds = check_positive_int("epochs", epochs), check_positive_int("rounds", rounds)
        score_batches = None if score_batches is None else check_positive_int("score_batches", score_batches)
        self._context = PruningContext.create(model, optimizer, loss, ema_models, options.group)
        limits.check_layers(self._context.network)
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.epoch = -1
        self.events: list[Event] = []
        self.request: PruningRequest | None = None
        self.total_epochs = epochs
        self._procedure: Procedure | None = None
        self._checks: LoopChecks | None = None
        if self.method.criterion is not None:
            self.request = self._make_request(sparsity, rounds, of, limits)
            plan = TrainingPlan(self._context, self.request, epochs, score_batches, options.rewind_with)
            penalty = self.method.penalty if options.penalty is None else options.penalty
            self._procedure = make_procedure(plan, self.method, trigger, sparsity, rounds, options.rewind, penalty)
            self.total_epochs = self._procedure.total_epochs
            self._checks = LoopChecks(self._context, self._procedure, self.method.structured)
            self._context.warn_of_untrained()
            if self.method.structured:
                self._context.warn_of_hooks()
        needs_distance = self._procedure is not None and self._procedure.uses_weight_distance
        self._measurements = TrainingLog(self._context, options, sparsity, limits, needs_distance)
        self._log: dict[str, float] = {}

    def _make_request(self, sparsity: float, rounds: int, of: str, limits: Limits) -> PruningRequest:
        method, options = self.method, self.options
        assert method.criterion is not None
        targets, gate = method.schedule(sparsity, rounds), options.gate
        return PruningRequest(
            method.criterion, method.structured, targets, of, gate, limits, options.shuffled, options.statistics,
            options.early_batches,
        )  # fmt: skip

    def __repr__(self) -> str:
        name = method_name(self.method) or "a custom method"
        target = "" if self.request is None else f", {self.request.targets[-1]:.4g} of the {self.request.of}"
        done = "not pruned yet" if self.event is None else f"pruned at epoch {self.event.epoch}"
        return f"Pruner({name}{target}, epoch {max(0, self.epoch)} of {self.total_epochs}, {done})"

    @property
    def event(self) -> Event | None:
        """The last pruning, or None."""
        return self.events[-1] if self.events else None

    @property
    def position(self) -> int:
        """How many epochs of training the model has behind it: fewer than were trained, after a rewind."""
        epoch = max(0, self.epoch)
        return epoch if self._procedure is None else self._procedure.position(epoch)

    def step(self, batches: Iterable[Any]) -> Event | None:
        """Count an epoch, and prune if it is time.

        Args:
            batches: Training data. It is read only if there is something to score.

        Returns:
            What was pruned, or None.

        Raises:
            TypeError: ``batches`` cannot be iterated over, or are a single batch.
            ValueError, FlowError, TraceError, SurgeryError: See :func:`earlycrop.prune`. Once the cause is removed, the
                same step can be repeated.
        """
        with outside_inference_mode():
            epoch, had_pruned = self.epoch + 1, bool(self.events)
            if self._checks is not None:
                self._checks.check_step(epoch, batches)
            if self.event is not None and self.event.masks is not None:
                self.event.masks.hold()  # parameters may have been replaced since the masks were made
            if not had_pruned:  # after a cut, distances from the start mean nothing
                batches = self._measurements.measure(epoch, batches)
            event = None
            if self._procedure is not None:
                event = self._procedure.step(epoch, self._measurements.distance or WeightDistance(), batches)
            if event is not None:
                self._record_event(event)
            self._log = self._collect_log(had_pruned, event)
            self.epoch = epoch
            return event

    def _collect_log(self, had_pruned: bool, event: Event | None) -> dict[str, float]:
        log = {} if had_pruned else dict(self._measurements.values)
        if event is not None:
            log.pop("kernel_turn", None)
        if self._procedure is not None and (event is not None or not self._procedure.finished()):
            log |= self._procedure.log()
        return log

    def _record_event(self, event: Event) -> None:
        """Note a pruning, and release what was needed up to it."""
        self.events = [*(replace(e, masks=None) for e in self.events), event]  # masks are as large as the model
        self.model = self._context.network  # a wrapper from before the cut must not be kept alive
        self._measurements.forget()
        if self.options.optimizer_state == "reset":
            for optimizer in flatten_optimizers(self._context.optimizers):
                optimizer.state.clear()

    def log(self) -> dict[str, float]:
        """Return what was measured at the last ``step``: distances until the first pruning, and the trigger's own."""
        return dict(self._log)

    def close(self) -> None:
        """Remove all hooks but those of masks. Not needed after the last epoch."""
        self._measurements.close()
        if self._procedure is not None:
            self._procedure.close()
        if self._checks is not None:
            self._checks.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has.

        Raises:
            TypeError: Hooks of a penalty or of gates are registered, which would stay with the original.
        """
        if self._procedure is not None and self._procedure.has_hooks():
            raise TypeError(
                "a pruner with a penalty or with gates has hooks that a copy would lack: copy model and optimizer, and "
                "load this pruner's state_dict() into a new pruner of theirs"
            )
        return dict(vars(self))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the model (:func:`earlycrop.save`) and the optimizer's state."""
        masks = None if self.event is None else self.event.masks
        pending = self._procedure is not None and self._procedure.pending_reason is not None
        return {
            "epoch": self.epoch,
            **self._measurements.state_dict(not self.events, pending),
            "method": method_name(self.method),
            "trigger": None if self._procedure is None else self._procedure.trigger_name,
            "shapes": {name: list(p.shape) for name, p in dict(self._context.network.named_parameters()).items()},
            "events": [event.record() for event in self.events],
            "procedure": None if self._procedure is None else self._procedure.state_dict(),
            "masks": None if masks is None else masks.removed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a ``state_dict()``, after the model and the optimizer's state have been loaded.

        Raises:
            ValueError: The state is that of a pruner with another method or trigger, or of another model. Nothing was
                changed.
        """
        check_state(state, self.state_dict(), dict(self._context.network.named_parameters()))
        context, masks = self._context, None
        events = [Event.from_record(record, None) for record in state["events"]]
        if state["masks"] is not None:
            masks = Masks(context.network, state["masks"], context.optimizers, context.ema_models)
            events[-1] = replace(events[-1], masks=masks)
        if self.event is not None and self.event.masks is not None:
            self.event.masks.release()
        self.events, self.epoch = events, state["epoch"]
        self._measurements.load_state_dict(state)
        if self._procedure is not None:
            self._procedure.load_state_dict(state["procedure"])
            if masks is not None:
                self._procedure.set_masks(masks)

    def branch_off(self, state: Mapping[str, Any]) -> None:
        """Load the state of a pruner that has pruned nothing yet, whatever its method, and repeat its last ``step``.

        Several runs that prune at different epochs can share one dense run up to there.

        Raises:
            ValueError: That pruner has pruned, or what prunes here depends on the epochs before.
        """
        if state.get("events"):
            raise ValueError("a run that has pruned cannot be branched off: give the state of a dense run")
        if self._procedure is None or not self._procedure.can_branch:
            raise ValueError("only a pruning at a given epoch can branch off: give the trigger as a number")
        current = self.state_dict()
        self.load_state_dict({**state, **{key: current[key] for key in ("procedure", "method", "trigger")}})
        self.epoch -= 1
