"""The control tasks' network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


LARGEST = 10.0
"""Normalised observations lie between this and its negative."""


class RunningNorm(nn.Module):
    """Shift and scale observations to mean 0 and deviation 1 over all that :meth:`update` was given.

    Until then they stay as they are.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("variance", torch.ones(inputs))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, observation: Tensor) -> Tensor:
        """Observations (..., inputs), normalised."""
        return ((observation - self.mean) * (self.variance + 1e-8).rsqrt()).clamp(-LARGEST, LARGEST)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Add observations (..., inputs) to the mean and the variance."""
        rows = observations.flatten(0, -2)
        total = self.count + len(rows)
        shift, share = rows.mean(0) - self.mean, len(rows) / total
        spread = rows.var(0, correction=0) - self.variance + shift.square() * (1 - share)
        self.mean += shift * share
        self.variance += spread * share
        self.count.copy_(total)


class ActorCritic(nn.Module):
    """A trunk of linear layers with an actor's and a critic's linear head; normalises by a :class:`RunningNorm`."""

    def __init__(
        self, inputs: int, widths: tuple[int, ...], actions: int, activation: str, normalise: bool = False
    ) -> None:
        super().__init__()
        self.norm = RunningNorm(inputs) if normalise else nn.Identity()
        layers: list[nn.Module] = []
        for before, after in zip((inputs, *widths), widths, strict=False):
            layers += [_linear(before, after, math.sqrt(2)), ACTIVATIONS[activation]()]
        self.trunk = nn.Sequential(*layers)
        self.actor = _linear(widths[-1], actions, 1.0)
        self.critic = _linear(widths[-1], 1, 1.0)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., actions) and values (...) of observations (..., inputs)."""
        hidden = self.trunk(self.norm(observation))
        return self.actor(hidden), self.critic(hidden).squeeze(-1)


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
