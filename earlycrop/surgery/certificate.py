"""Certificate of a cut: compare the small network with the masked dense one, on the example and on noise."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask, Role
from earlycrop.surgery.noise import Noise
from earlycrop.surgery.outputs import reproducible_runs
from earlycrop.utils.errors import SurgeryError, raise_if_out_of_memory

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Largest relative difference that a certificate allows, by the type of the outputs."""
HALF = (torch.float16, torch.bfloat16)
HALF_TOLERANCE = 5e-2
"""Tolerance for a model that computes in half precision even if it is given float32. It proves little."""
MAX_ROUNDING = 1e-3
"""A difference in float32 above the tolerance and up to this may be rounding. In float64 rounding is far smaller."""
Certificate: TypeAlias = tuple[float | None, tuple[str, ...]]
"""The relative difference, or None without a certificate, and the caveats (see ``Cut``)."""


class OutputMismatchError(SurgeryError):
    """The outputs of the small network and the masked dense one differ by more than the tolerance.

    Attributes:
        difference: The relative difference.
    """

    def __init__(self, difference: float, message: str) -> None:
        super().__init__(message)
        self.difference = difference


@dataclass(frozen=True)
class Reference:
    """The outputs of the masked dense network, with which a small one is compared.

    Attributes:
        outputs: The outputs on the example.
        noisy_outputs: The outputs on noise, or None if noise proves nothing.
        noise: The noise.
        precision: Less precise tensors were cast up to this type. None if the model does not run like that.
        caveats: See ``Cut``.
    """

    outputs: list[Tensor]
    noisy_outputs: list[Tensor] | None
    noise: Noise
    precision: torch.dtype | None
    caveats: tuple[str, ...]


def reference_outputs(
    model: nn.Module, graph: Graph, removed: NodeMask, precision: torch.dtype = torch.float32
) -> Reference:
    """Run the dense network with removed nodes masked, on the example and on noise.

    Args:
        model: The dense network.
        graph: Its graph.
        removed: The nodes to mask.
        precision: Cast less precise tensors up to this type.

    Returns:
        The outputs, and how they were computed.

    Raises:
        SurgeryError: The network returns nothing to compare.
        Exception: What the network raises on the example.
    """
    runs = partial(reproducible_runs, model, graph.example, _mask_parameters(model, graph, removed))
    noise = Noise()
    caveats: list[str] = []
    used_precision: torch.dtype | None = precision
    with ExitStack() as stack:
        try:
            run = stack.enter_context(runs(precision))
            outputs = run(noise.record)
        except SurgeryError:
            raise
        except Exception as error:
            raise_if_out_of_memory(error)
            if precision is torch.float64:
                raise
            stack.close()
            noise, used_precision = Noise(), None
            run = stack.enter_context(runs(None))
            outputs = run(noise.record)
            caveats.append(f"it allows {HALF_TOLERANCE:g}: the model does not run in float32 ({_first_line(error)})")
        noisy_outputs, problem = None, "the model is called with no floating tensor to replace by noise"
        if noise.samples:
            problem = "the dense model's output on noise is not finite"
            try:
                noisy_outputs = run(noise.replace)
            except Exception as error:
                raise_if_out_of_memory(error)
                problem = f"the dense model fails on noise ({_first_line(error)})"
    if used_precision and any(t.dtype in HALF for t in outputs):
        caveats.append(f"it allows {HALF_TOLERANCE:g}: the model returns half precision, whatever it is given")
    if noisy_outputs is not None and not _are_equally_finite(outputs, noisy_outputs):
        noisy_outputs = None
    if noisy_outputs is None:
        caveats.append(f"it stands on the example alone: {problem}")
    return Reference(outputs, noisy_outputs, noise, used_precision, tuple(caveats))


def compare_outputs(model: nn.Module, graph: Graph, reference: Reference) -> Certificate:
    """Compare the outputs of the small network with those of the masked dense one.

    Args:
        model: The small network.
        graph: The graph of the dense network.
        reference: The outputs of the masked dense network.

    Returns:
        The largest relative difference, and the caveats of the certificate.

    Raises:
        OutputMismatchError: The difference is above the tolerance.
        SurgeryError: The small network does not run, or returns outputs of other shapes.
    """
    try:
        with reproducible_runs(model, graph.example, {}, reference.precision) as run:
            difference = _check_difference(reference.outputs, run(None), reference.precision, "")
            if reference.noisy_outputs is None:
                return difference, reference.caveats
            try:
                outputs = run(reference.noise.replace)
            except Exception as error:
                raise_if_out_of_memory(error)
                if not reference.noise.shape_changed:
                    raise
        if reference.noise.shape_changed:
            caveat = "it stands on the example alone: what is cut is an input of the model"
            return difference, (*reference.caveats, caveat)
        noisy_difference = _check_difference(reference.noisy_outputs, outputs, reference.precision, " on noise")
        return max(difference, noisy_difference), reference.caveats
    except SurgeryError:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        cause = f"the small network does not run ({_first_line(error)}); the model is as it was"
        advice = "Look at Graph.report(), and leave the nodes of the layer in question out of the cut"
        raise SurgeryError(f"{cause}. {advice}") from error


def _mask_parameters(model: nn.Module, graph: Graph, removed: NodeMask) -> dict[str, Tensor]:
    """Return the parameters with the outgoing weights of removed nodes at zero.

    A node in a product of two activations has no outgoing weights. All weights that it owns are zero instead.
    """
    parameters = dict(model.named_parameters())
    masked: dict[str, Tensor] = {}
    for axis in graph.axes:
        if Role.DIRECTION in axis.role:
            continue  # its length is zero instead
        zeroed = (axis.nodes >= 0) & removed[axis.nodes]
        if Role.COLUMN not in axis.role:
            zeroed &= graph.activation_products[axis.nodes]
        if axis.tensor in parameters and zeroed.any():
            values = masked.get(axis.tensor, parameters[axis.tensor].detach())
            mask = torch.from_numpy(zeroed).to(values.device)
            if values.layout == torch.strided and axis.dim == values.ndim - 1:
                masked[axis.tensor] = torch.where(mask, values.new_zeros(()), values)  # one pass, index_fill takes two
            else:
                masked[axis.tensor] = values.index_fill(axis.dim, mask.nonzero()[:, 0], 0)
    return {name: nn.Parameter(t, parameters[name].requires_grad) for name, t in masked.items()}


def _check_difference(
    expected: list[Tensor], outputs: list[Tensor], precision: torch.dtype | None, label: str
) -> float:
    """Return the largest relative difference: max |output - expected| / max |expected|, the worst over the outputs."""
    if [t.shape for t in expected] != [t.shape for t in outputs]:
        shapes = f"{[tuple(t.shape) for t in outputs]} instead of {[tuple(t.shape) for t in expected]}"
        raise SurgeryError(f"the small network's outputs{label} have the shapes {shapes}; the model is as it was")
    largest = 0.0
    for a, b in zip(expected, outputs, strict=True):
        if not a.numel():
            continue
        equal = (a == b) | (a.isnan() & b.isnan())  # the difference of two infinities would be nan
        distance = float((a.double() - b.double()).abs().masked_fill(equal, 0).max())
        scale = float(a.double().abs().masked_fill(~a.isfinite(), 0).max())
        difference = distance / max(scale, torch.finfo(a.dtype).tiny)
        largest = max(largest, difference)
        tolerance = TOLERANCE.get(a.dtype, HALF_TOLERANCE) if precision else HALF_TOLERANCE
        if not difference <= tolerance:  # nan fails, too
            raise OutputMismatchError(
                difference,
                f"the small network's output{label} differs from the masked dense one's by {difference:.2g} (relative; "
                f"allowed {tolerance:g}); the model is as it was. Either the forward computes with its own width, or "
                "this is a bug in the tracer: please report it with Graph.report()",
            )
    return largest


def _are_equally_finite(outputs: list[Tensor], noisy_outputs: list[Tensor]) -> bool:
    """Return whether ``noisy_outputs`` are finite except where ``outputs`` are not (a masked logit)."""
    if [t.shape for t in outputs] != [t.shape for t in noisy_outputs]:
        return all(bool(t.isfinite().all()) for t in noisy_outputs)
    return all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(outputs, noisy_outputs, strict=True))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
