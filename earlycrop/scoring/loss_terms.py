"""The terms of a loss: a loss may return one scalar, or several whose sum is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from earlycrop.utils.errors import FlowError

TOTAL = "loss"
"""The name of the only term of a loss that has one."""
_FORMS = (
    "return one scalar tensor, or the loss's terms, each a scalar tensor with a gradient, as (policy, critic) or "
    "{'policy': policy, 'critic': critic}; of a dict with the key 'loss', that entry alone counts"
)


def named_terms(value: Any) -> dict[str, Any]:
    """Name the terms of a loss, without checking them.

    Args:
        value: What a loss returned. Of a mapping with the key ``"loss"``, that entry is the only term. Any other
            mapping holds terms by name, and a tuple or a list holds terms by position. Anything else is the only term,
            called ``"loss"``.

    Returns:
        The terms, by name.
    """
    if isinstance(value, Mapping):
        return {TOTAL: value[TOTAL]} if TOTAL in value else {str(name): term for name, term in value.items()}
    if isinstance(value, tuple | list):
        return {str(i): term for i, term in enumerate(value)}
    return {TOTAL: value}


def loss_terms(value: Any) -> dict[str, Tensor]:
    """Return the terms of a loss by name. The training loss is their sum.

    Args:
        value: What a loss returned, see :func:`named_terms`.

    Returns:
        The terms, each of shape ().

    Raises:
        FlowError: There is no term, or one is no scalar tensor, is not finite, or has no gradient.
    """
    terms = named_terms(value)
    if not terms:
        raise FlowError(f"the loss must be a scalar tensor, and is an empty {type(value).__name__}: {_FORMS}")
    if list(terms) == [TOTAL]:
        return {TOTAL: _check_only_term(terms[TOTAL])}
    for name, term in terms.items():
        is_scalar = isinstance(term, Tensor) and term.numel() == 1
        if not is_scalar or not term.requires_grad:
            reason = "has no gradient" if is_scalar else f"is {_describe(term)}"
            raise FlowError(f"the loss's term '{name}' {reason}: {_FORMS}")
        _check_finite(f"the loss's term '{name}'", term)
    return {name: term.reshape(()) for name, term in terms.items()}


def total_loss(value: Any) -> Tensor:
    """Return the training loss: the sum of the terms, which are not checked.

    Args:
        value: What a loss returned, see :func:`named_terms`.

    Returns:
        The sum, a tensor of shape () if there are several terms.
    """
    first, *others = named_terms(value).values()
    total: Tensor = first
    for term in others:
        total = total + term.reshape(total.shape).to(total.device)
    return total


def _check_only_term(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        advice = "reduce it with .mean() or .sum()" if isinstance(value, Tensor) else _FORMS
        raise FlowError(f"the loss must be a scalar tensor, and is {_describe(value)}: {advice}")
    if value.is_complex():
        raise FlowError("the loss is complex, and must be real: take its .abs() or its .real")
    _check_finite("the loss", value)
    if not value.requires_grad:
        raise FlowError(
            "the loss does not depend on any parameter: compute it with the model that it is given, with gradients "
            "enabled"
        )
    return value.reshape(())


def _check_finite(name: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        raise FlowError(f"{name} is {value.item()}: it cannot be differentiated")


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
