"""The auxiliary gates by which nodes are scored, and the sums over the entries that a node's gate multiplies.

A gate c = 1 on a node, f(c (w x + b)), multiplies the node's rows and biases, so the derivative by the gate is a sum
over these entries, and no gate has to be put into the network. Source: Rachwan et al. 2022, section 4.1, eq. 5.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import ChannelLabels, NodeMask, Role
from earlycrop.scoring.criteria import Gate
from earlycrop.utils.types import Tensors

GatedAxis = tuple[TensorAxis, ChannelLabels]
"""A dimension of a tensor, and for each index along it the node whose gate multiplies that index, or -1."""


def find_gated_axes(graph: Graph, gate: Gate, scored: Container[str], scales: Iterable[str]) -> list[GatedAxis]:
    """Find the entries that the gates of all nodes multiply.

    A node without columns is gated at its rows. A node without rows in a matrix (one that is computed from several
    parameters), or with several rows in one parameter (the gates of an LSTM unit, an attention head), is gated at its
    columns: a gate on such rows is not a gate on the node. Under weight norm the length of a row is gated, as its
    direction is divided by its norm.

    Args:
        graph: The traced network.
        gate: Where to put the gates; "norms" puts those of nodes without a batch norm at their rows.
        scored: The parameters that have an effect. One that is not trained has no gradient, and would score zero.
        scales: The names of the scales of batch norms.

    Returns:
        The axes, those of rows or norms first. No index is gated on two of them.
    """
    if gate == "norms":
        affine = {name for scale in scales for name in (scale, scale.removesuffix("weight") + "bias")}
        norms = [(axis, nodes) for axis, nodes in find_norm_axes(graph, affine) if axis.tensor in scored]
        rows = find_gated_axes(graph, "rows", scored, scales)
        return norms + _restrict(rows, ~_nodes_on(graph, norms))
    axes = [axis for axis in graph.axes if axis.tensor in scored and Role.DIRECTION not in axis.role]
    rows = [(axis, axis.nodes) for axis in axes if Role.ROW in axis.role]
    columns = [(axis, axis.nodes) for axis in axes if Role.COLUMN in axis.role]
    at_rows = _nodes_on(graph, rows)
    has_columns = _nodes_on(graph, columns)
    at_rows &= _nodes_on(graph, _matrix_rows(graph)) | ~has_columns
    if gate == "columns":
        at_rows &= ~has_columns
    else:
        repeated = np.zeros(graph.count, bool)
        for _, nodes in rows:
            repeated |= np.bincount(nodes[nodes >= 0], minlength=graph.count) > 1
        at_rows &= ~(repeated & has_columns)
    return _restrict(rows, at_rows) + _restrict(columns, ~at_rows)


def _matrix_rows(graph: Graph) -> list[GatedAxis]:
    return [(axis, axis.nodes) for axis in graph.axes if Role.ROW in axis.role and graph.is_matrix(axis.tensor)]


def find_norm_axes(graph: Graph, tensors: Container[str]) -> list[GatedAxis]:
    """Return the axes of these tensors, such as the scales of batch norms."""
    return [(axis, axis.nodes) for axis in graph.axes if axis.tensor in tensors]


def sum_by_node(graph: Graph, axes: Iterable[GatedAxis], effects: Mapping[str, Tensor]) -> Float[Tensor, "nodes"]:
    """Sum the effects of the entries that each node's gate multiplies, in float64 on the CPU."""
    sums = torch.zeros(graph.count + 1, dtype=torch.float64, device="cpu")  # the last entry: indices without a node
    for axis, nodes in axes:
        if axis.tensor in effects:
            effect = effects[axis.tensor]
            other_dims = [d for d in range(effect.ndim) if d != axis.dim]
            by_index = effect.sum(other_dims, dtype=torch.float64) if other_dims else effect.double()
            sums.index_add_(0, torch.from_numpy(np.where(nodes >= 0, nodes, graph.count)), by_index.cpu())
    return sums[:-1]


def spread_to_entries(
    sums: Float[Tensor, "nodes"], axes: Iterable[GatedAxis], effects: Mapping[str, Tensor]
) -> Tensors:
    """Give each entry the value of the node whose gate multiplies it, in tensors of the shapes of ``effects``."""
    padded = torch.cat([sums, sums.new_zeros(1)])  # the last entry serves indices without a node, -1
    spread = {name: torch.zeros_like(effect) for name, effect in effects.items()}
    for axis, nodes in axes:
        if axis.tensor in spread:
            t = spread[axis.tensor]
            t += padded[torch.from_numpy(nodes)].to(t).reshape([-1 if d == axis.dim else 1 for d in range(t.ndim)])
    return spread


def _nodes_on(graph: Graph, axes: Iterable[GatedAxis]) -> NodeMask:
    """Mark the nodes that own an index of one of the axes."""
    mask = np.zeros(graph.count, bool)
    for _, nodes in axes:
        mask[nodes[nodes >= 0]] = True
    return mask


def _restrict(axes: Iterable[GatedAxis], selected: NodeMask) -> list[GatedAxis]:
    """Put -1 in place of the nodes that are not selected."""
    selected = np.append(selected, False)  # the last entry serves indices without a node, -1
    return [(axis, np.where(selected[nodes], nodes, -1)) for axis, nodes in axes]
