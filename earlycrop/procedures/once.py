"""The procedure of most methods: one pruning, when a trigger says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.procedures.base import Procedure, TrainingPlan
from earlycrop.procedures.l1_penalty import NormScaleL1
from earlycrop.pruning import run_pruning
from earlycrop.rounds.candidates import candidate_mask
from earlycrop.rounds.sizes import DenseBaseline
from earlycrop.triggers.base import Trigger, TriggerContext
from earlycrop.triggers.triggers import AtEpoch
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.distributed import check_same_value, fail_together
from earlycrop.utils.validation import check_type
from earlycrop.utils.wrappers import check_unchanged


class TriggeredPruning(Procedure):
    """Prune once, in as many rounds as the request has targets, when the trigger says so.

    Args:
        plan: What to prune.
        trigger: Says when.
        penalty: The weight of an L1 penalty on batch norm scales before the pruning; 0 for none.

    Raises:
        ValueError: The trigger may wait for longer than the network is trained.
    """

    def __init__(self, plan: TrainingPlan, trigger: Trigger, penalty: float) -> None:
        super().__init__(plan)
        self.trigger = trigger
        if trigger.latest is not None and trigger.latest > plan.epochs:
            raise ValueError(
                f"the trigger may wait until epoch {trigger.latest}, and there are {plan.epochs}: let it fire earlier, "
                "or train longer"
            )
        context = plan.context
        self._penalty = NormScaleL1(context.network, context.optimizers, penalty) if penalty else None
        self._baseline = DenseBaseline()
        self._graph: Graph | None = None
        self._done = False
        self.uses_weight_distance = trigger.uses_weight_distance
        self.trigger_name = type(trigger).__name__
        self.can_branch = isinstance(trigger, AtEpoch) and self._penalty is None

    def step(self, epoch: int, distance: WeightDistance, batches: Iterable[Any]) -> Event | None:
        if self._done:
            return None
        context, score_batches = self.plan.context, list[Any]()

        def current_mask() -> Tensor:
            with fail_together(context.group):
                if self._graph is not None:
                    check_unchanged(dict(context.network.named_parameters()), self._graph.shapes)
                score_batches.extend(self.plan.read_batches(batches))
                self._graph = self._graph or self.plan.trace(score_batches)
            return candidate_mask(self.plan.request, context, self._graph, score_batches)

        reason = self.pending_reason or self.trigger.update(
            TriggerContext(context.network, epoch, distance, current_mask)
        )
        advice = "return a sentence that says why to prune now, or None"
        check_type(f"what {self.trigger_name}.update returns", reason, str | None, advice)
        check_same_value(reason, context.group, "whether to prune now")
        if reason is None:
            return None
        self.pending_reason = reason
        with fail_together(context.group):
            score_batches = score_batches or self.plan.read_batches(batches)
        event = run_pruning(self.plan.request, context, score_batches, reason, epoch, self._baseline)
        self.pending_reason, self._done, self._baseline = None, True, DenseBaseline()
        self.close()
        return event

    def finished(self) -> bool:
        return self._done

    def log(self) -> dict[str, float]:
        return self.trigger.log()

    def has_hooks(self) -> bool:
        return self._penalty is not None and not self._done

    def close(self) -> None:
        self._graph = None
        if self._penalty is not None:
            self._penalty.release()

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self._done,
            "trigger": None if self._done else self.trigger.state_dict(),
            "pending_reason": self.pending_reason,
            "baseline": self._baseline.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._done = bool(state["done"])
        self.pending_reason, self._baseline = state["pending_reason"], DenseBaseline.from_state_dict(state["baseline"])
        if self._done:
            self.close()
        else:
            self.trigger.load_state_dict(state["trigger"])
