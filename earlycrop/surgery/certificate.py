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
from earlycrop.graph.types import Removed, Role
from earlycrop.surgery.noise import Noise
from earlycrop.utils.contexts import attributes_kept, plain_kernels, replaced, undisturbed
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.modules import call, tensors, tensors_in, within_transform

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Largest relative difference that a certificate allows, by the outputs' type."""
HALF = (torch.float16, torch.bfloat16)
HALF_TOLERANCE = 5e-2
"""The same where a model computes in half precision, whatever is done: it proves little."""
ROUNDING = 1e-3
"""A difference above the tolerance and up to this may be one of rounding alone; in float64 it is none."""
_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class Apart(SurgeryError):
    """The small network's output differs from the masked dense one's by more than is allowed."""

    def __init__(self, difference: float, told: str) -> None:
        super().__init__(told)
        self.difference = difference


@dataclass(frozen=True)
class Expected:
    """What the masked dense network returns, and how it was run; what a small one is held against.

    noisy: on noise, or None where that proves nothing. least: the type that numbers of less precision were cast up to,
    or None if that was not possible. caveats: see ``Cut``.
    """

    outputs: list[Tensor]
    noisy: list[Tensor] | None
    noise: Noise
    least: torch.dtype | None
    caveats: tuple[str, ...]


def expected_of(
    model: nn.Module, graph: Graph, removed: Removed, least: torch.dtype | None = torch.float32
) -> Expected:
    """Run the dense network with the nodes in ``removed`` masked, in the precision ``least`` or more.

    Raises:
        SurgeryError: it returns nothing to compare. Whatever the model raises on the example.
    """
    masked = _masked(model, graph, removed)
    noise, caveats = Noise(), []
    try:
        given = outputs(model, graph.example, masked, least, draw=noise)
    except (SurgeryError, *_OF_MEMORY):
        raise
    except Exception as error:
        if least is torch.float64:
            raise
        noise, least = Noise(), None
        given = outputs(model, graph.example, masked, least, draw=noise)
        caveats = [f"it allows {HALF_TOLERANCE:g}: the model does not run in float32 ({_said(error)})"]
    if least and any(t.dtype in HALF for t in given):
        caveats = [f"it allows {HALF_TOLERANCE:g}: the model returns half precision, whatever it is given"]
    noisy = None
    if noise.drawn:
        try:
            noisy = outputs(model, graph.example, masked, least, put=noise)
        except _OF_MEMORY:
            raise
        except Exception as error:
            why = f"the dense model fails on noise ({_said(error)})"
        else:
            why = "the dense model's output on noise is not finite"
            if not _as_finite(given, noisy):
                noisy = None
    else:
        why = "the model is called with no floating tensor to put noise in the place of"
    if noisy is None:
        caveats.append(f"it stands on the example alone: {why}")
    return Expected(given, noisy, noise, least, tuple(caveats))


def certified(model: nn.Module, graph: Graph, expected: Expected) -> tuple[float, tuple[str, ...]]:
    """The largest relative difference of the small network, and the caveats.

    Raises:
        SurgeryError: it is above the tolerance, or the small network does not run.
    """
    try:
        got = outputs(model, graph.example, {}, expected.least)
        worst = _difference(expected.outputs, got, expected.least, "")
        if expected.noisy is None:
            return worst, expected.caveats
        try:
            got = outputs(model, graph.example, {}, expected.least, put=expected.noise)
        except Exception:
            if not expected.noise.unlike:
                raise
        if expected.noise.unlike:
            return worst, (*expected.caveats, "it stands on the example alone: what is cut is an input of the model")
        return max(worst, _difference(expected.noisy, got, expected.least, " on noise")), expected.caveats
    except (SurgeryError, *_OF_MEMORY):
        raise
    except Exception as error:
        raise SurgeryError(
            f"the small network does not run ({_said(error)}); the model is as it was. Look at Graph.report(), and "
            "leave the nodes of the layer in question out of the cut"
        ) from error


def outputs(
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
        return tree_map(partial(_up, least=least), inputs) if least else inputs

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.extend(t.detach().clone() for t in tensors_in(output) if not within_transform(t))

    with ExitStack() as stack:
        stack.enter_context(replaced(model, parameters))
        if least:
            wide = {name: up for name, t in tensors(model).items() if (up := _up(t, least)) is not t}
            stack.enter_context(replaced(model, wide))
        stack.callback(model.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(leave).remove)
        stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", torch.backends.cuda.matmul.allow_tf32)
        stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        stack.enter_context(attributes_kept(model))
        stack.enter_context(undisturbed(model))
        stack.enter_context(plain_kernels(model))
        if least:
            stack.enter_context(_no_autocast())
        stack.enter_context(torch.no_grad())
        model.eval()
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(0)  # a loss or a forward that draws numbers draws the same ones every time
        output = call(model, example)
    given = [torch.view_as_real(t) if t.is_complex() else t for t in seen or tensors_in(output)]
    found = [t for t in given if t.is_floating_point()]
    if not any(t.numel() for t in found):
        what = "only empty tensors" if found else "no floating tensor to compare"
        raise SurgeryError(
            f"the model returns {what}, so that the cut cannot be proven: trace it on an example for which it returns "
            "some (a callable of the model may give what comes before), or cut with certify=False"
        )
    return found


def _masked(model: nn.Module, graph: Graph, removed: Removed) -> dict[str, Tensor]:
    """The dense network's parameters with the removed nodes' outgoing weights at zero.

    Where two activations are multiplied there are no outgoing weights: there, all that the node owns is zero.
    """
    named = dict(model.named_parameters())
    masked: dict[str, Tensor] = {}
    for slot in graph.slots:
        gone = (slot.nodes >= 0) & removed[slot.nodes]
        if Role.DIRECTION in slot.role:
            continue  # its length is zero instead
        if Role.COLUMN not in slot.role:
            gone &= graph.inner[slot.nodes]
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
            raise Apart(
                difference,
                f"the small network's output{where} differs from the masked dense one's by {difference:.2g} (relative; "
                f"allowed {allowed:g}); the model is as it was. Either the forward computes with its own width, or "
                "this is a bug in the tracer: please report it with Graph.report()",
            )
    return worst


def _as_finite(a: list[Tensor], b: list[Tensor]) -> bool:
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


def _up(t: Any, least: torch.dtype) -> Any:
    """A floating tensor of less precision than ``least`` in that; anything else as it is."""
    if not isinstance(t, Tensor) or not t.is_floating_point() or torch.promote_types(t.dtype, least) == t.dtype:
        return t
    wide = t.detach().to(least)
    return nn.Parameter(wide, t.requires_grad) if isinstance(t, nn.Parameter) else wide


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
