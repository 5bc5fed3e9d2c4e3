"""Which units go for a target: exact counts, ties by index, and a floor that never cuts a network in two.

A target is met to the last unit that fits: what is left is at most the target, and none of the removed units could come
back without exceeding it, a ceiling or a multiple. In every layer at least one node is left, in every matrix at least
one weight. A target in time is met by ``_timing``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from earlycrop._ranking import Ranking, ranked
from earlycrop._watch import Work
from earlycrop.graph import Graph, Removed, total
from earlycrop.limits import NO_BOUNDS, Bounds, Limits, layer_of, layers_of
from earlycrop.units import matrices, removable

MEASURES = ("weights", "nodes", "macs", "bytes", "time")
"""What a sparsity can be a share of; time is that of a training step on this device."""


@dataclass(frozen=True)
class Choice:
    """Which nodes go, what is left, and the layers where a floor or a multiple kept nodes that the ranking had go."""

    removed: Removed
    left: int
    floors: tuple[str, ...]


@dataclass(frozen=True)
class WeightChoice:
    """Which weights go (by matrix), how many are left, and the matrices where a floor kept some."""

    removed: dict[str, Bool[Tensor, "..."]]
    left: int
    floors: tuple[str, ...]


def limit(dense: int, sparsity: float) -> int:
    """How much may be left of ``dense``: floor((1 - sparsity) dense), with the sparsity as it is written in decimals.

    Raises:
        ValueError: the sparsity is not between 0 and 1.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be above 0 and below 1, and is {sparsity}: it is the share that is removed")
    return int((1 - Fraction(repr(float(sparsity)))) * dense)


def choose_weights(
    scores: dict[str, Float[Tensor, "..."]],
    allowed: int,
    keep: dict[str, Bool[Tensor, "..."]],
    alive: dict[str, Bool[Tensor, "..."]] | None = None,
    fixed: int = 0,
    bounds: Bounds = NO_BOUNDS,
) -> WeightChoice:
    """Remove the weights of least score, over all matrices, until at most ``allowed`` are left.

    ``keep``: what stays whatever its score. ``alive`` (all by default): what may still be removed; the rest is gone
    already. ``fixed``: weights that count and cannot be removed, such as frozen matrices. ``bounds``: the least and the
    most that stay of a layer, all of its matrices together (see :func:`weight_bounds`).
    """
    device = next(iter(scores.values())).device
    keep, forced = _bounded(scores, keep, alive, bounds)
    sizes = [s.numel() for s in scores.values()]

    def flat(parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].detach().reshape(-1).to(device) for name in scores])

    score, floor = flat(scores), flat(keep)
    living = torch.ones_like(floor) if alive is None else flat(alive)
    free = living & ~floor
    if forced:
        score = score.masked_fill(flat(forced), -torch.inf)
    wanted = int(living.sum()) + fixed - allowed
    go = min(max(wanted, sum(int(f.sum()) for f in forced.values())), int(free.sum()))
    gone, threshold = ~living, score.new_tensor(-torch.inf)
    if go:
        threshold = score[free].kthvalue(go).values
        below = free & (score < threshold)
        ties = (free & (score == threshold)).nonzero()[: go - int(below.sum())]
        gone |= below
        gone[ties] = True
    held = torch.split(living & floor & ((score < threshold) | (wanted > go)), sizes)
    floors = tuple(name for name, part in zip(scores, held, strict=True) if bool(part.any()))
    parts = torch.split(gone, sizes)
    removed = {n: p.reshape(s.shape).to(s.device) for (n, s), p in zip(scores.items(), parts, strict=True)}
    return WeightChoice(removed, int((~gone).sum()) + fixed, floors)


def weight_bounds(model: nn.Module, limits: Limits) -> Bounds:
    """The limits in numbers, for the weights of this model's layers: the entries of all matrices that a module holds.

    Raises:
        ValueError: see :meth:`Limits.resolved`; or a ceiling is below a floor.
    """
    widths, movable = Counter[str](), Counter[str]()
    for every, count in ((matrices(model), widths), (removable(model), movable)):
        for name, p in every.items():
            count[layer_of(name)] += p.numel()
    bounds = limits.resolved(list(widths), widths, movable)
    for name, most in bounds.most.items():
        if bounds.least.get(name, 0) > most:
            raise bounds.conflict(name, bounds.least[name])
    return bounds


def weights_left(held: Mapping[str, Tensor], removed: Mapping[str, Bool[Tensor, "..."]]) -> dict[str, tuple[int, int]]:
    """How many weights each layer has in the matrices ``held``, and how many are left of them."""
    before, gone = Counter[str](), Counter[str]()
    for name, p in held.items():
        before[layer_of(name)] += p.numel()
        gone[layer_of(name)] += int(removed[name].sum()) if name in removed else 0
    return {layer: (n, n - gone[layer]) for layer, n in before.items()}


def _bounded(
    scores: dict[str, Tensor], keep: dict[str, Tensor], alive: dict[str, Tensor] | None, bounds: Bounds
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``keep`` with the best weights of each layer up to its floor, and what a ceiling has go in any case (by matrix;
    empty where there is no ceiling)."""
    keep = dict(keep)
    forced = {n: torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()} if bounds.most else {}
    for layer in {**bounds.least, **bounds.most}:
        mine = {n: s for n, s in scores.items() if layer_of(n) == layer}
        if not mine:
            continue
        score = torch.cat([s.detach().reshape(-1) for s in mine.values()])
        held = torch.cat([keep[n].reshape(-1) for n in mine])
        living = torch.ones_like(held) if alive is None else torch.cat([alive[n].reshape(-1) for n in mine])
        fixed = bounds.widths[layer] - score.numel()
        least, most = bounds.least.get(layer, 0) - fixed, bounds.most.get(layer, bounds.widths[layer]) - fixed
        order = score.masked_fill(held, torch.inf).masked_fill(~living, -torch.inf).argsort(stable=True)  # worst first
        held[order[max(order.numel() - max(least, 0), 0) :]] = True
        going = order[(living & ~held)[order]][: max(int(living.sum()) - most, 0)]
        sizes = [s.numel() for s in mine.values()]
        keep |= {n: h.reshape(s.shape) for (n, s), h in zip(mine.items(), torch.split(held, sizes), strict=True)}
        if layer in bounds.most:
            gone = torch.zeros_like(held).index_fill_(0, going, True)
            forced |= {n: g.reshape(s.shape) for (n, s), g in zip(mine.items(), torch.split(gone, sizes), strict=True)}
    return keep, forced


def choose_nodes(
    graph: Graph,
    scores: Float[Tensor, "nodes"],
    allowed: int,
    of: str = "weights",
    limits: Limits | Bounds = NO_BOUNDS,
) -> Choice:
    """Remove the nodes of least score until what is left in ``of`` (anything but time) is at most ``allowed``.

    By bisection over the ranking; then the removed nodes come back, best first, as long as they fit. Where floors do
    not allow the target, everything above them goes, and ``left`` says how far that came. With a multiple, "node" is
    every chunk of nodes that fills one.

    Raises:
        ValueError: see :func:`node_bounds`.
    """
    costs = graph.costs(of)
    ranking = ranking_of(graph, scores, limits)
    low, high = 0, ranking.count
    while low < high:
        middle = (low + high) // 2
        if total(costs, ranking.first(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    removed = ranking.first(low)
    reached = total(costs, removed) <= allowed
    _return(costs, removed, ranking, low, allowed)
    return Choice(removed, total(costs, removed), ranking.holding(low, reached))


def ranking_of(graph: Graph, scores: Float[Tensor, "nodes"], limits: Limits | Bounds) -> Ranking:
    """The order in which nodes go by score, equal ones by index."""
    bounds = node_bounds(graph, limits) if isinstance(limits, Limits) else limits
    return ranked(graph, np.argsort(scores.detach().cpu().double().numpy(), kind="stable"), bounds)


def node_bounds(graph: Graph, limits: Limits) -> Bounds:
    """The limits in numbers, for the outputs of this network's layers.

    Raises:
        ValueError: see :meth:`Limits.resolved`; or a ceiling is below what floors, exclude and multiple hold there.
    """
    names = layers_of(n for n, shape in graph.shapes.items() if n in graph.parameters and len(shape) > 1)
    widths = {layer.name: layer.nodes.size for layer in graph.layers}
    bounds = limits.resolved(names, widths, {layer.name: int((layer.nodes >= 0).sum()) for layer in graph.layers})
    if bounds.most:
        order = np.arange(graph.count)  # how many must stay does not depend on which are the best
        rankings = [ranked(graph, order, b) for b in (replace(bounds, most={}, multiple=1), NO_BOUNDS)]
        fewest, anyway = (outputs_left(graph, r.first(r.count)) for r in rankings)
        for name, most in bounds.most.items():
            if fewest[name] > max(most, anyway[name]):
                raise bounds.conflict(name, fewest[name])
    return bounds


def outputs_left(graph: Graph, removed: Removed | None = None) -> dict[str, int]:
    """How many of each layer's outputs are left."""
    kept = np.append(
        np.ones(graph.count, bool) if removed is None else ~removed, True
    )  # the last entry serves outputs without a node, which are numbered -1
    return {layer.name: int(kept[layer.nodes].sum()) for layer in graph.layers}


def _return(costs: Iterable[Work], removed: Removed, ranking: Ranking, gone: int, allowed: int) -> None:
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
