"""The effects that a criterion gives to entries of parameters, and the scores that they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earlycrop.scoring.criteria import Criterion, Effect
from earlycrop.scoring.derivatives import Derivatives, expanded_zeros
from earlycrop.utils.caller import warn
from earlycrop.utils.errors import FlowError
from earlycrop.utils.types import Tensors
from earlycrop.utils.validation import describe


@dataclass(frozen=True)
class TermEffects:
    """The effects of units on one term of the loss.

    Args:
        name: The term.
        gradient_flow: |g_i|^2, the squared norm of the term's gradient.
        effects: The effect of each entry, by parameter name; or of each node, as a single vector.
    """

    name: str
    gradient_flow: float
    effects: Tensors


def effects_of(criterion: Criterion, effect: Effect, parameters: Tensors, derivatives: Derivatives) -> Tensors:
    """Compute the effects of all entries. A derivative is zero where it is not needed or a parameter is not trained."""
    effects = {}
    for name, w in parameters.items():
        zeros = expanded_zeros(w)
        g, product = derivatives.gradient.get(name, zeros), (derivatives.product or {}).get(name, zeros)
        effects[name] = effect_of(criterion, effect, w, g, product)
    return effects


def effect_of(criterion: Criterion, effect: Effect, w: Tensor, g: Tensor, product: Tensor) -> Tensor:
    """Compute the effect of each entry of a parameter.

    The effect of a complex entry is that of its real and imaginary part together, because a gate would multiply both.
    Without a derivative, it is the effect of its modulus.
    """
    if not w.is_complex() or criterion.order == 0:
        return _check_shape(effect(w, g, product), w)
    parts = [torch.view_as_real(t.resolve_conj()) for t in (w, g, product)]
    return _check_shape(effect(*parts), parts[0]).sum(-1)


def _check_shape(effect: object, w: Tensor) -> Tensor:
    """Raise FlowError if a criterion did not return an effect for each entry of a parameter."""
    if not isinstance(effect, Tensor) or effect.shape != w.shape:
        returned = f"a tensor of shape {tuple(effect.shape)}" if isinstance(effect, Tensor) else describe(effect)
        raise FlowError(
            f"the criterion's effect returned {returned} for a parameter of shape {tuple(w.shape)}: return a tensor of "
            "the shape of w"
        )
    return effect


def effects_to_scores(
    criterion: Criterion, compute: Callable[[Iterable[Any]], list[TermEffects]], batches: Iterable[Any]
) -> Tensors:
    """Compute effects on all batches, or on each one to add up their squares, and turn them into scores."""
    totals: Tensors = {}
    if criterion.per_batch:
        for part in [[batch] for batch in batches] or [[]]:
            for name, effect in _add_terms(compute(part)).items():
                totals[name] = totals[name] + effect.square() if name in totals else effect.square()
    else:
        totals = _add_terms(compute(batches))
    for name, total in totals.items():
        if not bool(torch.isfinite(total).all()):
            raise FlowError(
                f"the scores of {name} are not finite: check the weights and the loss for NaN and for large values"
            )
    return totals if criterion.signed else {name: total.abs() for name, total in totals.items()}


def _add_terms(terms: list[TermEffects]) -> Tensors:
    """Add up the relative changes of the terms' gradient flows: sum over i of |effect on |g_i|^2| / |g_i|^2.

    A single term keeps its effects as they are, with their signs: dividing by a constant does not change a ranking.
    """
    if len(terms) == 1:
        return terms[0].effects
    totals = {name: torch.zeros_like(effect) for name, effect in terms[0].effects.items()}
    for term in terms:
        if not term.gradient_flow:
            warn(
                f"the gradient of the loss's term '{term.name}' is zero on the scoring batches, so it does not count: "
                "leave the term out, or give batches on which it has a gradient",
            )
            continue
        for name, effect in term.effects.items():
            totals[name] += effect.abs() / term.gradient_flow
    return totals
