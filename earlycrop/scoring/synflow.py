"""The synaptic flow of a network: what SynFlow differentiates in the place of a loss."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from earlycrop.scoring.derivatives import Derivatives
from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors
from earlycrop.utils.errors import FlowError
from earlycrop.utils.modules import collect_tensors, tensors_by_name
from earlycrop.utils.types import Loss


class _StopForward(Exception):
    """The network has run: what the loss would make of it does not matter."""


def synaptic_flow(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> Derivatives:
    """dR/dw, as the gradient: R = the sum of all outputs of the network with the absolute values of its parameters and
    buffers, in evaluation mode, on ones in the place of the floating tensors that it is called with.

    Of the first batch only the shapes count (and integers, which may be indices). The loss is not computed; it has to
    call the model. Multiplied with w it is |w| dR/d|w|.

    Source: Tanaka et al. 2020, algorithm 1 and their code.

    Raises:
        ValueError: there is no batch. FlowError: the loss does not call the model, or R has no derivative.
    """
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("no batch to take the shapes of: give at least one batch of training data")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    positive = {
        name: _absolute_value(t)
        for name, t in tensors_by_name(model).items()
        if t.is_floating_point() or t.is_complex()
    }
    found: list[Tensor] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(_ones, (args, kwargs))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        found.extend(t for t in collect_tensors(output) if t.is_floating_point())
        raise _StopForward

    with ExitStack() as stack:
        stack.enter_context(preserve_state(model))
        stack.enter_context(differentiable_kernels(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(replace_tensors(model, positive))
        stack.callback(model.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(leave).remove)
        model.eval()
        try:
            loss(model, first)
        except _StopForward:
            pass
        else:
            raise FlowError("the loss does not call the model: synflow needs what it returns, not the loss")
        total = sum((t.sum() for t in found), torch.zeros(()))
        if not total.requires_grad:
            raise FlowError("the model's outputs do not depend on any trained parameter")
        leaves = [positive[name] for name in trained]
        got = torch.autograd.grad(total, leaves, allow_unused=True)
    signs = {name: p.detach().sgn() for name, p in trained.items()}
    flows = {name: g.real if g.is_complex() else g for name, g in zip(trained, got, strict=True) if g is not None}
    return Derivatives({name: g * signs[name] for name, g in flows.items()}, None)


def _absolute_value(t: Tensor) -> Tensor:
    positive = t.detach().abs().to(t.dtype)
    return nn.Parameter(positive, t.requires_grad) if isinstance(t, nn.Parameter) else positive


def _ones(value: Any) -> Any:
    return torch.ones_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value
