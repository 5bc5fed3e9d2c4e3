"""The seam that a training loop calls: a ``Pruner`` that is asked before training and after every epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop.events import Event, PruningRequest
from earlycrop.methods import Method, make_procedure, method_and_trigger_names, resolve_method
from earlycrop.procedures.base import Job, Procedure
from earlycrop.procedures.lottery_ticket import LotteryTicket
from earlycrop.procedures.once import TriggeredPruning
from earlycrop.pruner_state import check_state
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.surgery.masks import Masks
from earlycrop.surgery.optimizers import check_optimizers
from earlycrop.triggers.mask_distance import NodeMaskTracker
from earlycrop.triggers.ntk import NTKDistance
from earlycrop.triggers.triggers import Trigger
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.distributed import ProcessGroup, fail_together
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.modules import parameters_by_name
from earlycrop.utils.parameters import flatten_optimizers
from earlycrop.utils.types import Loss
from earlycrop.utils.validation import (
    as_modules,
    as_optimizers,
    check_network,
    check_positive_int,
    check_sparsity,
    check_type,
)
from earlycrop.utils.wrappers import process_group_of, rewrap_message, tensor_shapes, unwrap, unwrap_ema_models


class Pruner:
    """Prunes a model while it is trained: call ``step`` once before training and after every epoch.

        pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.95, epochs=80)
        pruner.step(batches)
        for epoch in range(pruner.total_epochs):
            train_one_epoch(model, optimizer)
            pruner.step(batches)

    ``total_epochs`` is ``epochs``, and several times that for ``ltr``, which trains again and again.

    model, optimizer: pruned in place; the optimizer, or all of several, goes on with the live parameters and their
    state. A compiled or wrapped model is pruned inside, and ``loss`` is given what is inside (see
    :func:`earlycrop.shrink`). loss: (model, batch) -> scalar. method: a name in ``METHODS``, or a ``Method``. sparsity:
    the share of ``of`` (weights, nodes, macs, bytes or time) to remove, above 0 and below 1. epochs: the whole budget.
    rounds: of iterative methods. score_batches: how many batches a scoring reads (the authors take 5), None for all
    that ``step`` is given. trigger: in place of the method's own, a ``Trigger``, a name in ``TRIGGERS``, or the epoch
    to prune after. gate: where a node's gate stands ("rows", "norms", "columns" or "auto"), see
    :class:`earlycrop.events.PruningRequest`. copies: averages of the model's weights, or a single one, pruned at the
    same places. limits: floors, ceilings, layers to leave alone, multiples of channels.

    shuffled: a control: what goes is as many of each layer as the method chose, at random. penalty: the weight of the
    L1 penalty on batch norm scales, in place of the method's own. rewind: the share of the epochs that ``ltr`` rewinds
    to. companions: what is rewound with the optimizer: anything with ``state_dict`` and ``load_state_dict``, such as a
    scheduler. optimizer_state: "reset" lets the optimizers start afresh after a pruning. watch: measure what every
    trigger looks at after every epoch, whatever prunes (two copies of the weights and five masks of nodes are kept, and
    a batch is read after the first epoch). probe: a small batch on which to measure after every epoch how far the
    neural tangent kernel has turned (``kernel_turn`` in the log, see :class:`earlycrop.triggers.ntk.NTKDistance`).
    statistics: what batch norms use while scores are taken. group: the torch.distributed process group that trains the
    model in another way than DistributedDataParallel, whose own is found. Each process makes a pruner and steps it with
    training data of its own, as many batches; gradients and Hessian products are averaged, and all make the same cut.

    A copy (``copy.deepcopy((model, optimizer, pruner))``, or by pickle) holds its own model's masks.

    Raises:
        TypeError: an argument is of another kind than it should be. ValueError: one is unknown or out of its range, an
        optimizer or a copy is not the model's, the trigger cannot fire within the epochs, or the network has not what
        the method needs, or cannot be watched (see :func:`earlycrop.trace`).
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
        trigger: Trigger | str | int | None = None,
        gate: str = "auto",
        copies: nn.Module | Sequence[nn.Module] = (),
        limits: Limits = NO_LIMITS,
        shuffled: bool = False,
        penalty: float | None = None,
        rewind: float = 0.05,
        companions: Sequence[Any] = (),
        optimizer_state: str = "keep",
        watch: bool = False,
        probe: Any = None,
        statistics: str = "auto",
        group: ProcessGroup = None,
    ) -> None:
        method = resolve_method(method)
        check_type("limits", limits, Limits, "write earlycrop.Limits(floors=...)")
        if method.criterion is not None:
            check_type("the loss", loss, Callable, "give a function of (model, batch) that returns a scalar")
        if method.criterion is not None or watch:
            sparsity = check_sparsity(sparsity)
        epochs, rounds = check_positive_int("epochs", epochs), check_positive_int("rounds", rounds)
        score_batches = None if score_batches is None else check_positive_int("score_batches", score_batches)
        if optimizer_state not in ("keep", "reset"):
            raise ValueError(f"optimizer_state is keep or reset, and not '{optimizer_state}'")
        check_network(model)
        check_materialised(model)
        inside = unwrap(model)
        check_optimizers(inside, as_optimizers(optimizer))
        copies = as_modules(copies)
        unwrap_ema_models(copies, inside, tensor_shapes(inside))
        self.copies = copies
        self.model, self.optimizer, self.loss, self.method = model, optimizer, loss, method
        self.optimizer_state = optimizer_state
        self.total_epochs = epochs
        """How many epochs to train in all."""
        self.request: PruningRequest | None = None
        """What will be pruned; None for a method that prunes nothing."""
        self._procedure: Procedure | None = None
        self._hooked = False
        self._group: ProcessGroup = None
        """Of the processes that prune together."""
        limits.require_known(inside)
        if method.criterion is not None:
            targets = method.schedule(sparsity, rounds)
            self.request = PruningRequest(
                method.criterion, method.structured, targets, of, gate, limits, shuffled, statistics
            )
            self._group = group = group or process_group_of(model)
            self._job = Job(model, optimizer, loss, self.request, epochs, score_batches, copies, companions, group)
            weight = method.penalty if penalty is None else penalty
            self._hooked = method.procedure == "tick-tock" or (method.procedure == "once" and bool(weight))
            self._procedure = make_procedure(self._job, method, trigger, sparsity, rounds, rewind, weight)
            self.total_epochs = self._procedure.total
        self.epoch = -1
        """Epochs done at the last ``step``; -1 before the first."""
        self.events: list[Event] = []
        """The prunings that have taken place; the last one has its masks."""
        self._rewrap: str | None = None
        self._walk = WeightDistance() if watch or self._looks_at_distances() else None
        self._masks = NodeMaskTracker(sparsity, limits) if watch else None
        self._walked = -1
        self._kernel = None if probe is None else NTKDistance(inside, loss, probe)
        self._moved: dict[str, float] = {}
        self._log: dict[str, float] = {}

    def _looks_at_distances(self) -> bool:
        return isinstance(self._procedure, TriggeredPruning) and self._procedure.trigger.uses_weight_distance

    def _due(self) -> bool:
        """Whether a pruning has failed, maybe after some of its rounds, and is to be taken up again."""
        return isinstance(self._procedure, TriggeredPruning) and self._procedure.due is not None

    @property
    def event(self) -> Event | None:
        """The last pruning, once one has taken place."""
        return self.events[-1] if self.events else None

    @property
    def position(self) -> int:
        """How many epochs of training are behind the model as it is now: fewer than were trained, after a rewind."""
        return max(0, self.epoch) if self._procedure is None else self._procedure.position(max(0, self.epoch))

    def step(self, batches: Iterable[Any]) -> Event | None:
        """Count an epoch, and prune if it is time; what was done, or None.

        ``batches``: training data, read only when there is something to score.

        Raises:
            ValueError, FlowError, TraceError, SurgeryError: see :func:`earlycrop.prune`. The same step can be taken
            again once the cause is mended.
        """
        with outside_inference_mode():
            return self._stepped(batches)

    def _stepped(self, batches: Iterable[Any]) -> Event | None:
        epoch = self.epoch + 1
        if self.event is not None and self.event.masks is not None:
            self.event.masks.hold()  # other parameters may have been put in the place of those that it held
        cut = bool(self.events)  # from then on distances from the start mean something else
        if not cut and self._walked < epoch:
            with fail_together(self._group):
                batches = self._watch(epoch, batches)
        event = None
        if self._procedure is not None:
            event = self._procedure.step(self._job, epoch, self._walk or WeightDistance(), batches)
        self.epoch = epoch
        self._log = {} if cut else dict(self._moved)
        if self._procedure is not None and (event is not None or not self._procedure.finished()):
            self._log |= self._procedure.log()
        if self._kernel is not None and not cut:
            turn = self._kernel.update(unwrap(self.model)) if event is None else None
            self._log |= {} if turn is None else {"kernel_turn": turn}
        if event is not None:
            self.events = [*(replace(e, masks=None) for e in self.events), event]  # masks are as large as the model
            if self._rewrap is not None and event.masks is None:
                warnings.warn(self._rewrap, stacklevel=3)
            self._rewrap = self._rewrap or rewrap_message(self.model)
            self.model = self._job.model = unwrap(self.model)  # one from before the cut must not be kept alive
            self._forget()
            if self.optimizer_state == "reset":
                for one in flatten_optimizers(self.optimizer):
                    one.state.clear()
        return event

    def _watch(self, epoch: int, batches: Iterable[Any]) -> Iterable[Any]:
        """Measure how the weights, and the masks, have moved; what is to be read in the place of ``batches``."""
        model, distance = unwrap(self.model), None
        if self._masks is not None and epoch:  # may fail, and be tried again: before the walk takes its step
            distance, batches = self._masks.update(model, self.loss, batches)
        self._moved = {} if distance is None else {"mask_distance": distance}
        if self._walk is not None:
            self._walk.update(model)
            self._moved |= self._walk.log()
        self._walked = epoch
        return batches

    def _forget(self) -> None:
        """Let go of what is only looked at before a pruning: copies of the dense weights, and a batch."""
        if self._walk is not None:
            self._walk.forget()
        if self._masks is not None:
            self._masks.forget()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has.

        Raises:
            TypeError: hooks (a penalty's, or those of gates) are at work that would stay with the original.
        """
        if self._hooked and self._procedure is not None and not self._procedure.finished():
            raise TypeError(
                "a pruner with a penalty or with gates has hooks that a copy would lack: copy model and optimizer, and "
                "give a new pruner of theirs this one's state_dict()"
            )
        return dict(vars(self))

    def log(self) -> dict[str, float]:
        """What was measured at the last ``step``: distances up to the first pruning, and what the trigger looked at."""
        return dict(self._log)

    def close(self) -> None:
        """Take off every hook but those of masks. Not needed after the last epoch."""
        if self._procedure is not None:
            self._procedure.close()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model (:func:`earlycrop.save`) and the optimizer's state."""
        masks = None if self.event is None else self.event.masks
        return {
            "epoch": self.epoch,
            "walked": self._walked,
            "shapes": {name: list(p.shape) for name, p in parameters_by_name(unwrap(self.model)).items()},
            "events": [event.record() for event in self.events],
            "procedure": None if self._procedure is None else self._procedure.state_dict(),
            "walk": None if self._walk is None or self.events or self._due() else self._walk.state_dict(),
            "node_masks": None if self._masks is None or self.events else self._masks.change.state_dict(),
            "kernel": None if self._kernel is None or self.events else self._kernel.state_dict(),
            "masks": None if masks is None else masks.removed,
            "made": method_and_trigger_names(self.method, self._procedure),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``, after the model and the optimizer's state have been loaded.

        Raises:
            ValueError: it is of a pruner of another method or trigger, or of another model; nothing was changed.
        """
        check_state(state, self.state_dict(), parameters_by_name(unwrap(self.model)))
        events = [Event.of_record(record, None) for record in state["events"]]
        masks = None
        if events and state["masks"] is not None:
            masks = Masks(self.model, state["masks"], self.optimizer, self.copies)
            events[-1] = Event.of_record(state["events"][-1], masks)
        if self.event is not None and self.event.masks is not None:
            self.event.masks.release()
        self.events = events
        self.epoch = int(state["epoch"])
        self._walked = int(state.get("walked", self.epoch))
        if self._walk is not None and state["walk"] is not None:
            self._walk.load_state_dict(state["walk"])
        if self._masks is not None and state["node_masks"] is not None:
            self._masks.change.load_state_dict(state["node_masks"])
        if self._kernel is not None and state["kernel"] is not None:
            self._kernel.load_state_dict(state["kernel"])
        if self._procedure is not None:
            self._procedure.load_state_dict(self._job, state["procedure"])
        if masks is not None and isinstance(self._procedure, LotteryTicket):
            self._procedure.adopt(masks)

    def branch_off(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a pruner that has pruned nothing, whatever its method, after its last ``step``; that
        step is to be taken again, here. A dense run can so be the trunk of several that prune at given epochs: up to
        there they are the same run.

        Raises:
            ValueError: that pruner has pruned, or what prunes here depends on the epochs before.
        """
        if state.get("events"):
            raise ValueError("a run that has pruned is no trunk to branch off")
        if not (isinstance(self._procedure, TriggeredPruning) and self._procedure.at_a_given_epoch):
            raise ValueError("only a pruning at a given epoch can branch off: give the trigger as a number")
        self.load_state_dict(
            {
                **state,
                "procedure": self._procedure.state_dict(),
                "made": method_and_trigger_names(self.method, self._procedure),
            }
        )
        self.epoch -= 1
