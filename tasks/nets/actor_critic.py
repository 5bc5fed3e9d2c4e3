"""The control tasks' network."""

from __future__ import annotations

import math

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class ActorCritic(nn.Module):
    """A trunk of linear layers with an actor's and a critic's linear head."""

    def __init__(self, inputs: int, widths: tuple[int, ...], actions: int, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((inputs, *widths), widths, strict=False):
            layers += [_linear(before, after, math.sqrt(2)), ACTIVATIONS[activation]()]
        self.trunk = nn.Sequential(*layers)
        self.actor = _linear(widths[-1], actions, 1.0)
        self.critic = _linear(widths[-1], 1, 1.0)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., actions) and values (...) of observations (..., inputs)."""
        hidden = self.trunk(observation)
        return self.actor(hidden), self.critic(hidden).squeeze(-1)


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
