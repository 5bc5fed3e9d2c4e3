"""Check a pruner's state from a checkpoint before any of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from earlycrop.utils.validation import check_type


def check_state(state: Mapping[str, Any], current: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a pruner cannot continue from a state, and TypeError where it is no mapping.

    Args:
        state: The state to load.
        current: The state of the pruner that is to load it.
        parameters: The parameters of its model.
    """
    check_type("the state", state, Mapping, "give what state_dict() of a pruner returned")
    missing = [key for key in current if key not in state]
    if missing:
        raise ValueError(
            f"this is not the state of a pruner, as it has no '{missing[0]}': give what state_dict() returned"
        )
    pruned = bool(state["events"])
    compared = ("method",) if pruned else ("method", "trigger")
    differ = any(state[key] != current[key] for key in compared)
    kinds = [(s["procedure"] or {}).keys() for s in (state, current)]
    if differ or kinds[0] != kinds[1]:
        raise ValueError(
            f"the state is of a pruner with {_describe_origin(state)}, and this one has {_describe_origin(current)}: "
            "make this one in the same way, and load the state again"
        )
    for name, shape in state["shapes"].items():
        _check_shape(name, shape, parameters)
    for name in parameters.keys() - state["shapes"].keys():
        raise ValueError(f"the state is of another model: it has no '{name}'. Load the model of that checkpoint first")
    pending = (state["procedure"] or {}).get("pending_reason") is not None  # distances are not needed any more
    if pruned or pending or current["distance"] is None:
        return
    if state["distance"] is None:
        raise ValueError(
            "the state does not hold how the weights have moved, which this pruner needs: make it with the trigger and "
            "log_triggers of the one that wrote the state, and load the state again"
        )
    for reference in state["distance"]["references"]:
        for name, t in reference.items():
            _check_shape(name, t.shape, parameters)


def _check_shape(name: str, shape: Sequence[int], parameters: Mapping[str, Tensor]) -> None:
    if name not in parameters or list(parameters[name].shape) != list(shape):
        raise ValueError(
            f"the state is of another model: it has a '{name}' of shape {tuple(shape)}. Load the model of that "
            "checkpoint first, and then the state"
        )


def _describe_origin(state: Mapping[str, Any]) -> str:
    method = f"the method '{state['method']}'" if state["method"] else "a custom method"
    return f"{method} and the trigger {state['trigger']}" if state["trigger"] else method
