"""Which nodes are removed for a target: exact counts, ties by index, and no layer left empty.

The last node that fits decides: what is left is at most the target, and none of the removed nodes could come back
without exceeding the target, a ceiling or a multiple. At least one node of every layer and one weight of every matrix
stay. A target in time is met by :mod:`earlycrop.selection.step_time`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jaxtyping import Float
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels, CostTerm, NodeMask, layer_of, total_cost
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits
from earlycrop.selection.ranking import Ranking, rank_nodes


@dataclass(frozen=True)
class NodeChoice:
    """The nodes that are removed for a target.

    Args:
        removed: For each node, whether it is removed.
        left: What is left of what the target counts.
        floors: The layers where a floor or a multiple kept nodes that score lower than removed ones.
    """

    removed: NodeMask
    left: int
    floors: tuple[str, ...]


def choose_nodes(
    graph: Graph, scores: Float[Tensor, "nodes"], allowed: int, of: str = "weights", limits: Limits | Bounds = NO_BOUNDS
) -> NodeChoice:
    """Remove the nodes with the lowest scores until what is left in ``of`` is at most ``allowed``.

    The number of nodes is found by bisection. Then removed nodes come back, the best first, if they fit. If floors do
    not allow the target, everything above them is removed. With a multiple, chunks of nodes that fill one are removed
    together.

    Args:
        graph: The network's graph.
        scores: The score of each node.
        allowed: How much may be left.
        of: The measure of the target, any but "time".
        limits: What the choice must respect.

    Returns:
        The nodes, and what is left without them.

    Raises:
        ValueError: See :func:`node_bounds`.
    """
    costs = graph.costs(of)
    ranking = node_ranking(graph, scores, limits)
    # the smallest number of units without which the cost is at most ``allowed``, or all of them
    n = bisect_left(range(ranking.count), -allowed, key=lambda n: -total_cost(costs, ranking.remove_first(n)))
    removed = ranking.remove_first(n)
    remaining = _RemainingCost(costs, removed)
    floors = ranking.find_limiting_layers(n, remaining.total <= allowed)
    for i in reversed(range(n)):
        blocked = i in ranking.remainders and removed[ranking.remainders[i]].any()
        if not blocked and remaining.restore(ranking.units[i], allowed):
            removed[ranking.units[i]] = False
    return NodeChoice(removed, remaining.total, floors)


def node_ranking(graph: Graph, scores: Float[Tensor, "nodes"], limits: Limits | Bounds) -> Ranking:
    """Rank the nodes that can be removed by score, equal ones by index.

    Args:
        graph: The network's graph.
        scores: The score of each node.
        limits: What the choice must respect.

    Returns:
        The ranking.
    """
    bounds = node_bounds(graph, limits) if isinstance(limits, Limits) else limits
    return rank_nodes(graph, np.argsort(scores.detach().cpu().double().numpy(), kind="stable"), bounds)


def node_bounds(graph: Graph, limits: Limits) -> Bounds:
    """Turn limits into numbers of outputs of this network's layers.

    Args:
        graph: The network's graph.
        limits: The limits.

    Returns:
        The numbers by layer.

    Raises:
        ValueError: A ceiling is below what floors, exclude and multiple protect; or see :meth:`Limits.to_bounds`.
    """
    names = list(dict.fromkeys(layer_of(name) for name in graph.shapes if graph.is_matrix(name)))
    widths = {layer.name: layer.nodes.size for layer in graph.layers}
    bounds = limits.to_bounds(names, widths, {layer.name: int((layer.nodes >= 0).sum()) for layer in graph.layers})
    if bounds.max_kept:
        order = np.arange(graph.count)  # how many must stay does not depend on the scores
        rankings = [rank_nodes(graph, order, b) for b in (replace(bounds, max_kept={}, multiple=1), NO_BOUNDS)]
        protected, unprunable = (remaining_outputs(graph, r.remove_first(r.count)) for r in rankings)
        for name, max_kept in bounds.max_kept.items():
            if protected[name] > max(max_kept, unprunable[name]):
                raise bounds.make_conflict_error(name, protected[name])
    return bounds


def remaining_outputs(graph: Graph, removed: NodeMask | None = None) -> dict[str, int]:
    """Count the outputs of each layer that are left.

    Args:
        graph: The network's graph.
        removed: The nodes that are removed; none by default.

    Returns:
        The number of outputs, by layer.
    """
    kept = np.ones(graph.count, bool) if removed is None else ~removed
    kept = np.append(kept, True)  # the last entry serves outputs without a node, which are numbered -1
    return {layer.name: int(kept[layer.nodes].sum()) for layer in graph.layers}


class _RemainingCost:
    """The cost of what is left, updated as nodes come back."""

    def __init__(self, costs: tuple[CostTerm, ...], removed: NodeMask) -> None:
        kept = np.append(~removed, True)
        self._constants = [term.constant for term in costs]
        self._counts = [[int(kept[axis].sum()) for axis in term.axes] for term in costs]
        self._products = [c * prod(counts) for c, counts in zip(self._constants, self._counts, strict=True)]
        self.total = sum(self._products)
        self._channels: dict[int, list[tuple[int, int, int]]] = {}
        """By node: a term, one of its axes, and how many channels along it the node owns."""
        for i, term in enumerate(costs):
            for j, axis in enumerate(term.axes):
                nodes, numbers = np.unique(axis[axis >= 0], return_counts=True)
                for node, number in zip(nodes.tolist(), numbers.tolist(), strict=True):
                    self._channels.setdefault(node, []).append((i, j, number))

    def restore(self, nodes: ChannelLabels, allowed: int) -> bool:
        """Bring these nodes back if the total stays within ``allowed``. Returns whether it does."""
        counts: dict[int, list[int]] = {}
        for node in nodes.tolist():
            for i, j, number in self._channels.get(node, []):
                counts.setdefault(i, list(self._counts[i]))[j] += number
        products = {i: self._constants[i] * prod(c) for i, c in counts.items()}
        total = self.total + sum(products[i] - self._products[i] for i in products)
        if total > allowed:
            return False
        self.total = total
        for i in counts:
            self._counts[i], self._products[i] = counts[i], products[i]
        return True
