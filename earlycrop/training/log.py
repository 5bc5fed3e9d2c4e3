"""What is measured after every epoch, up to the first pruning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from earlycrop.context import PruningContext
from earlycrop.selection.constraints import Limits
from earlycrop.training.options import PrunerOptions
from earlycrop.triggers.mask_distance import NodeMaskTracker
from earlycrop.triggers.ntk import NTKDistance
from earlycrop.triggers.step_rates import StepRates
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.distributed import fail_together


class TrainingLog:
    """Measures after every epoch how the weights, the masks of nodes and the kernel have moved.

    Args:
        context: The network, and what goes on with it.
        options: What to measure.
        sparsity: The target, which the masks of nodes are made for.
        limits: What these masks respect.
        needs_distance: Whether a trigger needs the distance of the weights.

    Attributes:
        distance: How far the weights have moved; None if nothing needs it.
        epoch: The epoch of the last measurement; -1 before the first.
        values: What was measured then, by name.
    """

    def __init__(
        self, context: PruningContext, options: PrunerOptions, sparsity: float, limits: Limits, needs_distance: bool
    ) -> None:
        needs_distance |= options.log_triggers
        self.distance = WeightDistance() if needs_distance else None
        self.epoch = -1
        self.values: dict[str, float] = {}
        self._context = context
        self._rates = StepRates(context.optimizers) if needs_distance else None
        self._node_masks = NodeMaskTracker(sparsity, limits) if options.log_triggers else None
        self._kernel: NTKDistance | None = None
        if options.ntk_probe is not None:
            self._kernel = NTKDistance(context.network, context.loss, options.ntk_probe)

    def measure(self, epoch: int, batches: Iterable[Any]) -> Iterable[Any]:
        """Measure after an epoch, unless it was measured already. Return what to read in place of ``batches``."""
        if self.epoch >= epoch:
            return batches
        with fail_together(self._context.group):
            network, mask_distance = self._context.network, None
            if self._node_masks is not None and epoch:  # first, as it may fail and be repeated
                mask_distance, batches = self._node_masks.update(network, self._context.loss, batches)
            self.values = {} if mask_distance is None else {"mask_distance": mask_distance}
            if self.distance is not None and self._rates is not None:
                self.distance.update(network, self._rates.take())
                self._rates.attach(self._context.optimizers)  # a copy of this log has a copy of the optimizers
                self.values |= self.distance.log()
            if self._kernel is not None:
                turn = self._kernel.update(network)
                self.values |= {} if turn is None else {"kernel_turn": turn}
            self.epoch = epoch
        return batches

    def forget(self) -> None:
        """Release what was needed up to the first pruning."""
        for tracker in (self.distance, self._node_masks):
            if tracker is not None:
                tracker.forget()
        self.close()

    def close(self) -> None:
        """Remove the hooks."""
        if self._rates is not None:
            self._rates.release()

    def state_dict(self, before_cut: bool, pending: bool) -> dict[str, Any]:
        """Return what a checkpoint needs.

        Args:
            before_cut: Whether nothing was pruned yet.
            pending: Whether a trigger has fired, and the pruning failed and is to be repeated.
        """
        return {
            "measured_epoch": self.epoch,
            "measured": dict(self.values),
            "distance": self.distance.state_dict() if self.distance and before_cut and not pending else None,
            "node_masks": self._node_masks.history.state_dict() if self._node_masks and before_cut else None,
            "kernel": self._kernel.state_dict() if self._kernel and before_cut else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a ``state_dict()``, which may have further entries."""
        self.epoch, self.values = state["measured_epoch"], dict(state["measured"])
        if self.distance is not None and state["distance"] is not None:
            self.distance.load_state_dict(state["distance"])
        if self._node_masks is not None and state["node_masks"] is not None:
            self._node_masks.history.load_state_dict(state["node_masks"])
        if self._kernel is not None and state["kernel"] is not None:
            self._kernel.load_state_dict(state["kernel"])
