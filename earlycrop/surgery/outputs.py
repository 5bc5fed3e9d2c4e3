"""Run a network reproducibly, in evaluation mode and in a given precision, and collect the tensors that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import call_model, collect_tensors, is_functorch_tensor, tensors_by_name
from earlycrop.utils.precision import full_float32_precision
from earlycrop.utils.random_states import seed_all


def run_outputs(
    model: nn.Module,
    example: Any,
    parameters: Mapping[str, Tensor],
    precision: torch.dtype | None = torch.float32,
    replace_inputs: Callable[[int, Any], Any] | None = None,
) -> list[Tensor]:
    """Run the model on an example in evaluation mode, and return the floating tensors that it returned.

    If the example is a callable that does not call the model itself, the tensors are those that the callable returned.

    Args:
        model: The model. Its state is restored.
        example: The example, as for ``earlycrop.trace``.
        parameters: Name -> tensor that replaces the model's parameter in this run.
        precision: Cast less precise tensors up to this type, and switch autocast off. With None, do neither.
        replace_inputs: A function of the number of the model's call, from 1, and its inputs (args, kwargs), which
            returns the inputs to use.

    Returns:
        The tensors of all calls. Complex ones become pairs of real numbers.

    Raises:
        SurgeryError: There is no floating tensor, or all are empty.
        Exception: What the model raises.
    """
    collected: list[Tensor] = []
    calls = 0

    def prepare_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        inputs = (args, kwargs) if replace_inputs is None else replace_inputs(calls, (args, kwargs))
        return tree_map(partial(_upcast, precision=precision), inputs) if precision else inputs

    def collect_outputs(module: nn.Module, inputs: Any, output: Any) -> None:
        collected.extend(t.detach().clone() for t in collect_tensors(output) if not is_functorch_tensor(t))

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(prepare_inputs, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(collect_outputs).remove)
        stack.enter_context(_reproducible_evaluation(model, parameters, precision))
        output = call_model(model, example)
    tensors = [torch.view_as_real(t) if t.is_complex() else t for t in collected or collect_tensors(output)]
    floating = [t for t in tensors if t.is_floating_point()]
    if not any(t.numel() for t in floating):
        returned = "only empty tensors" if floating else "no floating tensor to compare"
        raise SurgeryError(
            f"the model returns {returned}, so that the cut cannot be proven: trace it on an example for which it "
            "returns some (a callable of the model may return an earlier result), or cut with certify=False"
        )
    return floating


@contextmanager
def _reproducible_evaluation(
    model: nn.Module, parameters: Mapping[str, Tensor], precision: torch.dtype | None
) -> Iterator[None]:
    """Run ``model`` in evaluation mode with fixed seeds, with other parameters and in higher precision.

    On exit, the state of the model and of torch is restored.
    """
    with ExitStack() as stack:
        stack.enter_context(replace_tensors(model, parameters))
        if precision:
            casts = {n: cast for n, t in tensors_by_name(model).items() if (cast := _upcast(t, precision)) is not t}
            stack.enter_context(replace_tensors(model, casts))
        stack.enter_context(full_float32_precision())
        # algorithms that are chosen by their time may round otherwise at another size
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = False
        stack.enter_context(preserve_state(model))
        stack.enter_context(differentiable_kernels(model))
        if precision:
            stack.enter_context(_WithoutAutocast())
        stack.enter_context(torch.no_grad())
        model.eval()
        seed_all(0)  # a loss or a forward pass that draws random numbers draws the same ones in every run
        yield


class _WithoutAutocast(TorchFunctionMode):
    """Makes autocast regions in a forward pass or a loss do nothing, in this thread alone."""

    def __init__(self) -> None:
        super().__init__()
        accelerator = torch.accelerator.current_accelerator()
        self._device_types = ["cpu"] if accelerator is None else ["cpu", accelerator.type]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        enabled = [kind for kind in self._device_types if torch.is_autocast_enabled(kind)]
        for kind in enabled:
            torch.set_autocast_enabled(kind, False)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            for kind in enabled:
                torch.set_autocast_enabled(kind, True)


def _upcast(t: Any, precision: torch.dtype) -> Any:
    """Cast a floating tensor that is less precise than ``precision``, and return anything else unchanged."""
    if not isinstance(t, Tensor) or not t.is_floating_point() or torch.promote_types(t.dtype, precision) == t.dtype:
        return t
    cast = t.detach().to(precision)
    return nn.Parameter(cast, t.requires_grad) if isinstance(t, nn.Parameter) else cast
