"""Which units go for a target: exact counts, ties by index, and a floor that never cuts a network in two.

A target is met to the last unit that fits: what is left is at most the target, and none of the removed units could come
back without exceeding it, a ceiling or a multiple. In every layer at least one node is left, in every matrix at least
one weight. A target in time is met by ``_timing``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jaxtyping import Float
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import CostTerm, NodeMask, layers_of, total_cost
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits
from earlycrop.selection.ranking import Ranking, rank_nodes


@dataclass(frozen=True)
class NodeChoice:
    """Which nodes go, what is left, and the layers where a floor or a multiple kept nodes that the ranking had go."""

    removed: NodeMask
    left: int
    floors: tuple[str, ...]


def choose_nodes(
    graph: Graph,
    scores: Float[Tensor, "nodes"],
    allowed: int,
    of: str = "weights",
    limits: Limits | Bounds = NO_BOUNDS,
) -> NodeChoice:
    """Remove the nodes of least score until what is left in ``of`` (anything but time) is at most ``allowed``.

    By bisection over the ranking; then the removed nodes come back, best first, as long as they fit. Where floors do
    not allow the target, everything above them goes, and ``left`` says how far that came. With a multiple, "node" is
    every chunk of nodes that fills one.

    Raises:
        ValueError: see :func:`node_bounds`.
    """
    costs = graph.costs(of)
    ranking = node_ranking(graph, scores, limits)
    low, high = 0, ranking.count
    while low < high:
        middle = (low + high) // 2
        if total_cost(costs, ranking.first(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    removed = ranking.first(low)
    reached = total_cost(costs, removed) <= allowed
    _restore_fitting(costs, removed, ranking, low, allowed)
    return NodeChoice(removed, total_cost(costs, removed), ranking.holding(low, reached))


def node_ranking(graph: Graph, scores: Float[Tensor, "nodes"], limits: Limits | Bounds) -> Ranking:
    """The order in which nodes go by score, equal ones by index."""
    bounds = node_bounds(graph, limits) if isinstance(limits, Limits) else limits
    return rank_nodes(graph, np.argsort(scores.detach().cpu().double().numpy(), kind="stable"), bounds)


def node_bounds(graph: Graph, limits: Limits) -> Bounds:
    """The limits in numbers, for the outputs of this network's layers.

    Raises:
        ValueError: see :meth:`Limits.resolved`; or a ceiling is below what floors, exclude and multiple hold there.
    """
    names = layers_of(n for n, shape in graph.shapes.items() if n in graph.parameters and len(shape) > 1)
    widths = {layer.name: layer.nodes.size for layer in graph.layers}
    bounds = limits.resolved(names, widths, {layer.name: int((layer.nodes >= 0).sum()) for layer in graph.layers})
    if bounds.max_kept:
        order = np.arange(graph.count)  # how many must stay does not depend on which are the best
        rankings = [rank_nodes(graph, order, b) for b in (replace(bounds, max_kept={}, multiple=1), NO_BOUNDS)]
        fewest, anyway = (remaining_outputs(graph, r.first(r.count)) for r in rankings)
        for name, most in bounds.max_kept.items():
            if fewest[name] > max(most, anyway[name]):
                raise bounds.conflict(name, fewest[name])
    return bounds


def remaining_outputs(graph: Graph, removed: NodeMask | None = None) -> dict[str, int]:
    """How many of each layer's outputs are left."""
    kept = np.append(
        np.ones(graph.count, bool) if removed is None else ~removed, True
    )  # the last entry serves outputs without a node, which are numbered -1
    return {layer.name: int(kept[layer.nodes].sum()) for layer in graph.layers}


def _restore_fitting(costs: Iterable[CostTerm], removed: NodeMask, ranking: Ranking, gone: int, allowed: int) -> None:
    """Take back, best first, every one of the first ``gone`` units that fits."""
    costs = tuple(costs)
    kept = np.append(~removed, True)
    counts = [[int(kept[a].sum()) for a in w.axes] for w in costs]
    now = [w.constant * prod(c) for w, c in zip(costs, counts, strict=True)]
    left = sum(now)
    times: dict[int, list[tuple[int, int, int]]] = {}
    for i, w in enumerate(costs):
        for j, a in enumerate(w.axes):
            ids, n = np.unique(a[a >= 0], return_counts=True)
            for node, many in zip(ids.tolist(), n.tolist(), strict=True):
                times.setdefault(node, []).append((i, j, many))
    for unit in range(gone - 1, -1, -1):
        if unit in ranking.whole and removed[ranking.whole[unit]].any():
            continue
        trial: dict[int, list[int]] = {}
        for node in ranking.units[unit].tolist():
            for i, j, many in times.get(node, []):
                trial.setdefault(i, list(counts[i]))[j] += many
        after = {i: costs[i].constant * prod(c) for i, c in trial.items()}
        grown = left + sum(after[i] - now[i] for i in after)
        if grown <= allowed:
            left = grown
            removed[ranking.units[unit]] = False
            for i, c in trial.items():
                counts[i], now[i] = c, after[i]
