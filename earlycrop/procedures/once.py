"""How a method goes about its pruning while the model is trained; here: once, when a trigger says so.

A procedure is asked before training and after every epoch, and prunes when its time has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.procedures.base import Job
from earlycrop.procedures.l1_penalty import NormScaleL1
from earlycrop.pruning import candidate_mask, run_pruning
from earlycrop.rounds import DenseBaseline
from earlycrop.triggers.triggers import AtEpoch, Trigger, TriggerContext
from earlycrop.triggers.weight_distance import WeightDistance
from earlycrop.utils.distributed import check_same_value, fail_together
from earlycrop.utils.modules import parameters_by_name
from earlycrop.utils.wrappers import check_unchanged


class TriggeredPruning:
    """One pruning, in as many rounds as its targets, when the trigger says so."""

    def __init__(self, job: Job, trigger: Trigger, penalty: float) -> None:
        self.total, self.trigger = job.epochs, trigger
        if trigger.latest is not None and trigger.latest > job.epochs:
            raise ValueError(
                f"the trigger may wait until epoch {trigger.latest}, and there are {job.epochs}: let it fire earlier, "
                "or train longer"
            )
        self._penalty = NormScaleL1(job.inside, job.optimizer, penalty) if penalty else None
        self.due: str | None = None
        """Why a pruning is due that has failed."""
        self._before = DenseBaseline()
        self._done = False
        self._graph: Graph | None = None

    @property
    def at_a_given_epoch(self) -> bool:
        """Whether nothing of this depends on the epochs before."""
        return isinstance(self.trigger, AtEpoch) and self._penalty is None

    def position(self, epoch: int) -> int:
        return epoch

    def step(self, job: Job, epoch: int, walk: WeightDistance, batches: Iterable[Any]) -> Event | None:
        if self._done:
            return None
        read: list[Any] = []

        def mask() -> Tensor:
            with fail_together(job.group):
                if self._graph is not None:
                    check_unchanged(parameters_by_name(job.inside), self._graph.shapes)
                read.extend(job.read(batches))
                self._graph = self._graph or job.traced(read)
            return candidate_mask(job.request, job.inside, self._graph, job.loss, read, job.group)

        reason = self.due or self.trigger.update(TriggerContext(job.inside, epoch, walk, mask))
        check_same_value(reason, job.group, "whether to prune now")
        if reason is None:
            return None
        self.due = reason
        with fail_together(job.group):
            read = read or job.read(batches)
        event = run_pruning(
            job.request, job.model, job.loss, read, job.optimizer, reason, epoch, job.copies,
            before=self._before, group=job.group,
        )  # fmt: skip
        self.due, self._done, self._before = None, True, DenseBaseline()
        self.close()
        return event

    def finished(self) -> bool:
        return self._done

    def log(self) -> dict[str, float]:
        return self.trigger.log()

    def close(self) -> None:
        self._graph = None
        if self._penalty is not None:
            self._penalty.release()

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self._done, "trigger": None if self._done else self.trigger.state_dict(),
            "due": self.due, **self._before.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, job: Job, state: Mapping[str, Any]) -> None:
        self._done = bool(state["done"])
        self.due, self._before = state.get("due"), DenseBaseline.of_state(state)
        if self._done:
            self.close()
        else:
            self.trigger.load_state_dict(state["trigger"])
