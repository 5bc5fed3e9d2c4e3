"""The proof of a cut: the small network against the masked dense one, on the example and on noise in its place."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask, Role
from earlycrop.surgery.noise import Noise
from earlycrop.utils.contexts import differentiable_kernels, preserve_attributes, preserve_state, replace_tensors
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import call_model, collect_tensors, is_functorch_tensor, tensors_by_name

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Largest relative difference that a certificate allows, by the outputs' type."""
HALF = (torch.float16, torch.bfloat16)
HALF_TOLERANCE = 5e-2
"""The same where a model computes in half precision, whatever is done: it proves little."""
MAX_ROUNDING = 1e-3
"""A difference above the tolerance and up to this may be one of rounding alone; in float64 it is none."""
_OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class OutputMismatchError(SurgeryError):
    """The small network's output differs from the masked dense one's by more than is allowed."""

    def __init__(self, difference: float, told: str) -> None:
        super().__init__(told)
        self.difference = difference


@dataclass(frozen=True)
class Reference:
    """What the masked dense network returns, and how it was run; what a small one is held against.

    noisy: on noise, or None where that proves nothing. least: the type that numbers of less precision were cast up to,
    or None if that was not possible. caveats: see ``Cut``.
    """

    outputs: list[Tensor]
    noisy: list[Tensor] | None
    noise: Noise
    precision: torch.dtype | None
    caveats: tuple[str, ...]


def reference_outputs(
    model: nn.Module, graph: Graph, removed: NodeMask, least: torch.dtype | None = torch.float32
) -> Reference:
    """Run the dense network with the nodes in ``removed`` masked, in the precision ``least`` or more.

    Raises:
        SurgeryError: it returns nothing to compare. Whatever the model raises on the example.
    """
    masked = _masked_parameters(model, graph, removed)
    noise, caveats = Noise(), []
    try:
        given = run_outputs(model, graph.example, masked, least, draw=noise)
    except (SurgeryError, *_OUT_OF_MEMORY):
        raise
    except Exception as error:
        if least is torch.float64:
            raise
        noise, least = Noise(), None
        given = run_outputs(model, graph.example, masked, least, draw=noise)
        caveats = [f"it allows {HALF_TOLERANCE:g}: the model does not run in float32 ({_first_line(error)})"]
    if least and any(t.dtype in HALF for t in given):
        caveats = [f"it allows {HALF_TOLERANCE:g}: the model returns half precision, whatever it is given"]
    noisy = None
    if noise.drawn:
        try:
            noisy = run_outputs(model, graph.example, masked, least, put=noise)
        except _OUT_OF_MEMORY:
            raise
        except Exception as error:
            why = f"the dense model fails on noise ({_first_line(error)})"
        else:
            why = "the dense model's output on noise is not finite"
            if not _equally_finite(given, noisy):
                noisy = None
    else:
        why = "the model is called with no floating tensor to put noise in the place of"
    if noisy is None:
        caveats.append(f"it stands on the example alone: {why}")
    return Reference(given, noisy, noise, least, tuple(caveats))


def compare_outputs(model: nn.Module, graph: Graph, expected: Reference) -> tuple[float, tuple[str, ...]]:
    """The largest relative difference of the small network, and the caveats.

    Raises:
        SurgeryError: it is above the tolerance, or the small network does not run.
    """
    try:
        got = run_outputs(model, graph.example, {}, expected.precision)
        worst = _difference(expected.outputs, got, expected.precision, "")
        if expected.noisy is None:
            return worst, expected.caveats
        try:
            got = run_outputs(model, graph.example, {}, expected.precision, put=expected.noise)
        except Exception:
            if not expected.noise.unlike:
                raise
        if expected.noise.unlike:
            return worst, (*expected.caveats, "it stands on the example alone: what is cut is an input of the model")
        return max(worst, _difference(expected.noisy, got, expected.precision, " on noise")), expected.caveats
    except (SurgeryError, *_OUT_OF_MEMORY):
        raise
    except Exception as error:
        raise SurgeryError(
            f"the small network does not run ({_first_line(error)}); the model is as it was. Look at "
            f"Graph.report(), and "
            "leave the nodes of the layer in question out of the cut"
        ) from error


def run_outputs(
    model: nn.Module,
    example: Any,
    parameters: Mapping[str, Tensor],
    least: torch.dtype | None = torch.float32,
    draw: Noise | None = None,
    put: Noise | None = None,
) -> list[Tensor]:
    """Every floating tensor that the model returned while the example ran, or else what the example gave.

    ``parameters`` stand in the place of the model's own. ``least``: what is less precise is cast up to this, and
    autocast is off.
    """
    seen: list[Tensor] = []
    calls = 0

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        nonlocal calls
        inputs, calls = (args, kwargs), calls + 1
        if draw is not None:
            draw.draw(calls, inputs)
        if put is not None:
            inputs = put.put(calls, inputs)
        return tree_map(partial(_upcast, least=least), inputs) if least else inputs

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.extend(t.detach().clone() for t in collect_tensors(output) if not is_functorch_tensor(t))

    with ExitStack() as stack:
        stack.enter_context(replace_tensors(model, parameters))
        if least:
            wide = {name: up for name, t in tensors_by_name(model).items() if (up := _upcast(t, least)) is not t}
            stack.enter_context(replace_tensors(model, wide))
        stack.callback(model.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(leave).remove)
        stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", torch.backends.cuda.matmul.allow_tf32)
        stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        stack.enter_context(preserve_attributes(model))
        stack.enter_context(preserve_state(model))
        stack.enter_context(differentiable_kernels(model))
        if least:
            stack.enter_context(_no_autocast())
        stack.enter_context(torch.no_grad())
        model.eval()
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)  # a loss or a forward that draws numbers draws the same ones every time
        output = call_model(model, example)
    given = [torch.view_as_real(t) if t.is_complex() else t for t in seen or collect_tensors(output)]
    found = [t for t in given if t.is_floating_point()]
    if not any(t.numel() for t in found):
        what = "only empty tensors" if found else "no floating tensor to compare"
        raise SurgeryError(
            f"the model returns {what}, so that the cut cannot be proven: trace it on an example for which it returns "
            "some (a callable of the model may give what comes before), or cut with certify=False"
        )
    return found


def _masked_parameters(model: nn.Module, graph: Graph, removed: NodeMask) -> dict[str, Tensor]:
    """The dense network's parameters with the removed nodes' outgoing weights at zero.

    Where two activations are multiplied there are no outgoing weights: there, all that the node owns is zero.
    """
    named = dict(model.named_parameters())
    masked: dict[str, Tensor] = {}
    for slot in graph.axes:
        gone = (slot.nodes >= 0) & removed[slot.nodes]
        if Role.DIRECTION in slot.role:
            continue  # its length is zero instead
        if Role.COLUMN not in slot.role:
            gone &= graph.activation_products[slot.nodes]
        if slot.tensor in named and gone.any():
            now = masked.get(slot.tensor, named[slot.tensor].detach())
            index = torch.from_numpy(gone.nonzero()[0]).to(now.device)
            masked[slot.tensor] = now.index_fill(slot.dim, index, 0)
    return {name: nn.Parameter(t, named[name].requires_grad) for name, t in masked.items()}


def _difference(expected: list[Tensor], got: list[Tensor], least: torch.dtype | None, where: str) -> float:
    if [t.shape for t in expected] != [t.shape for t in got]:
        shapes = f"{[tuple(t.shape) for t in got]} instead of {[tuple(t.shape) for t in expected]}"
        raise SurgeryError(f"the small network's outputs{where} have the shapes {shapes}; the model is as it was")
    worst = 0.0
    for a, b in zip(expected, got, strict=True):
        if not a.numel():
            continue
        same = (a == b) | (a.isnan() & b.isnan())  # two infinities have no difference
        apart = (a.double() - b.double()).abs().masked_fill(same, 0)
        scale = float(a.double().abs().masked_fill(~a.isfinite(), 0).max())
        difference = float(apart.max()) / max(scale, torch.finfo(a.dtype).tiny)
        worst = max(worst, difference)
        allowed = TOLERANCE.get(a.dtype, HALF_TOLERANCE) if least else HALF_TOLERANCE
        if not difference <= allowed:
            raise OutputMismatchError(
                difference,
                f"the small network's output{where} differs from the masked dense one's by {difference:.2g} (relative; "
                f"allowed {allowed:g}); the model is as it was. Either the forward computes with its own width, or "
                "this is a bug in the tracer: please report it with Graph.report()",
            )
    return worst


def _equally_finite(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether ``b`` is finite, but where ``a`` is not (a masked logit)."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return all(bool(t.isfinite().all()) for t in b)
    return all(torch.equal(s.isfinite(), t.isfinite()) for s, t in zip(a, b, strict=True))


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Regions of autocast in a forward or a loss do nothing."""
    enter = torch.autocast.__enter__

    def disabled(region: torch.autocast) -> Any:
        enabled, region._enabled = region._enabled, False
        try:
            return enter(region)  # type: ignore[no-untyped-call]
        finally:
            region._enabled = enabled

    torch.autocast.__enter__ = disabled  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


def _upcast(t: Any, least: torch.dtype) -> Any:
    """A floating tensor of less precision than ``least`` in that; anything else as it is."""
    if not isinstance(t, Tensor) or not t.is_floating_point() or torch.promote_types(t.dtype, least) == t.dtype:
        return t
    wide = t.detach().to(least)
    return nn.Parameter(wide, t.requires_grad) if isinstance(t, nn.Parameter) else wide


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
