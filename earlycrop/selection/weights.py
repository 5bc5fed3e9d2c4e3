"""Which single weights go for a target: exact counts, ties by index, and floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from earlycrop.graph.types import layer_of
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits
from earlycrop.utils.parameters import prunable_matrices, weight_matrices


@dataclass(frozen=True)
class WeightChoice:
    """Which weights go (by matrix), how many are left, and the matrices where a floor kept some."""

    removed: dict[str, Bool[Tensor, "..."]]
    left: int
    floors: tuple[str, ...]


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
    keep, forced = _apply_bounds(scores, keep, alive, bounds)
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
    for every, count in ((weight_matrices(model), widths), (prunable_matrices(model), movable)):
        for name, p in every.items():
            count[layer_of(name)] += p.numel()
    bounds = limits.resolved(list(widths), widths, movable)
    for name, most in bounds.max_kept.items():
        if bounds.min_kept.get(name, 0) > most:
            raise bounds.conflict(name, bounds.min_kept[name])
    return bounds


def remaining_weights(
    held: Mapping[str, Tensor], removed: Mapping[str, Bool[Tensor, "..."]]
) -> dict[str, tuple[int, int]]:
    """How many weights each layer has in the matrices ``held``, and how many are left of them."""
    before, gone = Counter[str](), Counter[str]()
    for name, p in held.items():
        before[layer_of(name)] += p.numel()
        gone[layer_of(name)] += int(removed[name].sum()) if name in removed else 0
    return {layer: (n, n - gone[layer]) for layer, n in before.items()}


def _apply_bounds(
    scores: dict[str, Tensor], keep: dict[str, Tensor], alive: dict[str, Tensor] | None, bounds: Bounds
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``keep`` with the best weights of each layer up to its floor, and what a ceiling has go in any case (by matrix;
    empty where there is no ceiling)."""
    keep = dict(keep)
    forced = {n: torch.zeros_like(s, dtype=torch.bool) for n, s in scores.items()} if bounds.max_kept else {}
    for layer in {**bounds.min_kept, **bounds.max_kept}:
        mine = {n: s for n, s in scores.items() if layer_of(n) == layer}
        if not mine:
            continue
        score = torch.cat([s.detach().reshape(-1) for s in mine.values()])
        held = torch.cat([keep[n].reshape(-1) for n in mine])
        living = torch.ones_like(held) if alive is None else torch.cat([alive[n].reshape(-1) for n in mine])
        fixed = bounds.widths[layer] - score.numel()
        least, most = bounds.min_kept.get(layer, 0) - fixed, bounds.max_kept.get(layer, bounds.widths[layer]) - fixed
        order = score.masked_fill(held, torch.inf).masked_fill(~living, -torch.inf).argsort(stable=True)  # worst first
        held[order[max(order.numel() - max(least, 0), 0) :]] = True
        going = order[(living & ~held)[order]][: max(int(living.sum()) - most, 0)]
        sizes = [s.numel() for s in mine.values()]
        keep |= {n: h.reshape(s.shape) for (n, s), h in zip(mine.items(), torch.split(held, sizes), strict=True)}
        if layer in bounds.max_kept:
            gone = torch.zeros_like(held).index_fill_(0, going, True)
            forced |= {n: g.reshape(s.shape) for (n, s), g in zip(mine.items(), torch.split(gone, sizes), strict=True)}
    return keep, forced
