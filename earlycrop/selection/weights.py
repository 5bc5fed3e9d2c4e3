"""Which single weights are removed for a target: exact counts, ties by index, and floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import layer_of
from earlycrop.selection.constraints import NO_BOUNDS, Bounds, Limits, match_layers
from earlycrop.utils.parameters import prunable_matrices, weight_matrices
from earlycrop.utils.validation import enumerate_names


@dataclass(frozen=True)
class WeightChoice:
    """The weights that are removed for a target.

    Args:
        removed: By matrix, true where a weight is removed, in this round or an earlier one.
        left: How many weights are left.
        floors: The matrices where a floor kept weights that score lower than removed ones.
    """

    removed: dict[str, Bool[Tensor, "..."]]
    left: int
    floors: tuple[str, ...]


def choose_weights(
    scores: dict[str, Float[Tensor, "..."]],
    allowed: int,
    keep: dict[str, Bool[Tensor, "..."]],
    alive: dict[str, Bool[Tensor, "..."]] | None = None,
    bounds: Bounds = NO_BOUNDS,
) -> WeightChoice:
    """Remove the weights with the lowest scores of all matrices, until at most ``allowed`` are left.

    Args:
        scores: The scores of the weights, by matrix.
        allowed: How many weights may be left.
        keep: By matrix, true where a weight stays whatever its score.
        alive: By matrix, true where earlier rounds have left a weight; all of them by default.
        bounds: The limits in numbers, see :func:`weight_bounds`.

    Returns:
        The weights, and how many are left without them.
    """
    device = next(iter(scores.values())).device
    sizes = _count_entries(scores)
    layers = list(sizes)  # the matrices of a layer stand side by side below
    scores = {name: scores[name] for name in sorted(scores, key=lambda name: layers.index(layer_of(name)))}

    def flatten(parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].detach().reshape(-1).to(device) for name in scores])

    score, protected = flatten(scores), flatten(keep)
    living = torch.ones_like(protected) if alive is None else flatten(alive)
    forced = _apply_bounds(score, protected, living, sizes, bounds)
    free = living & ~protected
    if bounds.max_kept:
        score = score.masked_fill(forced, -torch.inf)
    asked = int(living.sum()) - allowed
    count = min(max(asked, int(forced.sum())), int(free.sum()))
    removed, threshold = ~living, score.new_tensor(-torch.inf)
    if count:
        threshold = _kth_smallest(score[free], count)
        below = free & (score < threshold)
        ties = (free & (score == threshold)).nonzero()[: count - int(below.sum())]
        removed |= below
        removed[ties] = True
    limiting = living & protected & ((score < threshold) | (asked > count))
    floors = tuple(name for name, part in _split_like(limiting, scores).items() if bool(part.any()))
    by_matrix = {name: part.to(scores[name].device) for name, part in _split_like(removed, scores).items()}
    return WeightChoice(by_matrix, int((~removed).sum()), floors)


def _kth_smallest(values: Float[Tensor, "values"], k: int) -> Float[Tensor, ""]:
    """Return the k-th smallest value. On a GPU, kthvalue may find another index each time, and torch may refuse it."""
    if torch.are_deterministic_algorithms_enabled():
        return values.sort().values[k - 1]
    return values.kthvalue(k).values


def select_prunable(
    model: nn.Module, graph: Graph, limits: Limits, unused: Collection[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the matrices that lose single weights.

    They are the trained weights of matrix products, convolutions and recurrent cells, and what the limits include.

    Args:
        model: The network.
        graph: Its graph.
        limits: The limits.
        unused: Parameters that the loss does not depend on.

    Returns:
        The matrices, by name.

    Raises:
        ValueError: There is none.
    """
    trained = {name: p for name, p in prunable_matrices(model).items() if name not in unused}
    layers = list(dict.fromkeys(map(layer_of, weight_matrices(model))))
    included = {layer for pattern in limits.include for layer in match_layers(pattern, layers)}
    prunable = {name: p for name, p in trained.items() if name in graph.product_weights or layer_of(name) in included}
    if not prunable:
        raise ValueError(
            "the model has no trained weight matrix that can hold zeros: there is nothing to prune"
            if not trained
            else f"no trained matrix is the weight of a matrix product, a convolution or a recurrent cell "
            f"({enumerate_names(list(trained))}): name those to prune in Limits(include=...)"
        )
    return prunable


def weight_bounds(model: nn.Module, limits: Limits, prunable: Mapping[str, Tensor] | None = None) -> Bounds:
    """Turn limits into numbers of weights of this model's layers: the entries of all matrices of a module.

    Args:
        model: The network.
        limits: The limits.
        prunable: The matrices that can lose weights; by default all that are trained and can hold zeros.

    Returns:
        The numbers by layer.

    Raises:
        ValueError: A ceiling is below a floor; or see :meth:`Limits.to_bounds`.
    """
    widths = _count_entries(weight_matrices(model))
    bounds = limits.to_bounds(list(widths), widths, _count_entries(prunable or prunable_matrices(model)))
    for name, max_kept in bounds.max_kept.items():
        if bounds.min_kept.get(name, 0) > max_kept:
            raise bounds.make_conflict_error(name, bounds.min_kept[name])
    return bounds


def remaining_weights(
    matrices: Mapping[str, Tensor], removed: Mapping[str, Bool[Tensor, "..."]]
) -> dict[str, tuple[int, int]]:
    """Count the weights of each layer before and after a pruning.

    Args:
        matrices: The weight matrices, by name.
        removed: By matrix, true where a weight is removed.

    Returns:
        (before, after) by layer.
    """
    removed_counts = Counter[str]()
    for name, mask in removed.items():
        removed_counts[layer_of(name)] += int(mask.sum())
    return {layer: (n, n - removed_counts[layer]) for layer, n in _count_entries(matrices).items()}


def _apply_bounds(score: Tensor, kept: Tensor, living: Tensor, sizes: Mapping[str, int], bounds: Bounds) -> Tensor:
    """Mark in ``kept`` the best weights of each layer up to its floor, and return the weights that ceilings remove.

    The tensors hold the weights of all layers, whose sizes are given, one layer after the other.
    """
    forced, end = torch.zeros_like(kept if bounds.max_kept else kept[:0]), 0
    for layer, size in sizes.items():
        start, end = end, end + size
        if layer not in bounds.min_kept and layer not in bounds.max_kept:
            continue
        part, left = kept[start:end], living[start:end]  # views
        fixed = bounds.widths[layer] - size
        order = score[start:end].masked_fill(part, torch.inf).masked_fill(~left, -torch.inf).argsort(stable=True)
        min_kept = max(bounds.min_kept.get(layer, 0) - fixed, 0)
        part[order[max(size - min_kept, 0) :]] = True
        if layer in bounds.max_kept:
            max_kept = bounds.max_kept[layer] - fixed
            excess = order[(left & ~part)[order]][: max(int(left.sum()) - max_kept, 0)]  # the lowest first
            forced[start:end][excess] = True
    return forced


def _split_like(flat: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split a flat tensor into parts of these shapes."""
    parts = torch.split(flat, [t.numel() for t in tensors.values()])
    return {name: part.reshape(t.shape) for (name, t), part in zip(tensors.items(), parts, strict=True)}


def _count_entries(matrices: Mapping[str, Tensor]) -> Counter[str]:
    """Count the entries of each layer's matrices."""
    counts = Counter[str]()
    for name, t in matrices.items():
        counts[layer_of(name)] += t.numel()
    return counts
