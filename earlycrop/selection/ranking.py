"""In which order nodes may go when some must stay and some must go together: floors, ceilings, multiples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels, NodeMask, Role
from earlycrop.selection.constraints import Bounds


@dataclass(frozen=True)
class Ranking:
    """Units, that is nodes that go together, in the order in which they go.

    place: an entry a node: the number of its unit, -1 where a ceiling has it go in any case, ``count`` where it stays.
    count: the number of units. held: (layer, nodes) for whatever holds nodes. whole: for the unit that takes a group's
    width down to its first multiple, the group's other nodes: it may come back only when they are all there.
    """

    place: ChannelLabels
    count: int
    rank: ChannelLabels
    held: tuple[tuple[str, ChannelLabels], ...]
    whole: dict[int, ChannelLabels]

    def first(self, n: int) -> NodeMask:
        """The first ``n`` units, and what must go in any case."""
        return np.asarray(self.place < n)

    @cached_property
    def units(self) -> list[ChannelLabels]:
        """The nodes of each unit."""
        order = np.argsort(self.place, kind="stable")
        starts = np.searchsorted(self.place[order], np.arange(self.count + 1))
        return np.split(order, starts)[1:-1]

    def holding(self, n: int, reached: bool) -> tuple[str, ...]:
        """The layers that hold nodes which the ranking had go before the last of the first ``n`` units; all of them
        where the target was not reached.
        """
        gone = self.rank[(self.place >= 0) & (self.place < n)].max(initial=-1)
        return tuple(sorted({layer for layer, ids in self.held if (self.rank[ids] < gone).any() or not reached}))


def rank_nodes(graph: Graph, order: ChannelLabels, bounds: Bounds) -> Ranking:
    """The ranking of nodes that go in ``order``, worst first, within ``bounds``.

    What stays: the best node of each dimension of each tensor that only nodes make up; the best of a layer up to its
    floor; and what fills a group up to a multiple.
    """
    rank = np.empty(graph.count, np.int64)
    rank[order] = np.arange(graph.count)
    stays = np.zeros(graph.count, bool)
    held: list[tuple[str, ChannelLabels]] = []
    for nodes in (slot.nodes for slot in graph.axes if (slot.nodes >= 0).all()):
        best = nodes[np.argmax(rank[nodes])]
        if not stays[best]:
            held.append((graph.nodes[int(best)].layer, np.array([best])))
            stays[best] = True
    for name, free, frozen in _layers(graph, bounds.min_kept):
        if (need := bounds.min_kept[name] - frozen) > 0 and free.size:
            held.append((name, free[np.argsort(rank[free])][-need:]))
            stays[held[-1][1]] = True
    unit, whole = _units(graph, order, rank, stays, held, bounds.multiple)
    forced = _forced(graph, bounds, unit)
    place = np.cumsum(~forced) - 1
    place[forced] = -1
    count = int((~forced).sum())
    place = np.append(place, count)  # for what stays
    return Ranking(place[unit], count, rank, tuple(held), {int(place[u]): rest for u, rest in whole.items()})


def _layers(graph: Graph, limited: Mapping[str, int]) -> list[tuple[str, ChannelLabels, int]]:
    """The limited layers, the nodes among their outputs, and how many outputs are none."""
    found = []
    for layer in graph.layers:
        if layer.name in limited:
            free = layer.nodes[layer.nodes >= 0]
            found.append((layer.name, free, layer.nodes.size - free.size))
    return found


def _units(
    graph: Graph,
    order: ChannelLabels,
    rank: ChannelLabels,
    stays: NodeMask,
    held: list[tuple[str, ChannelLabels]],
    multiple: int,
) -> tuple[ChannelLabels, dict[int, ChannelLabels]]:
    """For each node the number of its unit in the order of their best nodes, -1 where it stays; and ``whole``."""
    if multiple == 1:
        alone = order[~stays[order]]
        unit = np.full(graph.count, -1)
        unit[alone] = np.arange(alone.size)
        return unit, {}
    chunks: list[ChannelLabels] = []
    rests: dict[int, ChannelLabels] = {}
    for ids, step in _node_families(graph, multiple):
        ids = ids[np.argsort(rank[ids])]  # worst first
        floor = int(stays[ids].sum())  # the best ones, whatever holds them
        least = min(ids.size, -(-floor // step) * step)
        if least > floor:
            extra = ids[ids.size - least : ids.size - floor]
            held.append((graph.nodes[int(extra[0])].layer, extra))
            stays[extra] = True
        going, odd = ids[: ids.size - least], ids.size % step
        if odd and going.size:
            rests[len(chunks)] = ids[odd:]
            chunks.append(going[:odd])
            going = going[odd:]
        chunks += np.split(going, np.arange(step, going.size, step)) if going.size else []
    best = np.array([rank[c[-1]] for c in chunks], np.int64)
    number = np.empty(len(chunks), np.int64)
    number[np.argsort(best)] = np.arange(len(chunks))
    unit = np.full(graph.count, -1)
    for chunk, n in zip(chunks, number, strict=True):
        unit[chunk] = n
    return unit, {int(number[c]): rest for c, rest in rests.items()}


def _node_families(graph: Graph, multiple: int) -> list[tuple[ChannelLabels, int]]:
    """Nodes that own equally many entries along the same dimensions, and how many of them make up a multiple in each.

    A node that owns k entries of a dimension (an LSTM's unit has four rows, an attention head as many as it is wide)
    takes multiple / gcd(multiple, k) of them to a multiple there.
    """
    multiplied = {s.tensor for s in graph.axes if Role.COLUMN in s.role and s.tensor in graph.parameters}
    family, known = np.zeros(graph.count, np.int64), 1
    steps = np.ones(graph.count, np.int64)
    for slot in graph.axes:  # each splits the families by how much of it their nodes own
        here, owned = np.unique(slot.nodes[slot.nodes >= 0], return_counts=True)
        pairs, where = np.unique(np.stack([family[here], owned]), axis=1, return_inverse=True)
        family[here] = known + where.reshape(-1)
        known += pairs.shape[1]
        if slot.tensor in multiplied:
            steps[here] = np.lcm(steps[here], multiple // np.gcd(multiple, owned))
    order = np.argsort(family, kind="stable")
    starts = np.unique(family[order], return_index=True)[1]
    return [(ids, int(steps[ids[0]])) for ids in np.split(order, starts[1:]) if ids.size]


def _forced(graph: Graph, bounds: Bounds, unit: ChannelLabels) -> NodeMask:
    """An entry a unit: whether a ceiling has it go; the worst units of a layer, until no more than the ceiling stay."""
    forced = np.zeros(unit.max(initial=-1) + 1, bool)
    for name, free, frozen in _layers(graph, bounds.max_kept):
        units = unit[free]
        there, sizes = np.unique(units[units >= 0], return_counts=True)
        more = free.size + frozen - bounds.max_kept[name] - int(sizes[forced[there]].sum())
        there, sizes = there[~forced[there]], sizes[~forced[there]]
        forced[there[np.cumsum(sizes) - sizes < more]] = True
    return forced
