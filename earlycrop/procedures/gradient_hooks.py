"""When the gradients that an optimizer's step goes by are there."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop.utils.parameters import flatten_optimizers, hookable_optimizers

Action = Callable[[set[int], Tensor | None], None]
"""Is given the ids of the parameters, and what their gradients are multiplied by, if they are."""


def before_optimizer_step(optimizer: Optimizer | Sequence[Optimizer], act: Action) -> list[RemovableHandle]:
    """Have ``act(ids, scale)`` called, outside of autograd, whenever the parameters of one of the optimizers have the
    gradients that its step goes by; the handles that end that.

    That is before the step; or, where the step is given a closure, after each run of that, as it makes them anew.
    Parameters that are held by an optimizer and by another that it wraps are those of the latter's steps: whatever it
    does before, those are what moves them.
    ``scale``: the loss scale of a ``GradScaler`` that leaves unscaling to the step (of a fused optimizer), or None. A
    step that will be left out, as it overflowed, has no gradients to go by.
    """
    return [one.register_step_pre_hook(_BeforeStep(act)) for one in hookable_optimizers(optimizer)]


class _Given(dict[str, Any]):
    """The keywords of a step: some function that is running holds them for as long as it runs."""


class _BeforeStep:
    """The hook of one optimizer. A step that calls that of its base class has it called twice: it acts on the first."""

    def __init__(self, act: Action) -> None:
        self.act = act
        self._running: weakref.ref[_Given] | None = None

    def __call__(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """``args`` begin with the optimizer itself, and a closure comes next, or by its name."""
        if self._running is not None and _held_by_a_caller(self._running()):
            return None
        given = _Given(kwargs)
        self._running = weakref.ref(given)
        closure = given.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            if not getattr(optimizer, "found_inf", False):
                with torch.no_grad():
                    self.act(_own_parameter_ids(optimizer), _scale(optimizer, given.get("grad_scaler")))
            return args, given

        def and_act() -> Any:
            loss = closure()
            with torch.no_grad():
                self.act(_own_parameter_ids(optimizer), None)  # a scaler takes no closure
            return loss

        if "closure" in given:
            given["closure"] = and_act
            return args, given
        return (args[0], and_act, *args[2:]), given


def _held_by_a_caller(given: _Given | None) -> bool:
    """Whether a step of these keywords is running. That they are there is not enough: the traceback of a step that has
    failed keeps them, and a notebook keeps that.
    """
    frame = None if given is None else sys._getframe(1)
    while frame is not None:
        if any(value is given for value in frame.f_locals.values()):
            return True
        frame = frame.f_back
    return False


def _own_parameter_ids(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters that it holds and no optimizer that it wraps does."""
    one, *wrapped = flatten_optimizers(optimizer)
    return _parameter_ids(one) - {i for inner in wrapped for i in _parameter_ids(inner)}


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _scale(optimizer: Optimizer, scaler: Any) -> Tensor | None:
    """A ``GradScaler`` leaves its scale at the optimizer, or, in its older form, is given to the step itself."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scaler is not None and scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
        scale = scaler._get_scale_async()
    return scale
