"""When the gradients that an optimizer's step goes by are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop._optimizers import listed


def at_gradients(optimizer: Optimizer | Sequence[Optimizer], act: Callable[[Optimizer], None]) -> list[RemovableHandle]:
    """Have ``act(one)`` called, without gradients, whenever one of the optimizers has those that its step goes by; the
    handles that end that.

    That is before the step; or, where the step is given a closure, after each run of that, as it makes them anew.
    """
    return [one.register_step_pre_hook(partial(_before_step, act)) for one in listed(optimizer)]


def _before_step(
    act: Callable[[Optimizer], None], optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """``args`` begin with the optimizer itself, and a closure comes next, or by its name."""
    named = "closure" in kwargs
    closure = kwargs["closure"] if named else args[1] if len(args) > 1 else None
    if not callable(closure):
        with torch.no_grad():
            act(optimizer)
        return None

    def and_act() -> Any:
        loss = closure()
        with torch.no_grad():
            act(optimizer)
        return loss

    return (args, {**kwargs, "closure": and_act}) if named else ((args[0], and_act, *args[2:]), kwargs)
