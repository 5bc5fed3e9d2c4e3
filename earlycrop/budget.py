"""Which units go for a target: exact counts, ties by index, and a floor that never cuts a network in two.

A target is met to the last unit that fits: what is left is at most the target, and none of the removed units could come
back without exceeding it. In every layer at least one node is left, in every matrix at least one weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from earlycrop._fields import Field
from earlycrop._watch import Work
from earlycrop.graph import Graph, Removed, total

MEASURES = ("weights", "nodes", "macs", "bytes")
"""What a sparsity can be a share of."""


@dataclass(frozen=True)
class Choice:
    """Which nodes go, or which weights, what is left, and where the floor kept the last one of a layer."""

    removed: Removed
    left: int
    floors: tuple[str, ...]


@dataclass(frozen=True)
class WeightChoice:
    """Which weights go (by matrix), how many are left, and the matrices whose last one the floor kept."""

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
) -> WeightChoice:
    """Remove the weights of least score, over all matrices, until at most ``allowed`` are left.

    ``keep``: the floor, what stays whatever its score. ``alive`` (all by default): what may still be removed; the rest
    is gone already. ``fixed``: weights that count and cannot be removed, such as frozen matrices.
    """
    device = next(iter(scores.values())).device
    sizes = [s.numel() for s in scores.values()]

    def flat(parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].detach().reshape(-1).to(device) for name in scores])

    score, floor = flat(scores), flat(keep)
    living = torch.ones_like(floor) if alive is None else flat(alive)
    free = living & ~floor
    go = min(max(int(living.sum()) + fixed - allowed, 0), int(free.sum()))
    gone = ~living
    floors: tuple[str, ...] = ()
    if go:
        threshold = score[free].kthvalue(go).values
        below = free & (score < threshold)
        ties = (free & (score == threshold)).nonzero()[: go - int(below.sum())]
        gone |= below
        gone[ties] = True
        held = torch.split(living & floor & (score < threshold), sizes)
        floors = tuple(name for name, part in zip(scores, held, strict=True) if bool(part.any()))
    parts = torch.split(gone, sizes)
    removed = {n: p.reshape(s.shape).to(s.device) for (n, s), p in zip(scores.items(), parts, strict=True)}
    return WeightChoice(removed, int((~gone).sum()) + fixed, floors)


def choose_nodes(graph: Graph, scores: Float[Tensor, "nodes"], allowed: int, of: str = "weights") -> Choice:
    """Remove the nodes of least score until what is left in ``of`` is at most ``allowed``.

    By bisection over the ranking; then the removed nodes come back, best first, as long as they fit. Where the floor
    does not allow the target, everything above the floor goes, and ``left`` says how far that came.
    """
    costs = graph.costs(of)
    order = np.argsort(scores.detach().cpu().double().numpy(), kind="stable")
    rank = np.empty(graph.count, np.int64)
    rank[order] = np.arange(graph.count)
    protected = _protected(graph, rank)
    free = np.array([i for i in order.tolist() if i not in protected], np.int64)

    def first(n: int) -> Removed:
        removed = np.zeros(graph.count, bool)
        removed[free[:n]] = True
        return removed

    low, high = 0, len(free)
    while low < high:
        middle = (low + high) // 2
        if total(costs, first(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    removed = first(low)
    _return(costs, removed, free[:low][::-1], allowed)
    last = int(rank[free[low - 1]]) if low else -1
    reached = low < len(free) or total(costs, removed) <= allowed
    floors = {graph.nodes[i].layer for i in protected if rank[i] < last or not reached}
    return Choice(removed, total(costs, removed), tuple(sorted(floors)))


def _protected(graph: Graph, rank: Field) -> set[int]:
    """The best node of each dimension of each tensor that only nodes make up: something must be left there."""
    made_up = (slot.nodes for slot in graph.slots if (slot.nodes >= 0).all())
    return {int(nodes[np.argmax(rank[nodes])]) for nodes in made_up}


def _return(costs: Iterable[Work], removed: Removed, candidates: Field, allowed: int) -> None:
    """Take back, in this order, every removed node that fits."""
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
    for node in candidates.tolist():
        trial: dict[int, list[int]] = {}
        for i, j, many in times.get(node, []):
            trial.setdefault(i, list(counts[i]))[j] += many
        after = {i: costs[i].constant * prod(c) for i, c in trial.items()}
        grown = left + sum(after[i] - now[i] for i in after)
        if grown <= allowed:
            left = grown
            removed[node] = False
            for i, c in trial.items():
                counts[i], now[i] = c, after[i]
