"""The gradient g of a loss over batches, and products of its Hessian H with a direction.

All second derivatives of this library are computed here. A first pass sums g over the batches, and a second one
differentiates <v, g_b> batch by batch. The second pass goes through the graphs of the first as far as these are kept,
and builds the others anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.scoring.differentiable_network import (
    DifferentiableNetwork,
    check_same_terms,
    gradient_edges,
    prepare_network,
)
from earlycrop.scoring.graph_cache import GraphCache
from earlycrop.scoring.loss_terms import TOTAL
from earlycrop.utils.distributed import ProcessGroup, all_reduce_mean, check_same_value, fail_together
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

    @property
    def gradient_flow(self) -> float:
        """|g|^2, the gradient flow of eq. 7."""
        return _squared_norm(self.gradient)


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
    """Compute g and Hg of ``loss`` summed over ``batches``. A loss of several terms is their sum.

    Only parameters with ``requires_grad`` are differentiated. Dropout is off. Training modes, random states, ``.grad``,
    buffers and hooks of the parameters are left unchanged. Memory: the weights, g, Hg, one batch's graph, and the
    graphs of further batches as far as :data:`earlycrop.scoring.graph_cache.MAX_BYTES` holds them.

    Source: EarlyCroP (Rachwan et al. 2022), eq. 4. Deviation: the authors keep the graphs of all batches.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss, or its terms: see :func:`earlycrop.scoring.loss_terms.loss_terms`.
        batches: Training data; all of them are read.
        second: Whether to compute the Hessian product too.
        direction: v, by parameter name, to compute Hv instead of Hg.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: A torch.distributed process group. Each of its processes calls this function with its own batches, as
            many as the others, and g and Hg are averaged over the processes, as DistributedDataParallel averages
            gradients.

    Returns:
        The derivatives, by parameter name. They are zero where the loss does not depend on a parameter.

    Raises:
        ValueError: There is no batch, or no parameter to differentiate.
        FlowError: The loss is not a finite scalar, or a derivative is not finite.
    """
    batches = _list_batches(batches, group)
    directions = {TOTAL: direction} if direction else None
    return flows(model, loss, batches, False, second, directions, batch_statistics, group)[TOTAL]


def flows(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    by_term: bool,
    second: bool = True,
    directions: Mapping[str, Mapping[str, Tensor]] | None = None,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> dict[str, Derivatives]:
    """Compute g_i and H_i g_i of each term L_i of ``loss``, or of their sum, summed over ``batches``.

    Memory: the weights, all g_i and H_i g_i, and graphs of batches, see :func:`flow`.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss, or its terms: see :func:`earlycrop.scoring.loss_terms.loss_terms`.
        batches: Training data; all of them are read.
        by_term: Whether each term is differentiated on its own. If not, the sum is the only term, called ``"loss"``.
        second: Whether to compute the Hessian products too.
        directions: v_i, by term and parameter name, to compute H_i v_i instead of H_i g_i.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: The processes that average, see :func:`flow`.

    Returns:
        The derivatives of each term, by its name. They are zero where a term does not depend on a parameter.

    Raises:
        ValueError: See :func:`flow`; or the processes' losses have different terms.
        FlowError: See :func:`flow`; or the batches' losses have different terms.
    """
    batches = _list_batches(batches, group)
    with prepare_network(model, loss, batch_statistics, by_term) as network:
        return _differentiate(network, batches, second, directions, group)


def flow_by_parameter(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    use: Callable[[str, str, Tensor, Tensor], None],
    by_term: bool = False,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> dict[str, float]:
    """Compute g and Hg as :func:`flows` does, and hand them to ``use`` in parts that sum up to them.

    With one batch, Hg of a parameter has a part for each operation that reads the parameter, and a part is freed before
    the next one is computed. Memory: the weights, g, one batch's graph, and one part. With several batches or
    processes, Hg is stored as a whole, and each parameter has one part.

    Args:
        model: The network.
        loss: (model, batch) -> scalar loss, or its terms: see :func:`earlycrop.scoring.loss_terms.loss_terms`.
        batches: Training data; all of them are read.
        use: Called with a term's name, a parameter's name, g and a part of Hg. Only the first part of a parameter comes
            with g, the others with zeros in place of it.
        by_term: Whether each term is differentiated on its own. If not, the sum is the only term, called ``"loss"``.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: The processes that average, see :func:`flow`.

    Returns:
        |g_i|^2 of each term, by its name.

    Raises:
        ValueError, FlowError: See :func:`flows`.
    """
    batches = _list_batches(batches, group)
    with prepare_network(model, loss, batch_statistics, by_term) as network:
        if len(batches) == 1 and group is None:
            return _stream_products(network, batches[0], use)
        by_name = _differentiate(network, batches, True, None, group)
        for term, derivatives in by_name.items():
            for name, g in derivatives.gradient.items():
                use(term, name, g, (derivatives.product or {})[name])
        return {term: derivatives.gradient_flow for term, derivatives in by_name.items()}


def expanded_zeros(like: Tensor) -> Tensor:
    """Return zeros of the same shape, dtype and device that share the memory of one number."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand_as(like)


def _list_batches(batches: Iterable[Any], group: ProcessGroup) -> list[Any]:
    with fail_together(group):
        batches = list(batches)
        if not batches:
            raise ValueError("no batch to score on: give at least one batch of training data")
    return batches


def _differentiate(
    network: DifferentiableNetwork,
    batches: list[Any],
    second: bool,
    directions: Mapping[str, Mapping[str, Tensor]] | None,
    group: ProcessGroup,
) -> dict[str, Derivatives]:
    """Sum each term's g over the batches and, in a second pass that needs these sums, the Hessian products.

    With a single batch, the second pass goes through the graph of the first.
    """
    gradients: dict[str, Tensors] = {}
    products: dict[str, Tensors] = {}
    graphs = GraphCache(network, len(batches) if second else 0)
    with fail_together(group, FlowError):
        for number, batch in enumerate(batches):
            if graphs.has_room(number):
                _add(graphs.differentiate(number, batch), gradients, copied=len(batches) > 1 or group is not None)
            else:
                network.add_gradients(batch, gradients)
    check_same_value(", ".join(gradients), group, "the terms of the loss")
    gradients = {term: _average(network, sums, "gradient", group) for term, sums in gradients.items()}
    if not second:
        return {term: Derivatives(gradient, None) for term, gradient in gradients.items()}
    with fail_together(group, FlowError):
        along = _check_directions(directions, gradients) if directions else gradients
        for number, batch in enumerate(batches):  # no variable keeps the graph of a batch beyond its turn
            edges = graphs.pop(number) or gradient_edges(network.gradients(batch))
            check_same_terms(edges, gradients)
            network.add_products(edges, along, products)
    averages = {term: _average(network, products[term], "Hessian product", group) for term in gradients}
    return {term: Derivatives(gradient, averages[term]) for term, gradient in gradients.items()}


def _add(gradients: Mapping[str, Tensors], sums: dict[str, Tensors], copied: bool) -> None:
    """Add gradients to ``sums``. The first ones are copied if these are written to: a graph needs their values."""
    if not sums:
        for term, by_name in gradients.items():
            sums[term] = {name: g.detach().clone() if copied else g.detach() for name, g in by_name.items()}
        return
    check_same_terms(gradients, sums)
    for term, by_name in gradients.items():
        for name, g in by_name.items():
            if name in sums[term]:
                sums[term][name] += g.detach()
            else:
                sums[term][name] = g.detach().clone()


def _average(network: DifferentiableNetwork, sums: Tensors, kind: str, group: ProcessGroup) -> Tensors:
    """Average over the processes, with zeros where there is no derivative."""
    filled = {name: sums[name] if name in sums else torch.zeros_like(leaf) for name, leaf in network.leaves.items()}
    return _check_finite(all_reduce_mean(filled, group), kind)


def _stream_products(
    network: DifferentiableNetwork, batch: Any, use: Callable[[str, str, Tensor, Tensor], None]
) -> dict[str, float]:
    """Hand each part of the terms' Hg to ``use`` while autograd computes the others."""
    graph = network.gradients(batch)
    gradients = {
        term: _check_finite({name: g.detach() for name, g in by_name.items()}, "gradient")
        for term, by_name in graph.items()
    }
    pending = {term: dict(by_name) for term, by_name in gradients.items()}

    def deliver(term: str, name: str, product: Tensor) -> None:
        _check_finite({name: product}, "Hessian product")
        use(term, name, pending[term].pop(name, expanded_zeros(product)), product)

    edges = gradient_edges(graph)
    del graph
    network.stream_products(edges, gradients, deliver)
    for term, by_name in pending.items():
        for name in list(by_name):  # the gradient does not depend on this parameter
            deliver(term, name, expanded_zeros(network.leaves[name]))
    return {term: _squared_norm(gradient) for term, gradient in gradients.items()}


def _squared_norm(gradient: Tensors) -> float:
    kinds = (torch.float64, torch.complex128)
    norms = [float(torch.linalg.vector_norm(g, dtype=kinds[g.is_complex()])) for g in gradient.values()]
    return fsum(norm**2 for norm in norms)


def _check_finite(derivative: Tensors, kind: str) -> Tensors:
    # a sum costs a tenth of isfinite, and is finite but for an overflow if all entries are
    suspects = {name: t for name, t in derivative.items() if not bool(torch.isfinite(t.sum()))}
    bad = [name for name, t in suspects.items() if not bool(torch.isfinite(t).all())]
    if bad:
        raise FlowError(
            f"the {kind} of {_format_names(bad)} is not finite: check the loss and the batches for NaN or infinity"
        )
    return derivative


def _check_directions(
    directions: Mapping[str, Mapping[str, Tensor]], gradients: Mapping[str, Tensors]
) -> Mapping[str, Mapping[str, Tensor]]:
    for term, by_name in gradients.items():
        direction = directions[term]
        wrong = [name for name, g in by_name.items() if name not in direction or direction[name].shape != g.shape]
        if wrong:
            raise ValueError(f"the direction must have a tensor of the parameter's shape for {_format_names(wrong)}")
    return directions


def _format_names(names: list[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
