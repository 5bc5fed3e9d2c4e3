"""How far the empirical neural tangent kernel turns: what training being lazy means (Chizat et al. 2019), measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from earlycrop.utils.contexts import differentiable_kernels, preserve_state
from earlycrop.utils.errors import FlowError
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.types import Loss

MAX_ROWS = 64
"""At most so many outputs (examples times outputs of each) of a probe batch are differentiated."""


class NTKDistance:
    """Follows the kernel K_t = J_t J_t' of the model's outputs on one fixed probe batch, J their derivative by all
    trained parameters in evaluation mode, and tells 1 - <K_t, K_(t-1)> / (|K_t| |K_(t-1)|): 0 while training is linear.

    ``probe``: a batch as the loss takes it; what the loss first calls the model with is fixed from then on, and of the
    first floating tensor that the model returns the first ``ROWS`` entries count. Costs one backward pass an entry and
    keeps one matrix of at most ``ROWS`` x ``ROWS``.

    Source: the kernel's alignment as in Fort et al. 2020, section 3. Deviation: consecutive epochs are compared.

    Raises:
        FlowError: the loss does not call the model, or that returns no floating tensor.
    """

    def __init__(self, model: nn.Module, loss: Loss, probe: Any) -> None:
        self._given = _model_arguments(model, loss, probe)
        self._last: Tensor | None = None

    def update(self, model: nn.Module) -> float | None:
        """How far the kernel has turned since the last update; None at the first."""
        kernel = self._kernel(model)
        before, self._last = self._last, kernel
        if before is None:
            return None
        norms = torch.linalg.matrix_norm(kernel) * torch.linalg.matrix_norm(before)
        return float(1 - (kernel * before).sum() / norms) if float(norms) else 0.0

    def _kernel(self, model: nn.Module) -> Float[Tensor, "rows rows"]:
        args, kwargs = self._given
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return _first_output(functional_call(model, parameters, args, kwargs)).flatten()[:MAX_ROWS]

        with preserve_state(model), differentiable_kernels(model), torch.enable_grad():
            model.eval()
            rows = jacrev(outputs, chunk_size=1)(trained)
        first = next(iter(trained.values()))
        count = next(iter(rows.values())).shape[0]
        kernel = torch.zeros(count, count, dtype=torch.float64, device=first.device)
        for j in rows.values():
            flat = j.flatten(1).double()
            kernel += flat @ flat.T
        return kernel.cpu()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the probe."""
        return {"last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state from ``state_dict``."""
        self._last = state["last"]


class _StopForward(Exception):
    """The model was called."""


def _model_arguments(model: nn.Module, loss: Loss, probe: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args, dict(kwargs)))
        raise _StopForward

    handle = model.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        loss(model, probe)
    except _StopForward:
        return found[0]
    finally:
        handle.remove()
    raise FlowError("the loss does not call the model: there are no outputs to take a kernel of")


def _first_output(output: Any) -> Tensor:
    for t in collect_tensors(output):
        if t.is_floating_point():
            return t
    raise FlowError("the model returns no floating tensor to take a kernel of")
