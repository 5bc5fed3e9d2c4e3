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
from earlycrop.triggers.triggers import Trigger, after, before, lazy_regime, mask_distance, never, trigger_by_name
from earlycrop.utils.validation import check_type

MethodName = Literal[
    "dense",
    "random-u",
    "random-s",
    "magnitude-u",
    "magnitude-s",
    "snip",
    "snap",
    "grasp",
    "synflow",
    "crop-u",
    "crop-s",
    "cropit-u",
    "cropit-s",
    "earlycrop-u",
    "earlycrop-s",
    "earlybird",
    "gatedecorators",
    "efficientconvnets",
    "taylor",
    "magnitude-after-u",
    "magnitude-after-s",
    "ltr",
]
"""The names in ``METHODS``."""


@dataclass(frozen=True)
class Method:
    """A pruning method: criterion x units x schedule x trigger, and what training does around it.

    Args:
        criterion: What ranks the units. None prunes nothing.
        structured: Whether nodes are cut, or single weights are zeroed.
        schedule: ``(sparsity, rounds)`` -> the sparsity after each round.
        trigger: ``(sparsity, epochs)`` -> the trigger that says when to prune.
        procedure: ``"once"`` prunes when the trigger says so. ``"rewind"`` (lottery tickets) and ``"tick-tock"`` (gate
            decorators) know themselves when to prune.
        penalty: The weight of an L1 penalty on batch norm scales, before the pruning or in tocks.
    """

    criterion: Criterion | None
    structured: bool
    schedule: Schedule = one_shot
    trigger: Callable[[float, int], Trigger] = before
    procedure: Literal["once", "rewind", "tick-tock"] = "once"
    penalty: float = 0.0

    @property
    def iterative(self) -> bool:
        """Whether the number of rounds matters."""
        return self.schedule is halving or self.procedure == "tick-tock"


_random, _magnitude, _snip, _grasp, _crop, _taylor, _synflow, _scale, _filters = (
    CRITERIA[name]
    for name in ("random", "magnitude", "snip", "grasp", "crop", "taylor", "synflow", "norm-scale", "filter-norm")
)
METHODS: dict[MethodName, Method] = {
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


def resolve_method(method: object) -> Method:
    """Return the method, given itself or by its name.

    Raises:
        TypeError: It is neither.
        ValueError: There is no method of that name.
    """
    names = ", ".join(METHODS)
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"there is no method '{method}': take one of {names}")
        return dict[str, Method](METHODS)[method]
    check_type("the method", method, Method, f"take one of {names}, or make a Method")
    assert isinstance(method, Method)
    return method


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
        ValueError: The method has no trigger; or see the procedures.
    """
    if method.procedure != "once" and trigger is not None:
        raise ValueError("this method knows itself when to prune: leave its trigger out")
    if method.procedure == "rewind":
        return LotteryTicket(plan, rewind)
    if method.procedure == "tick-tock":
        return GateDecorators(plan, rounds, penalty)
    if isinstance(trigger, str | Integral):
        trigger = trigger_by_name(str(trigger), sparsity, plan.epochs)
    elif trigger is None:
        trigger = method.trigger(sparsity, plan.epochs)
    check_type("the trigger", trigger, Trigger, "give a name, the number of an epoch, or a Trigger")
    assert isinstance(trigger, Trigger)
    return TriggeredPruning(plan, trigger, penalty)
