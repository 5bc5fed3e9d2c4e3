"""The order in which nodes are removed under floors, ceilings and multiples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels, NodeMask, Role
from earlycrop.selection.constraints import Bounds

Protected = list[tuple[str, ChannelLabels]]
"""(layer, nodes): the nodes that a floor or a multiple protects, and the layer to report."""


@dataclass(frozen=True)
class Ranking:
    """Units of nodes that are removed together, in the order in which they are removed.

    Args:
        unit: For each node the number of its unit, -1 if a ceiling removes it in any case, ``count`` if it stays.
        count: The number of units.
        rank: For each node its rank by score, the lowest first.
        protected: The nodes that floors and multiples protect.
        remainders: By unit that brings the width of a group down to a multiple, the other nodes of the group. The unit
            may only come back if all of these are left.
    """

    unit: ChannelLabels
    count: int
    rank: ChannelLabels
    protected: Protected
    remainders: dict[int, ChannelLabels]

    def remove_first(self, n: int) -> NodeMask:
        """Return the nodes of the first ``n`` units, and those that are removed in any case.

        Args:
            n: The number of units.

        Returns:
            The nodes to remove.
        """
        return np.asarray(self.unit < n)

    @cached_property
    def units(self) -> list[ChannelLabels]:
        """The nodes of each unit."""
        order = np.argsort(self.unit, kind="stable")
        starts = np.searchsorted(self.unit[order], np.arange(self.count + 1))
        return np.split(order, starts)[1:-1]

    def find_limiting_layers(self, n: int, reached: bool) -> tuple[str, ...]:
        """Find the layers with protected nodes that score lower than the last of the first ``n`` units.

        Args:
            n: The number of units that are removed.
            reached: Whether the target is met. If not, all layers with protected nodes are returned.

        Returns:
            The names of the layers, in alphabetical order.
        """
        last = self.rank[(self.unit >= 0) & (self.unit < n)].max(initial=-1)
        layers = {layer for layer, nodes in self.protected if not reached or (self.rank[nodes] < last).any()}
        return tuple(sorted(layers))


def rank_nodes(graph: Graph, order: ChannelLabels, bounds: Bounds) -> Ranking:
    """Rank the nodes that can be removed within ``bounds``.

    Protected are the best node of each dimension that consists of nodes only, the best nodes of a layer up to its
    floor, and those that fill a group up to a multiple.

    Args:
        graph: The network's graph.
        order: The nodes from the lowest score to the highest.
        bounds: The limits in numbers.

    Returns:
        The ranking.
    """
    rank = np.empty(graph.count, np.int64)
    rank[order] = np.arange(graph.count)
    protected = _protect_by_floors(graph, rank, bounds)
    stays = np.zeros(graph.count, bool)
    for _, nodes in protected:
        stays[nodes] = True
    remainders: dict[int, ChannelLabels] = {}
    unit = np.full(graph.count, -1)
    if bounds.multiple == 1:
        unit[order[~stays[order]]] = np.arange(graph.count - stays.sum())
    else:
        chunks, remainders, fillers = _split_into_multiples(graph, rank, stays, bounds.multiple)
        for i, chunk in enumerate(sorted(chunks, key=lambda chunk: int(rank[chunk[-1]]))):  # by their best nodes
            unit[chunk] = i
        protected += fillers
    forced = _find_forced_units(graph, bounds, unit)
    count = int((~forced).sum())
    # the last entry serves the nodes that stay, whose unit is -1
    unit = np.append(np.where(forced, -1, np.cumsum(~forced) - 1), count)[unit]
    return Ranking(unit, count, rank, protected, {int(unit[node]): rest for node, rest in remainders.items()})


def _protect_by_floors(graph: Graph, rank: ChannelLabels, bounds: Bounds) -> Protected:
    """Find the best node of each dimension that consists of nodes only, and the best nodes of layers with a floor."""
    axes = [axis.nodes for axis in graph.axes if (axis.nodes >= 0).all()]
    last_nodes = dict.fromkeys(int(nodes[np.argmax(rank[nodes])]) for nodes in axes)
    protected = [(graph.nodes[i].layer, np.array([i])) for i in last_nodes]
    for name, nodes, fixed in _find_layers(graph, bounds.min_kept):
        needed = bounds.min_kept[name] - fixed
        if needed > 0 and nodes.size:
            protected.append((name, nodes[np.argsort(rank[nodes])][-needed:]))
    return protected


def _split_into_multiples(
    graph: Graph, rank: ChannelLabels, stays: NodeMask, multiple: int
) -> tuple[list[ChannelLabels], dict[int, ChannelLabels], Protected]:
    """Split the nodes that can be removed into chunks that each remove a multiple.

    Returns the chunks, the remainders (see :class:`Ranking`) by a node of their chunk, and the nodes that fill floors
    up to a multiple.
    """
    chunks: list[ChannelLabels] = []
    remainders: dict[int, ChannelLabels] = {}
    fillers: Protected = []
    for nodes, step in _find_families(graph, multiple):
        nodes = nodes[np.argsort(rank[nodes])]  # the lowest scores first; those that stay are the last
        floor = int(stays[nodes].sum())
        kept = min(nodes.size, -(-floor // step) * step)
        if kept > floor:
            filler = nodes[nodes.size - kept : nodes.size - floor]
            fillers.append((graph.nodes[int(filler[0])].layer, filler))
        removable, odd = nodes[: nodes.size - kept], nodes.size % step
        if odd and removable.size:
            remainders[int(removable[0])] = nodes[odd:]
            chunks.append(removable[:odd])
            removable = removable[odd:]
        chunks += np.split(removable, np.arange(step, removable.size, step)) if removable.size else []
    return chunks, remainders, fillers


def _find_layers(graph: Graph, limited: Mapping[str, int]) -> Iterator[tuple[str, ChannelLabels, int]]:
    """Find the limited layers, the nodes among their outputs, and how many outputs are no nodes."""
    for layer in graph.layers:
        if layer.name in limited:
            nodes = layer.nodes[layer.nodes >= 0]
            yield layer.name, nodes, layer.nodes.size - nodes.size


def _find_families(graph: Graph, multiple: int) -> list[tuple[ChannelLabels, int]]:
    """Find the nodes that own equally many entries along the same dimensions, and how many of them make up a multiple.

    A node that owns k entries of a dimension (an LSTM unit has four rows, an attention head as many as it is wide)
    takes multiple / gcd(multiple, k) of them to a multiple there.
    """
    has_columns = {axis.tensor for axis in graph.axes if Role.COLUMN in axis.role and axis.tensor in graph.parameters}
    family, count = np.zeros(graph.count, np.int64), 1
    steps = np.ones(graph.count, np.int64)
    for axis in graph.axes:  # each axis splits the families by how much of it their nodes own
        nodes, entries = np.unique(axis.nodes[axis.nodes >= 0], return_counts=True)
        pairs, pair_of_node = np.unique(np.stack([family[nodes], entries]), axis=1, return_inverse=True)
        family[nodes] = count + pair_of_node.reshape(-1)
        count += pairs.shape[1]
        if axis.tensor in has_columns:
            steps[nodes] = np.lcm(steps[nodes], multiple // np.gcd(multiple, entries))
    order = np.argsort(family, kind="stable")
    starts = np.unique(family[order], return_index=True)[1]
    return [(nodes, int(steps[nodes[0]])) for nodes in np.split(order, starts[1:]) if nodes.size]


def _find_forced_units(graph: Graph, bounds: Bounds, unit: ChannelLabels) -> NodeMask:
    """Mark the units that ceilings remove in any case: the lowest of a layer, until the ceiling is met."""
    forced = np.zeros(unit.max(initial=-1) + 1, bool)
    for name, nodes, fixed in _find_layers(graph, bounds.max_kept):
        units = unit[nodes]
        numbers, sizes = np.unique(units[units >= 0], return_counts=True)
        excess = nodes.size + fixed - bounds.max_kept[name] - int(sizes[forced[numbers]].sum())
        numbers, sizes = numbers[~forced[numbers]], sizes[~forced[numbers]]
        forced[numbers[np.cumsum(sizes) - sizes < excess]] = True
    return forced
