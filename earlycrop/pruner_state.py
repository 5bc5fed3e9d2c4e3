"""A pruner's state from a checkpoint, looked at as a whole before any of it is taken up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

OPTIONAL = {"made", "walked", "shapes"}
"""What a state may lack."""


def check_state(state: Mapping[str, Any], own: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a pruner of a model with these ``parameters``, whose state is ``own``, cannot go on from
    ``state``: it is none, or of another method or trigger, or of a model of another size.
    """
    lacking = [key for key in own if key not in state and key not in OPTIONAL]
    if lacking:
        raise ValueError(f"this is no state of a pruner, as it has no '{lacking[0]}': give what state_dict() returned")
    theirs, ours = state.get("made") or {}, own["made"]
    pruned = bool(state["events"])
    apart = any(
        theirs.get(what) is not None and ours[what] is not None and theirs[what] != ours[what]
        for what in (("method",) if pruned else ("method", "trigger"))
    )
    if apart or not _fits(state["procedure"], own["procedure"]):
        raise ValueError(
            f"the state is of a pruner with {_describe_origin(theirs)}, and this one has {_describe_origin(ours)}: "
            f"make this one "
            "in the same way, and load the state again"
        )
    for name, shape in state.get("shapes", {}).items():
        if name not in parameters or list(parameters[name].shape) != list(shape):
            raise _other_model(name, shape)
    due = (state["procedure"] or {}).get("due") is not None  # it has walked as far as it will
    if pruned or due or own["walk"] is None:
        return
    if state["walk"] is None:
        raise ValueError(
            "the state does not hold how the weights have moved, which this pruner watches: make it with the trigger "
            "and the watch of the one that wrote the state, and load the state again"
        )
    for reference in state["walk"]["references"]:
        for name, t in reference.items():
            if name not in parameters or parameters[name].shape != t.shape:
                raise _other_model(name, t.shape)


def _other_model(name: str, shape: Sequence[int]) -> ValueError:
    return ValueError(
        f"the state is of another model: it has a '{name}' of shape {tuple(shape)}. Load the model of that checkpoint "
        "first, and then the state"
    )


def _fits(procedure: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> bool:
    """Whether this is the state of a procedure of the same kind; one of an earlier version may lack what came later."""
    if procedure is None or own is None:
        return procedure is own
    return procedure.keys() <= own.keys()


def _describe_origin(made: Mapping[str, Any]) -> str:
    method = f"the method '{made['method']}'" if made.get("method") else "a method of its own"
    return f"{method} and the trigger {made['trigger']}" if made.get("trigger") else method
