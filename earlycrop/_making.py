"""From what a pruner is given, the procedure that it follows."""

from __future__ import annotations

from numbers import Integral

from earlycrop._arguments import require
from earlycrop.gates import TickTock
from earlycrop.methods import METHODS, Method
from earlycrop.procedures import Job, Once, Procedure
from earlycrop.rewinding import Rewind
from earlycrop.trigger import Trigger, named


def method_of(given: object) -> Method:
    """The method, given itself or by its name.

    Raises:
        TypeError: it is neither. ValueError: there is none of that name.
    """
    known = ", ".join(METHODS)
    if isinstance(given, str) and given not in METHODS:
        raise ValueError(f"there is no method '{given}': take one of {known}")
    method = METHODS[given] if isinstance(given, str) else given
    require("the method", method, Method, f"take one of {known}, or make a Method")
    assert isinstance(method, Method)
    return method


def procedure_of(
    job: Job, method: Method, trigger: object, sparsity: float, rounds: int, rewind: float, penalty: float
) -> Procedure:
    """``trigger``: in place of the method's own, or None.

    Raises:
        TypeError: the trigger is none. ValueError: the method has none, or see the procedures.
    """
    if method.procedure != "once" and trigger is not None:
        raise ValueError("this method knows itself when to prune: leave its trigger out")
    if method.procedure == "rewind":
        return Rewind(job, rewind)
    if method.procedure == "tick-tock":
        return TickTock(job, rounds, penalty)
    if isinstance(trigger, str | Integral):
        trigger = named(str(trigger), sparsity, job.epochs)
    made = method.trigger(sparsity, job.epochs) if trigger is None else trigger
    require("the trigger", made, Trigger, "give a name, the number of an epoch, or a Trigger")
    assert isinstance(made, Trigger)
    return Once(job, made, penalty)


def names_of(method: Method, procedure: Procedure | None) -> dict[str, str | None]:
    """What a state is told by: the name of the method, if it has one, and of the trigger's class."""
    return {
        "method": next((name for name, known in METHODS.items() if known == method), None),
        "trigger": type(procedure.trigger).__name__ if isinstance(procedure, Once) else None,
    }
