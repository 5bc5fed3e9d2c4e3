"""Run a function when the gradients that an optimizer's step uses are complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from earlycrop.utils.parameters import flatten_optimizers, hookable_optimizers

Action = Callable[[set[int], Tensor | None], None]
"""(ids of the parameters that are stepped, the factor that their gradients are multiplied by or None) -> None."""


def before_optimizer_step(optimizer: Optimizer | Sequence[Optimizer], action: Action) -> list[RemovableHandle]:
    """Call ``action(ids, scale)``, without autograd, whenever the gradients for a step of an optimizer are complete.

    That is before the step. If the step is given a closure, it is after each call of the closure, which computes the
    gradients anew. Parameters that an optimizer shares with one that it wraps belong to the steps of the wrapped one.
    A step that is skipped because its gradients overflowed does not call the action.

    Args:
        optimizer: One optimizer or several.
        action: Is given the ids of the parameters, and the loss scale of a ``GradScaler`` that leaves unscaling to the
            step (of a fused optimizer), or None.

    Returns:
        The handles that remove the hooks.
    """
    handles = []
    for hookable in hookable_optimizers(optimizer):
        hook = _BeforeStep(action)
        handles += [hookable.register_step_pre_hook(hook), hookable.register_step_post_hook(hook.end_step)]
    return handles


class _BeforeStep:
    """The hook of one optimizer.

    torch runs the hooks twice where the step of a class calls that of its base class. The inner run is ignored: it
    comes before the outer step has ended, and finds the gradient that the action has seen. A step that failed never
    ends. The next one is recognised by its gradients, as ``zero_grad`` has replaced them; where it zeroes them in
    place, one step is left out.
    """

    def __init__(self, action: Action) -> None:
        self.action = action
        self._running = False
        self._gradient: Tensor | None = None

    def __call__(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """``args`` begin with the optimizer itself; a closure is the next of them, or given by its name."""
        if self._running and _smallest_gradient(optimizer) is self._gradient:
            return None
        self._running, self._gradient = True, _smallest_gradient(optimizer)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            if not getattr(optimizer, "found_inf", False):
                self._run_action(optimizer, _loss_scale(optimizer, kwargs.get("grad_scaler")))
                self._gradient = _smallest_gradient(optimizer)  # the action may drop gradients
            return None

        def closure_and_action() -> Any:
            loss = closure()
            self._run_action(optimizer, None)  # a GradScaler takes no closure
            self._gradient = _smallest_gradient(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_and_action}
        return (args[0], closure_and_action, *args[2:]), kwargs

    def end_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Note that the step has ended."""
        self._running, self._gradient = False, None

    def _run_action(self, optimizer: Optimizer, scale: Tensor | None) -> None:
        with torch.no_grad():
            self.action(_own_parameter_ids(optimizer), scale)


def _smallest_gradient(optimizer: Optimizer) -> Tensor | None:
    """Return the smallest gradient: it is kept during a step."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return min(gradients, key=Tensor.numel, default=None)


def _own_parameter_ids(optimizer: Optimizer) -> set[int]:
    """Return the ids of the parameters that it holds and no optimizer that it wraps does."""
    outer, *wrapped = flatten_optimizers(optimizer)
    return _parameter_ids(outer) - {i for inner in wrapped for i in _parameter_ids(inner)}


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _loss_scale(optimizer: Optimizer, scaler: Any) -> Tensor | None:
    """Return the scale that a ``GradScaler`` has left at the optimizer, or, in its older form, gives to the step."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scaler is not None and scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
        scale = scaler._get_scale_async()
    return scale
