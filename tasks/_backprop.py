"""The gradient of the A2C loss in numpy, from what acting already computed: a rollout's forward pass is not done twice.

For a few hundred rows, torch's calls cost as much as the arithmetic. The gradient enters torch's autograd as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

DERIVATIVES: dict[type[nn.Module], Callable[[np.ndarray], np.ndarray]] = {
    nn.Tanh: lambda y: 1 - y * y,
    nn.ReLU: lambda y: y > 0,
}
"""The derivative of an activation, by its output."""


class Played(NamedTuple):
    """A rollout's R rows as numpy has them, and the forward pass of the policy that played them."""

    observations: np.ndarray
    actions: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray
    mask: np.ndarray
    hidden: list[np.ndarray]
    """(R, width), a layer of the trunk each."""
    logits: np.ndarray
    values: np.ndarray


def fast_loss(model: nn.Module, played: Played, value: float, entropy: float) -> Tensor:
    """The loss of ``tasks._a2c.A2C.loss``, with its first derivative only."""
    loss: Tensor = _Loss.apply(model, played, value, entropy, *model.parameters())  # type: ignore[no-untyped-call]
    return loss


class _Loss(torch.autograd.Function):
    """Mean of -A log pi(a|s) + value (R - V)^2 - entropy H over the rows that count, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, model: nn.Module, played: Played, value: float, entropy: float, *parameters: Tensor
    ) -> Tensor:
        log = played.logits - np.logaddexp.reduce(played.logits, -1, keepdims=True)
        chances = np.exp(log)
        spread = -(chances * log).sum(-1)
        weights = played.mask / max(played.mask.sum(), 1)
        rows, error = np.arange(len(log)), played.values - played.returns
        each = value * error**2 - played.advantages * log[rows, played.actions] - entropy * spread
        slope = played.advantages[:, None] * chances + entropy * chances * (log + spread[:, None])
        slope[rows, played.actions] -= played.advantages
        ctx.model, ctx.played = model, played
        ctx.by_logits = (slope * weights[:, None]).astype(np.float32)
        ctx.by_values = (2 * value * error * weights).astype(np.float32)
        return torch.tensor(float((each * weights).sum()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Any, ...]:
        """Gradients in the order of ``model.parameters()``: trunk, actor, critic."""
        model, played = ctx.model, ctx.played
        layers = list(model.trunk)
        scale = np.float32(by_loss.item())
        by_logits, by_values = ctx.by_logits * scale, ctx.by_values[:, None] * scale
        last = played.hidden[-1]
        heads = [by_logits.T @ last, by_logits.sum(0), by_values.T @ last, by_values.sum(0)]
        back = by_logits @ _numpy(model.actor.weight) + by_values * _numpy(model.critic.weight)
        trunk: list[np.ndarray] = []
        for i in reversed(range(len(played.hidden))):
            back *= DERIVATIVES[type(layers[2 * i + 1])](played.hidden[i])
            below = played.hidden[i - 1] if i else played.observations
            trunk = [back.T @ below, back.sum(0), *trunk]
            if i:
                back = back @ _numpy(layers[2 * i].weight)
        return None, None, None, None, *(torch.from_numpy(g) for g in trunk + heads)


def _numpy(weight: Tensor) -> np.ndarray:
    array: np.ndarray = weight.detach().numpy()
    return array
