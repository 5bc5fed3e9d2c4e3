"""The synaptic flow of a network, which SynFlow differentiates in place of a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from earlycrop.scoring.derivatives import Derivatives
from earlycrop.scoring.model_inputs import record_arguments
from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors
from earlycrop.utils.errors import FlowError, raise_if_out_of_memory
from earlycrop.utils.modules import collect_tensors, tensors_by_name
from earlycrop.utils.types import Loss


def synaptic_flow(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> Derivatives:
    """Compute dR/dw, with R the synaptic flow. Multiplied by w, it is |w| dR/d|w|.

    R is the sum of all outputs of the network in evaluation mode, with the absolute values of its parameters and
    buffers, on inputs whose floating-point tensors are filled with ones. It is computed in float64, as R may be beyond
    float32, or where the network does not run so, as it is.

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
    try:
        flows = _differentiate(model, loss, batch, trained, in_float64=True)
    except (RuntimeError, TypeError) as error:
        raise_if_out_of_memory(error)
        flows = _differentiate(model, loss, batch, trained, in_float64=False)
    return Derivatives({name: g * trained[name].detach().sgn() for name, g in flows.items()}, None)


def _differentiate(
    model: nn.Module, loss: Loss, batch: Any, trained: Mapping[str, Tensor], in_float64: bool
) -> dict[str, Tensor]:
    """Return dR/d|w|. Raise FlowError where there is no such derivative."""
    tensors = tensors_by_name(model)
    positive = {n: _absolute_value(t, in_float64) for n, t in tensors.items() if _is_inexact(t)}
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad():
        model.eval()
        inputs = record_arguments(model, loss, batch)
        with replace_tensors(model, positive):
            args, kwargs = tree_map(partial(_fill_with_ones, in_float64=in_float64), inputs)
            outputs = collect_tensors(model(*args, **kwargs))
            total = sum((t.sum() for t in outputs if t.is_floating_point()), torch.zeros((), device="cpu"))
            if not total.requires_grad:
                raise FlowError("the model's outputs do not depend on any trained parameter: there is nothing to score")
            gradients = torch.autograd.grad(total, [positive[name] for name in trained], allow_unused=True)
    return {n: g.real if g.is_complex() else g for n, g in zip(trained, gradients, strict=True) if g is not None}


def _is_inexact(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _wide(t: Tensor, in_float64: bool) -> Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64) if in_float64 else t


def _absolute_value(t: Tensor, in_float64: bool) -> Tensor:
    positive = _wide(t.detach().abs().to(t.dtype), in_float64)
    return nn.Parameter(positive, t.requires_grad) if isinstance(t, nn.Parameter) else positive


def _fill_with_ones(value: Any, in_float64: bool) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return _wide(torch.ones_like(value), in_float64)
