"""Run a network reproducibly, in evaluation mode and in a given precision, and collect the tensors that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import call_model, collect_tensors, is_functorch_tensor, tensors_by_name
from earlycrop.utils.precision import full_float32_precision
from earlycrop.utils.random_states import seed_all

InputReplacement: TypeAlias = Callable[[int, Any], Any]
"""A function of the number of the model's call, from 1, and its inputs (args, kwargs), which returns the inputs to use.
"""
Run: TypeAlias = Callable[[InputReplacement | None], list[Tensor]]
"""Runs the model and returns the floating tensors of all its calls. Complex ones become pairs of real numbers.

It raises SurgeryError if there is no floating tensor, or all are empty, and what the model raises.
"""


@contextmanager
def reproducible_runs(
    model: nn.Module, example: Any, parameters: Mapping[str, Tensor], precision: torch.dtype | None = torch.float32
) -> Iterator[Run]:
    """Run the model on an example in evaluation mode, as often as needed. Each run starts from the same state.

    If the example is a callable that does not call the model itself, a run returns the tensors that the callable
    returned.

    Args:
        model: The model. Its state, and that of torch, is restored on exit.
        example: The example, as for ``earlycrop.trace``.
        parameters: Name -> tensor that replaces the model's parameter within the context.
        precision: Cast less precise tensors up to this type, and switch autocast off. With None, do neither.

    Yields:
        The function that runs the model.
    """
    with ExitStack() as stack:
        calls = _Calls(precision)
        stack.callback(model.register_forward_pre_hook(calls.prepare_inputs, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(calls.collect_outputs).remove)
        stack.enter_context(replace_tensors(model, parameters))
        if precision:
            casts = {n: cast for n, t in tensors_by_name(model).items() if (cast := _upcast(t, precision)) is not t}
            stack.enter_context(replace_tensors(model, casts))
        stack.enter_context(full_float32_precision())
        # algorithms that are chosen by their time may round otherwise at another size
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = False
        stack.enter_context(differentiable_kernels(model))
        state = stack.enter_context(preserve_state(model))
        if precision:
            stack.enter_context(_WithoutAutocast())
        stack.enter_context(torch.no_grad())

        def run(replace_inputs: InputReplacement | None) -> list[Tensor]:
            if calls.runs:
                state.restore()
            calls.start(replace_inputs)
            model.eval()
            seed_all(0)  # a loss or a forward pass that draws random numbers draws the same ones in every run
            output = call_model(model, example)
            return _floating(calls.outputs or collect_tensors(output))

        yield run


class _Calls:
    """Hooks on the calls of a model: they prepare the inputs of a run and collect its outputs.

    Args:
        precision: Less precise inputs are cast up to this type; with None they are not.
    """

    def __init__(self, precision: torch.dtype | None) -> None:
        self._precision = precision
        self._replace_inputs: InputReplacement | None = None
        self._count = self.runs = 0
        self.outputs: list[Tensor] = []

    def start(self, replace_inputs: InputReplacement | None) -> None:
        """Start a run."""
        self._replace_inputs, self._count, self.outputs = replace_inputs, 0, []
        self.runs += 1

    def prepare_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Replace and cast the inputs of a call."""
        self._count += 1
        inputs = (args, kwargs) if self._replace_inputs is None else self._replace_inputs(self._count, (args, kwargs))
        return tree_map(partial(_upcast, precision=self._precision), inputs) if self._precision else inputs

    def collect_outputs(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Record the outputs of a call."""
        self.outputs.extend(t.detach().clone() for t in collect_tensors(output) if not is_functorch_tensor(t))


def _floating(tensors: list[Tensor]) -> list[Tensor]:
    """Return the floating ones of a run's tensors. Complex ones become pairs of real numbers."""
    tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    floating = [t for t in tensors if t.is_floating_point()]
    if not any(t.numel() for t in floating):
        returned = "only empty tensors" if floating else "no floating tensor to compare"
        raise SurgeryError(
            f"the model returns {returned}, so that the cut cannot be proven: trace it on an example for which it "
            "returns some (a callable of the model may return an earlier result), or cut with certify=False"
        )
    return floating


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
