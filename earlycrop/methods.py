"""The table of methods: each named method is one row made of the parts in the other files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from earlycrop.procedures.base import Job, Procedure
from earlycrop.procedures.gate_decorators import GateDecorators
from earlycrop.procedures.lottery_ticket import LotteryTicket
from earlycrop.procedures.once import TriggeredPruning
from earlycrop.scoring.criteria import CRITERIA, Criterion
from earlycrop.selection.schedules import Schedule, exponential, halving, one_shot
from earlycrop.triggers.triggers import Trigger, after, before, lazy_regime, mask_distance, never, trigger_by_name
from earlycrop.utils.validation import check_type


@dataclass(frozen=True)
class Method:
    """criterion x units x schedule x trigger, and what training does around it. ``criterion`` None prunes nothing.

    procedure: once (when the trigger says so), rewind (lottery tickets) or tick-tock (gate decorators), which know
    themselves when. penalty: the weight of an L1 penalty on batch norm scales: before the pruning, or in tocks.
    """

    criterion: Criterion | None
    structured: bool
    schedule: Schedule = one_shot
    trigger: Callable[[float, int], Trigger] = before
    """(sparsity, epochs) -> a trigger."""
    procedure: Literal["once", "rewind", "tick-tock"] = "once"
    penalty: float = 0.0

    @property
    def iterative(self) -> bool:
        """Whether the number of rounds means anything."""
        return self.schedule is halving or self.procedure == "tick-tock"


_random, _magnitude, _snip, _grasp, _crop, _taylor, _synflow, _scale, _filters = (
    CRITERIA[name]
    for name in ("random", "magnitude", "snip", "grasp", "crop", "taylor", "synflow", "norm-scale", "filter-norm")
)
METHODS: dict[str, Method] = {
    "dense": Method(None, False, trigger=never),
    "random-u": Method(_random, False),
    "random-s": Method(_random, True),
    "magnitude-u": Method(_magnitude, False),
    "magnitude-s": Method(_magnitude, True),
    "snip": Method(_snip, False),  # Lee et al. 2019
    "snap": Method(_snip, True),  # Verdenius et al. 2020
    "grasp": Method(_grasp, False),  # Wang et al. 2020
    "synflow": Method(_synflow, False, exponential),  # Tanaka et al. 2020
    "crop-u": Method(_crop, False),  # Rachwan et al. 2022, as are the next five
    "crop-s": Method(_crop, True),
    "cropit-u": Method(_crop, False, halving),
    "cropit-s": Method(_crop, True, halving),
    "earlycrop-u": Method(_crop, False, halving, lazy_regime),
    "earlycrop-s": Method(_crop, True, halving, lazy_regime),
    "earlybird": Method(_scale, True, trigger=mask_distance, penalty=1e-4),  # You et al. 2020; their code's penalty
    "gatedecorators": Method(_scale, True, trigger=never, procedure="tick-tock", penalty=1e-3),  # You et al. 2019
    "efficientconvnets": Method(_filters, True, trigger=after),  # Li et al. 2017
    "taylor": Method(_taylor, True, trigger=after),  # Molchanov et al. 2019
    "magnitude-after-u": Method(_magnitude, False, trigger=after),  # Han et al. 2015
    "magnitude-after-s": Method(_magnitude, True, trigger=after),
    "ltr": Method(_magnitude, False, trigger=never, procedure="rewind"),  # Frankle et al. 2020
}
"""Name -> method. A name that ends in -u prunes single weights, in -s nodes; snip, grasp, synflow and ltr prune
weights, the others nodes."""


def resolve_method(given: object) -> Method:
    """The method, given itself or by its name.

    Raises:
        TypeError: it is neither. ValueError: there is none of that name.
    """
    known = ", ".join(METHODS)
    if isinstance(given, str) and given not in METHODS:
        raise ValueError(f"there is no method '{given}': take one of {known}")
    method = METHODS[given] if isinstance(given, str) else given
    check_type("the method", method, Method, f"take one of {known}, or make a Method")
    assert isinstance(method, Method)
    return method


def make_procedure(
    job: Job, method: Method, trigger: object, sparsity: float, rounds: int, rewind: float, penalty: float
) -> Procedure:
    """``trigger``: in place of the method's own, or None.

    Raises:
        TypeError: the trigger is none. ValueError: the method has none, or see the procedures.
    """
    if method.procedure != "once" and trigger is not None:
        raise ValueError("this method knows itself when to prune: leave its trigger out")
    if method.procedure == "rewind":
        return LotteryTicket(job, rewind)
    if method.procedure == "tick-tock":
        return GateDecorators(job, rounds, penalty)
    if isinstance(trigger, str | Integral):
        trigger = trigger_by_name(str(trigger), sparsity, job.epochs)
    made = method.trigger(sparsity, job.epochs) if trigger is None else trigger
    check_type("the trigger", made, Trigger, "give a name, the number of an epoch, or a Trigger")
    assert isinstance(made, Trigger)
    return TriggeredPruning(job, made, penalty)


def method_and_trigger_names(method: Method, procedure: Procedure | None) -> dict[str, str | None]:
    """What a state is told by: the name of the method, if it has one, and of the trigger's class."""
    return {
        "method": next((name for name, known in METHODS.items() if known == method), None),
        "trigger": type(procedure.trigger).__name__ if isinstance(procedure, TriggeredPruning) else None,
    }
