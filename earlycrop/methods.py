"""The table of methods: each method is a row made of a criterion, a schedule, a trigger and a procedure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from earlycrop.procedures.base import Procedure, TrainingPlan
from earlycrop.procedures.gate_decorators import GateDecorators
from earlycrop.procedures.lottery_ticket import LotteryTicket
from earlycrop.procedures.once import TriggeredPruning
from earlycrop.scoring.criteria import CRITERIA, Criterion
from earlycrop.selection.schedules import Schedule, exponential, halving, one_shot
from earlycrop.triggers.base import Trigger
from earlycrop.triggers.triggers import after, before, lazy_regime, mask_distance, never, trigger_by_name
from earlycrop.utils.validation import check_type, describe_unknown

_Unstructured = Literal["random-u", "magnitude-u", "crop-u", "cropit-u", "earlycrop-u", "magnitude-after-u"]
_Structured = Literal["random-s", "magnitude-s", "crop-s", "cropit-s", "earlycrop-s", "magnitude-after-s"]
_Others = Literal[
    "snip", "snap", "grasp", "synflow", "earlybird", "gatedecorators", "efficientconvnets", "taylor", "ltr"
]
MethodName = Literal["dense", _Unstructured, _Structured, _Others]
"""The names in ``METHODS``."""


@dataclass(frozen=True)
class Method:
    """A pruning method: criterion x units x schedule x trigger, and what training does around it.

    Args:
        criterion: What ranks the units. None prunes nothing.
        structured: Whether nodes are cut, or single weights are zeroed.
        schedule: ``(sparsity, rounds)`` -> the sparsity after each round.
        trigger: ``(sparsity, epochs)`` -> the trigger that says when to prune.
        procedure: ``"once"`` prunes when the trigger fires. ``"rewind"`` (lottery tickets) and ``"tick-tock"`` (gate
            decorators) decide themselves when to prune.
        penalty: The weight of an L1 penalty on batch norm scales: before the pruning, or in every second epoch of
            ``"tick-tock"``.

    Raises:
        TypeError: The criterion, the schedule or the trigger has the wrong type.
        ValueError: The procedure is unknown.
    """

    criterion: Criterion | None
    structured: bool
    schedule: Schedule = one_shot
    trigger: Callable[[float, int], Trigger] = before
    procedure: Literal["once", "rewind", "tick-tock"] = "once"
    penalty: float = 0.0

    def __post_init__(self) -> None:
        advice = "take an entry of CRITERIA, or make a Criterion"
        check_type("the criterion of a Method", self.criterion, Criterion | None, advice)
        check_type("the schedule of a Method", self.schedule, Callable, "give a function of (sparsity, rounds)")
        check_type("the trigger of a Method", self.trigger, Callable, "give a function of (sparsity, epochs)")
        if self.procedure not in ("once", "rewind", "tick-tock"):
            raise ValueError(describe_unknown("procedure", self.procedure, ("once", "rewind", "tick-tock")))


METHODS: dict[str, Method] = {
    "dense": Method(None, False, trigger=never),
    "random-u": Method(CRITERIA["random"], False),
    "random-s": Method(CRITERIA["random"], True),
    "magnitude-u": Method(CRITERIA["magnitude"], False),
    "magnitude-s": Method(CRITERIA["magnitude"], True),
    "snip": Method(CRITERIA["snip"], False),  # Lee et al. 2019
    "snap": Method(CRITERIA["snip"], True),  # Verdenius et al. 2020
    "grasp": Method(CRITERIA["grasp"], False),  # Wang et al. 2020
    "synflow": Method(CRITERIA["synflow"], False, exponential),  # Tanaka et al. 2020
    "crop-u": Method(CRITERIA["crop"], False),  # Rachwan et al. 2022, as are the next five
    "crop-s": Method(CRITERIA["crop"], True),
    "cropit-u": Method(CRITERIA["crop"], False, halving),
    "cropit-s": Method(CRITERIA["crop"], True, halving),
    "earlycrop-u": Method(CRITERIA["crop"], False, halving, lazy_regime),
    "earlycrop-s": Method(CRITERIA["crop"], True, halving, lazy_regime),
    # You et al. 2020; their code's penalty
    "earlybird": Method(CRITERIA["norm-scale"], True, trigger=mask_distance, penalty=1e-4),
    # You et al. 2019
    "gatedecorators": Method(CRITERIA["norm-scale"], True, trigger=never, procedure="tick-tock", penalty=1e-3),
    "efficientconvnets": Method(CRITERIA["filter-norm"], True, trigger=after),  # Li et al. 2017
    "taylor": Method(CRITERIA["taylor"], True, trigger=after),  # Molchanov et al. 2019
    "magnitude-after-u": Method(CRITERIA["magnitude"], False, trigger=after),  # Han et al. 2015
    "magnitude-after-s": Method(CRITERIA["magnitude"], True, trigger=after),
    "ltr": Method(CRITERIA["magnitude"], False, trigger=never, procedure="rewind"),  # Frankle et al. 2020
}
"""Name -> method. A name that ends in -u prunes single weights, in -s nodes; snip, grasp, synflow and ltr prune
weights, the others nodes."""


def method_name(method: Method) -> str | None:
    """Return the name of a method in the table, or None."""
    return next((name for name, row in METHODS.items() if row == method), None)


def make_procedure(
    plan: TrainingPlan, method: Method, trigger: object, sparsity: float, rounds: int, rewind: float, penalty: float
) -> Procedure:
    """Make the procedure of a method.

    Args:
        plan: What it is to do, and on what.
        method: The method.
        trigger: A trigger in place of the method's own: a ``Trigger``, a name, the number of an epoch, or None.
        sparsity: The target, for triggers that depend on it.
        rounds: The number of rounds of ``"tick-tock"``.
        rewind: The share of the epochs that ``"rewind"`` rewinds to.
        penalty: The weight of the L1 penalty.

    Raises:
        TypeError: The trigger is none.
        ValueError: A trigger was given to a method that decides itself when to prune; or see the procedures.
    """
    if method.procedure != "once" and trigger is not None:
        raise ValueError("this method decides itself when to prune: leave out the trigger")
    if method.procedure == "rewind":
        return LotteryTicket(plan, rewind)
    if method.procedure == "tick-tock":
        return GateDecorators(plan, rounds, penalty)
    if isinstance(trigger, str | Integral):
        trigger = trigger_by_name(str(trigger), sparsity, plan.epochs)
    elif trigger is None:
        trigger = method.trigger(sparsity, plan.epochs)
    check_type("the trigger", trigger, Trigger, "give a name, the number of an epoch, or a Trigger")
    if isinstance(trigger, type):
        raise TypeError(f"the trigger is the class {trigger.__name__}: make one of it, such as {trigger.__name__}(...)")
    assert isinstance(trigger, Trigger)
    return TriggeredPruning(plan, trigger, penalty)
