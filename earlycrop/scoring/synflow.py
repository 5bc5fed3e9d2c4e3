"""The synaptic flow of a network, which SynFlow differentiates in place of a loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from earlycrop.scoring.derivatives import Derivatives
from earlycrop.scoring.model_inputs import record_arguments
from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors
from earlycrop.utils.errors import FlowError
from earlycrop.utils.modules import collect_tensors, tensors_by_name
from earlycrop.utils.types import Loss


def synaptic_flow(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> Derivatives:
    """Compute dR/dw, with R the synaptic flow. Multiplied by w, it is |w| dR/d|w|.

    R is the sum of all outputs of the network in evaluation mode, with the absolute values of its parameters and
    buffers, on inputs whose floating-point tensors are filled with ones.

    Source: Tanaka et al. 2020, algorithm 1 and their code.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss. It must call the model; the loss itself is not computed.
        batches: Training data. Only the shapes of the first batch matter, and its integers, which may be indices.

    Returns:
        dR/dw as the gradient, by parameter name.

    Raises:
        ValueError: There is no batch.
        FlowError: The loss does not call the model, or R has no derivative.
    """
    batch = next(iter(batches), None)
    if batch is None:
        raise ValueError("no batch to take the shapes of: give at least one batch of training data")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors = tensors_by_name(model)
    positive = {n: _absolute_value(t) for n, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad(), replace_tensors(model, positive):
        model.eval()
        args, kwargs = tree_map(_fill_with_ones, record_arguments(model, loss, batch))
        outputs = collect_tensors(model(*args, **kwargs))
        total = sum((t.sum() for t in outputs if t.is_floating_point()), torch.zeros((), device="cpu"))
        if not total.requires_grad:
            raise FlowError("the model's outputs do not depend on any trained parameter: there is nothing to score")
        gradients = torch.autograd.grad(total, [positive[name] for name in trained], allow_unused=True)
    flows = {n: g.real if g.is_complex() else g for n, g in zip(trained, gradients, strict=True) if g is not None}
    return Derivatives({name: g * trained[name].detach().sgn() for name, g in flows.items()}, None)


def _absolute_value(t: Tensor) -> Tensor:
    positive = t.detach().abs().to(t.dtype)
    return nn.Parameter(positive, t.requires_grad) if isinstance(t, nn.Parameter) else positive


def _fill_with_ones(value: Any) -> Any:
    return torch.ones_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value
