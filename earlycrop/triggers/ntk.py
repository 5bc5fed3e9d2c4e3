"""How far the empirical neural tangent kernel turns from epoch to epoch: it is constant while training is lazy.

Source: Chizat et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from earlycrop.scoring.model_inputs import record_arguments
from earlycrop.utils.contexts import differentiable_kernels, preserve_state
from earlycrop.utils.errors import FlowError, raise_if_out_of_memory
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.types import Loss

MAX_ROWS = 64
"""The number of outputs (examples times outputs of each) of a probe batch that are differentiated at most."""


class NTKDistance:
    """Measures 1 - <K_t, K_(t-1)> / (|K_t| |K_(t-1)|), which is 0 while training is linear.

    K_t = J_t J_t' is the kernel of the model's outputs on one fixed probe batch after epoch t, with J their derivative
    by all trained parameters in evaluation mode. Each update costs one backward pass for each row of the kernel, at
    most ``MAX_ROWS``, and one kernel is stored.

    Source: the alignment of kernels in Fort et al. 2020, section 3. Deviation: consecutive epochs are compared.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss. It must call the model; the arguments of its first call are stored.
        probe: A small batch. The first ``MAX_ROWS`` entries of the first floating-point output count.

    Raises:
        FlowError: The loss does not call the model.
        ValueError: The loss or the model fails on the batch.
    """

    def __init__(self, model: nn.Module, loss: Loss, probe: Any) -> None:
        self._arguments = _check_probe(model, loss, probe)
        self._previous: Tensor | None = None

    def update(self, model: nn.Module) -> float | None:
        """Measure how far the kernel has turned since the last update.

        Args:
            model: The network.

        Returns:
            The distance, None at the first update.

        Raises:
            FlowError: The model returns no floating-point tensor.
        """
        kernel = self._compute_kernel(model)
        previous, self._previous = self._previous, kernel
        if previous is None:
            return None
        norms = torch.linalg.matrix_norm(kernel) * torch.linalg.matrix_norm(previous)
        return float(1 - (kernel * previous).sum() / norms) if float(norms) else 0.0

    def _compute_kernel(self, model: nn.Module) -> Float[Tensor, "rows rows"]:
        args, kwargs = self._arguments
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

        def compute_outputs(parameters: dict[str, Tensor]) -> Tensor:
            return _first_output(functional_call(model, parameters, args, kwargs)).flatten()[:MAX_ROWS]

        with preserve_state(model), differentiable_kernels(model), torch.enable_grad():
            model.eval()
            jacobians = list(jacrev(compute_outputs, chunk_size=1)(trained).values())
        rows = len(jacobians[0])
        kernel = torch.zeros(rows, rows, dtype=torch.float64, device=jacobians[0].device)
        for jacobian in jacobians:
            j = jacobian.flatten(1).double()
            kernel += j @ j.T
        return kernel.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return the last kernel."""
        return {"previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from ``state_dict``.

        Args:
            state: The state.
        """
        self._previous = state["previous"]


def _first_output(output: Any) -> Tensor:
    for t in collect_tensors(output):
        if t.is_floating_point():
            return t
    raise FlowError("the model returns no floating-point tensor: the tangent kernel needs one")


def _check_probe(model: nn.Module, loss: Loss, probe: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that the loss calls the model with, and run the model on them once."""
    try:
        arguments = record_arguments(model, loss, probe)
        with preserve_state(model), torch.no_grad():
            model(*arguments[0], **arguments[1])
    except FlowError:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        cause = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"loss(model, batch) fails on ntk_probe ({type(error).__name__}: {cause}): give a batch as training has it"
        ) from error
    return arguments
