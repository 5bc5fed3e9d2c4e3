"""The gradient g of a loss over batches, and products of its Hessian H with a direction.

All second derivatives of this library are computed here. With one batch, both passes share one graph. With several, a
first pass sums g, and a second one differentiates <v, g_b> batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from earlycrop.utils.contexts import differentiable_kernels, preserve_state, replace_tensors, set_scoring_mode
from earlycrop.utils.distributed import ProcessGroup, all_reduce_mean, fail_together
from earlycrop.utils.errors import FlowError
from earlycrop.utils.types import Loss, Tensors


@dataclass(frozen=True)
class Derivatives:
    """First and second derivatives of the summed loss, by parameter name.

    Args:
        gradient: g = sum over batches of dL_b/dw.
        product: Hv = sum over batches of d<v, dL_b/dw>/dw, where v is g or the given direction. None if it was not
            computed.
    """

    gradient: Tensors
    product: Tensors | None


def flow(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    second: bool = True,
    direction: Mapping[str, Tensor] | None = None,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> Derivatives:
    """Compute g and Hg of ``loss`` summed over ``batches``.

    Only parameters with ``requires_grad`` are differentiated. Dropout is off. Training modes, random states, ``.grad``,
    buffers and hooks of the parameters are left unchanged. Memory: the weights, g, Hg and one batch's graph.

    Source: EarlyCroP (Rachwan et al. 2022), eq. 4. Deviation: the authors keep the graphs of all batches.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss.
        batches: Training data; all of them are read.
        second: Whether to compute the Hessian product too.
        direction: v, by parameter name, to compute Hv instead of Hg.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: A torch.distributed process group. Each of its processes calls this function with its own batches, as
            many as the others, and g and Hg are averaged over the processes, as DistributedDataParallel averages
            gradients.

    Returns:
        The derivatives, by parameter name.

    Raises:
        ValueError: There is no batch, or no parameter to differentiate.
        FlowError: The loss is not a finite scalar, a parameter is unused, or a derivative is not finite.
    """
    with fail_together(group):
        batches = list(batches)
        if not batches:
            raise ValueError("no batch to score on: give at least one batch of training data")
    with _prepare_network(model, loss, batch_statistics) as network:
        return _differentiate(network, batches, second, direction, group)


def flow_by_parameter(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    use: Callable[[str, Tensor, Tensor], None],
    *,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> None:
    """Compute g and Hg as :func:`flow` does, and hand them to ``use`` in terms that sum up to them.

    With one batch, Hg of a parameter has a term for each operation that reads the parameter, and a term is freed before
    the next one is computed. Memory: the weights, g, one batch's graph, and one term. With several batches or
    processes, Hg is stored as a whole, and each parameter has one term.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss.
        batches: Training data; all of them are read.
        use: Called with a parameter's name, g and a term of Hg. Only the first term of a parameter comes with g, the
            others with zeros in place of it.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: The processes that average, see :func:`flow`.

    Raises:
        ValueError, FlowError: See :func:`flow`.
    """
    batches = list(batches)
    if len(batches) != 1 or group is not None:
        derivatives = flow(model, loss, batches, batch_statistics=batch_statistics, group=group)
        for name, g in derivatives.gradient.items():
            use(name, g, (derivatives.product or {})[name])
        return
    with _prepare_network(model, loss, batch_statistics) as network:
        _stream_products(network, batches[0], use)


def expanded_zeros(like: Tensor) -> Tensor:
    """Return zeros of the same shape, dtype and device that share the memory of one number."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand_as(like)


@dataclass(frozen=True)
class _Network:
    """A network in scoring mode, its loss, and the leaves that stand in for its parameters."""

    model: nn.Module
    loss: Loss
    leaves: Tensors

    def gradients(self, batch: Any, require_all: bool = True) -> Tensors:
        """Return one batch's gradients, with the graph to differentiate them again."""
        value = _check_scalar(self.loss(self.model, batch))
        gradients = torch.autograd.grad(value, list(self.leaves.values()), create_graph=True, allow_unused=True)
        if require_all:
            _check_used(self.leaves, gradients)
        return {name: g for name, g in zip(self.leaves, gradients, strict=True) if g is not None}

    def accumulate_products(self, edges: Mapping[str, GradientEdge], direction: Mapping[str, Tensor]) -> None:
        """Add d<direction, gradient>/dw to ``.grad`` of the leaves. A gradient that is constant in w has no edge."""
        if not edges:
            return
        roots, vectors = list(edges.values()), [direction[name] for name in edges]
        try:
            torch.autograd.backward(roots, vectors, inputs=list(self.leaves.values()))
        except (FlowError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:  # NotImplementedError is one
            raise FlowError(
                f"the gradient cannot be differentiated ({str(error).partition(chr(10))[0]}): take a method that needs "
                "no second derivative, such as snip or snap, or replace that operation"
            ) from error

    def take_sums(self) -> Tensors:
        """Return ``.grad`` of each leaf, or zeros where it has none, and reset it."""
        pairs = [(name, leaf, leaf.grad) for name, leaf in self.leaves.items()]
        for leaf in self.leaves.values():
            leaf.grad = None
        return {name: torch.zeros_like(leaf) if g is None else g.detach() for name, leaf, g in pairs}


def _differentiate(
    network: _Network, batches: list[Any], second: bool, direction: Mapping[str, Tensor] | None, group: ProcessGroup
) -> Derivatives:
    """Sum g over the batches and, in a second pass that needs this sum, the Hessian product.

    With a single batch, the second pass goes through the graph of the first.
    """
    graph: Tensors | None = None
    leaves = list(network.leaves.values())
    with fail_together(group, FlowError):
        if second and len(batches) == 1:
            graph = network.gradients(batches[0])
            # averaging writes into the tensors, and the graph needs the values that it was computed with
            sums = {name: g.detach() if group is None else g.detach().clone() for name, g in graph.items()}
        else:
            for batch in batches:
                torch.autograd.backward(_check_scalar(network.loss(network.model, batch)), inputs=leaves)
            _check_used(network.leaves, [leaf.grad for leaf in leaves])
            sums = network.take_sums()
    gradient = _check_finite(all_reduce_mean(sums, group), "gradient")
    if not second:
        return Derivatives(gradient, None)
    with fail_together(group, FlowError):
        along = _check_direction(direction, network.leaves) if direction else gradient
        for batch in batches:  # no variable keeps the graph of a batch while the next one is built
            network.accumulate_products(_gradient_edges(graph or network.gradients(batch, require_all=False)), along)
    return Derivatives(gradient, _check_finite(all_reduce_mean(network.take_sums(), group), "Hessian product"))


def _stream_products(network: _Network, batch: Any, use: Callable[[str, Tensor, Tensor], None]) -> None:
    """Hand each term of the parameters' Hg to ``use`` while autograd computes the others."""
    graph = network.gradients(batch)
    gradient = _check_finite({name: g.detach() for name, g in graph.items()}, "gradient")
    pending = dict(gradient)

    def deliver(name: str, product: Tensor) -> None:
        _check_finite({name: product}, "Hessian product")
        use(name, pending.pop(name, expanded_zeros(product)), product)

    edges = _gradient_edges(graph)
    _intercept_terms(edges, network.leaves, deliver)
    del graph
    network.accumulate_products(edges, gradient)
    for name, leaf in network.leaves.items():
        if leaf.grad is not None:  # a term that is no operation's, as the gradient is the parameter itself
            deliver(name, leaf.grad)
        elif name in pending:  # the gradient does not depend on this parameter
            deliver(name, expanded_zeros(leaf))


def _intercept_terms(
    edges: Mapping[str, GradientEdge], leaves: Tensors, deliver: Callable[[str, Tensor], None]
) -> None:
    """Register hooks that deliver each gradient sent to a leaf, and send None on, so that autograd sums nothing."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    visited, pending = set(), [edge.node for edge in edges.values()]

    def hook(leaf_inputs: Mapping[int, str], gradients: tuple[Tensor | None, ...], _: Any) -> tuple[Tensor | None, ...]:
        for i, name in leaf_inputs.items():
            if (gradient := gradients[i]) is not None:
                deliver(name, gradient.detach())
        return tuple(None if i in leaf_inputs else gradient for i, gradient in enumerate(gradients))

    while pending:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        leaf_inputs = {}
        for i, (successor, _) in enumerate(node.next_functions):
            name = names.get(id(getattr(successor, "variable", None)))
            if name is not None:
                leaf_inputs[i] = name
            elif successor is not None:
                pending.append(successor)
        if leaf_inputs:
            node.register_hook(partial(hook, leaf_inputs))


@contextmanager
def _prepare_network(model: nn.Module, loss: Loss, batch_statistics: bool) -> Iterator[_Network]:
    """Put the model into scoring mode, with leaves in place of its parameters.

    The leaves share the parameters' memory, so that the parameters' ``.grad`` and hooks are not touched.
    """
    with preserve_state(model), differentiable_kernels(model), torch.enable_grad():
        leaves: Tensors = {name: nn.Parameter(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        if not leaves:
            raise ValueError("no parameter requires a gradient: there is nothing to score")
        set_scoring_mode(model, batch_statistics)
        try:
            with replace_tensors(model, leaves):
                yield _Network(model, loss, leaves)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise FlowError(
                "a part of the model runs in torch.utils.checkpoint with use_reentrant=True, which does not support "
                "gradients by parameter: call it with use_reentrant=False"
            ) from error


def _gradient_edges(graph: Tensors) -> dict[str, GradientEdge]:
    """Return the places of the gradients in the graph, through which they are differentiated without their values."""
    return {name: get_gradient_edge(g) for name, g in graph.items() if g.requires_grad}


def _check_used(leaves: Tensors, gradients: Iterable[Tensor | None]) -> None:
    unused = [name for name, g in zip(leaves, gradients, strict=True) if g is None]
    if unused:
        raise FlowError(
            f"the loss does not depend on {_format_names(unused)}: remove it from the model, or exclude it from the "
            "scoring with requires_grad_(False)"
        )


def _check_finite(derivative: Tensors, kind: str) -> Tensors:
    bad = [name for name, t in derivative.items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise FlowError(
            f"the {kind} of {_format_names(bad)} is not finite: check the loss and the batches for NaN or infinity"
        )
    return derivative


def _check_scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise FlowError(f"the loss must be a scalar tensor, and is {kind}: reduce it with .mean() or .sum()")
    if not bool(torch.isfinite(value)):
        raise FlowError(f"the loss is {value.item()}: it cannot be differentiated")
    if not value.requires_grad:
        raise FlowError(
            "the loss does not depend on any parameter: compute it with the model that it is given, with gradients "
            "enabled"
        )
    return value.reshape(())


def _check_direction(direction: Mapping[str, Tensor], leaves: Tensors) -> Mapping[str, Tensor]:
    wrong = [n for n, leaf in leaves.items() if n not in direction or direction[n].shape != leaf.shape]
    if wrong:
        raise ValueError(f"the direction must have a tensor of the parameter's shape for {_format_names(wrong)}")
    return direction


def _format_names(names: list[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
