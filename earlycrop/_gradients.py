"""When the gradients that an optimizer's step goes by are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop._optimizers import listed

Act = Callable[[Optimizer, Tensor | None], None]
"""Is given the optimizer, and what its gradients are multiplied by, if they are."""


def at_gradients(optimizer: Optimizer | Sequence[Optimizer], act: Act) -> list[RemovableHandle]:
    """Have ``act(one, scale)`` called, without gradients, whenever one of the optimizers has those that its step goes
    by; the handles that end that.

    That is before the step; or, where the step is given a closure, after each run of that, as it makes them anew.
    ``scale``: the loss scale of a ``GradScaler`` that leaves unscaling to the step (of a fused optimizer), or None. A
    step that will be left out, as it overflowed, has no gradients to go by.
    """
    return [one.register_step_pre_hook(partial(_before_step, act)) for one in listed(optimizer)]


def _before_step(
    act: Act, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """``args`` begin with the optimizer itself, and a closure comes next, or by its name."""
    named = "closure" in kwargs
    closure = kwargs["closure"] if named else args[1] if len(args) > 1 else None
    if not callable(closure):
        if not getattr(optimizer, "found_inf", False):
            with torch.no_grad():
                act(optimizer, _scale(optimizer, kwargs.get("grad_scaler")))
        return None

    def and_act() -> Any:
        loss = closure()
        with torch.no_grad():
            act(optimizer, None)  # a scaler takes no closure
        return loss

    return (args, {**kwargs, "closure": and_act}) if named else ((args[0], and_act, *args[2:]), kwargs)


def _scale(optimizer: Optimizer, scaler: Any) -> Tensor | None:
    """A ``GradScaler`` leaves its scale at the optimizer, or, in its older form, is given to the step itself."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scaler is not None and scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
        scale = scaler._get_scale_async()
    return scale
