"""Cut nodes out of a module and its optimizer, in place, and prove that nothing else changed.

The oracle is the masked dense network: the same network with the removed nodes' outgoing weights at zero. Both give the
same output, or the cut is taken back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from earlycrop._cut import Swap, cut_module, keep_of, selected
from earlycrop._modules import (
    call,
    plain_kernels,
    replaced,
    require_its_optimizer,
    tensors,
    tensors_in,
    undisturbed,
)
from earlycrop._watch import Role
from earlycrop.graph import Graph, Group, Removed

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference that a certificate allows, by the outputs' type."""


class SurgeryError(RuntimeError):
    """The cut was not made, or was taken back: model and optimizer are as they were."""


@dataclass(frozen=True)
class Cut:
    """What a cut did.

    difference: the certificate, max |small - masked| / max |masked| over the outputs, or None if not asked for.
    """

    nodes: int
    weights_before: int
    weights_after: int
    difference: float | None


def shrink(
    model: nn.Module, graph: Graph, remove: Iterable[int], optimizer: Optimizer | None = None, certify: bool = True
) -> Cut:
    """Remove nodes from ``model`` in place, with their entries in buffers, gradients and the optimizer's state.

    ``remove``: indices into ``graph.nodes``, of a graph traced on the model as it is now. Tied weights stay tied, and
    the sizes that torch's modules keep as attributes follow. With ``certify``, the small network is run beside the
    masked dense one on the graph's example, in evaluation mode.

    Raises:
        ValueError: an index is no node, a layer would be emptied, the graph is not the model's, or the optimizer is
        not. SurgeryError: the optimizer has state that cannot be cut, or the certificate failed; nothing was changed.
    """
    removed = graph.mask(remove)
    _check(model, graph, removed, optimizer)
    before = graph.cost("weights")
    if not removed.any():
        return Cut(0, before, before, 0.0 if certify else None)
    keep = keep_of(graph, removed)
    named = tensors(model)
    states = {} if optimizer is None else {n: _small_state(n, named[n], keep[n], optimizer) for n in keep}
    expected = _masked_output(model, graph, removed) if certify else None
    swap = cut_module(model, keep, graph.sizes(removed))
    difference = None
    if expected is not None:
        try:
            difference = _certified(expected, _outputs(model, graph.example))
        except BaseException as error:
            swap.undo()
            if isinstance(error, SurgeryError) or not isinstance(error, Exception):
                raise
            raise SurgeryError(
                f"the small network does not run ({type(error).__name__}: {error}); the model is as it was. Look at "
                "Graph.report(), and leave the nodes of the layer in question out of the cut"
            ) from error
    if optimizer is not None:
        _follow(optimizer, swap, states)
    return Cut(int(removed.sum()), before, graph.cost("weights", removed), difference)


def uncertified(model: nn.Module, graph: Graph, remove: Iterable[int]) -> dict[Group, str]:
    """The coupled layers whose part of a cut fails its certificate by itself, with what it says; tried on copies."""
    wanted = set(remove)
    failing: dict[Group, str] = {}

    def search(groups: list[Group]) -> None:
        try:
            shrink(copy.deepcopy(model), graph, [i for g in groups for i in graph.groups[g] if i in wanted])
        except SurgeryError as error:
            if len(groups) == 1:
                failing[groups[0]] = str(error)
                return
            search(groups[: len(groups) // 2])
            search(groups[len(groups) // 2 :])

    search([g for g, ids in graph.groups.items() if wanted & set(ids)])
    return failing


def _check(model: nn.Module, graph: Graph, removed: Removed, optimizer: Optimizer | None) -> None:
    named = tensors(model)
    if {name: tuple(t.shape) for name, t in named.items()} != graph.shapes:
        raise ValueError("the graph is not this model's, or the model was cut since: trace it again")
    for name, dims in keep_of(graph, removed).items():
        emptied = [d for d, index in dims.items() if index.numel() == 0]
        if emptied:
            raise ValueError(
                f"the cut would leave nothing of dimension {emptied[0]} of '{name}': keep one of its nodes"
            )
        if getattr(named[name], "_post_accumulate_grad_hooks", None) or named[name]._backward_hooks:
            raise ValueError(
                f"'{name}' has hooks that a cut would lose (masks of an unstructured pruning, or your own): release "
                "them first"
            )
    if optimizer is not None:
        require_its_optimizer(model, optimizer)


def _masked_output(model: nn.Module, graph: Graph, removed: Removed) -> list[Tensor]:
    """The dense network's outputs with the removed nodes' outgoing weights at zero.

    Where two activations are multiplied there are no outgoing weights: there, all that the node owns is zero.
    """
    named = dict(model.named_parameters())
    masked: dict[str, Tensor] = {}
    for slot in graph.slots:
        gone = (slot.nodes >= 0) & removed[slot.nodes]
        if Role.COLUMN not in slot.role:
            gone &= graph.inner[slot.nodes]
        if slot.tensor in named and gone.any():
            now = masked.get(slot.tensor, named[slot.tensor].detach())
            index = torch.from_numpy(gone.nonzero()[0]).to(now.device)
            masked[slot.tensor] = now.index_fill(slot.dim, index, 0)
    parameters = {name: nn.Parameter(t, named[name].requires_grad) for name, t in masked.items()}
    with replaced(model, parameters):
        return _outputs(model, graph.example)


def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Every floating tensor that the model returned while the example ran, or else what the example gave."""
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.extend(t.detach().clone() for t in tensors_in(output))

    handle = model.register_forward_hook(look)
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        with undisturbed(model), plain_kernels(model), torch.no_grad():
            model.eval()
            torch.manual_seed(0)  # a forward that draws numbers draws the same ones both times
            output = call(model, example)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        handle.remove()
    found = [t for t in seen or tensors_in(output) if t.is_floating_point()]
    if not found:
        raise SurgeryError(
            "the model returns no floating tensor to compare, so that the cut cannot be proven: return one, or cut "
            "with certify=False"
        )
    return found


def _certified(expected: list[Tensor], got: list[Tensor]) -> float:
    if [t.shape for t in expected] != [t.shape for t in got]:
        shapes = f"{[tuple(t.shape) for t in got]} instead of {[tuple(t.shape) for t in expected]}"
        raise SurgeryError(f"the small network's outputs have the shapes {shapes}; the model is as it was")
    worst = 0.0
    for a, b in zip(expected, got, strict=True):
        if not a.numel():
            continue
        same = (a == b) | (a.isnan() & b.isnan())  # two infinities have no difference
        apart = (a.double() - b.double()).abs().masked_fill(same, 0)
        scale = float(a.double().abs().masked_fill(~a.isfinite(), 0).max())
        difference = float(apart.max()) / max(scale, torch.finfo(a.dtype).tiny)
        worst = max(worst, difference)
        if not difference <= TOLERANCE[a.dtype]:
            raise SurgeryError(
                f"the small network's output differs from the masked dense one's by {difference:.2g} (relative; "
                f"allowed {TOLERANCE[a.dtype]:g}); the model is as it was. Either the forward computes with its own "
                "width, or this is a bug in the tracer: please report it with Graph.report()"
            )
    return worst


def _small_state(name: str, old: Tensor, keep: dict[int, Tensor], optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state of a parameter that is cut: tensors that run along its dimensions are cut the same way."""
    small: dict[str, Any] = {}
    for key, value in optimizer.state.get(old, {}).items():
        if not isinstance(value, Tensor):
            if any(isinstance(t, Tensor) for t in tree_leaves(value)):
                raise _unknown_state(name, key, optimizer)
            small[key] = value
        elif value.numel() <= 1:
            small[key] = value
        elif value.ndim == old.ndim and all(n in (1, m) for n, m in zip(value.shape, old.shape, strict=True)):
            small[key] = selected(value, keep)
        else:
            raise _unknown_state(name, key, optimizer)
    return small


def _unknown_state(name: str, key: str, optimizer: Optimizer) -> SurgeryError:
    return SurgeryError(
        f"{type(optimizer).__name__} keeps '{key}' for '{name}' in a form that does not follow the parameter's shape: "
        "cut before its first step, or make a new optimizer after the cut (optimizer=None)"
    )


def _follow(optimizer: Optimizer, swap: Swap, states: dict[str, dict[str, Any]]) -> None:
    """Hold the live parameters, in the same groups and places, with their state."""
    new_of = {id(old): new for old, new in swap.tensors.values()}
    for group in optimizer.param_groups:
        group["params"][:] = [new_of.get(id(p), p) for p in group["params"]]
    for name, (old, new) in swap.tensors.items():
        if old in optimizer.state:
            del optimizer.state[old]
            optimizer.state[new] = states[name]
