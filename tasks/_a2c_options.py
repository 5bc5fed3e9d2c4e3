"""The options of the control tasks, and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from tasks.nets.actor_critic import ACTIVATIONS
from tasks.runner.errors import require
from tasks.runner.options import Options


@dataclass(frozen=True, kw_only=True)
class A2COptions(Options):
    """A control task's configuration."""

    environment: str
    """Gymnasium environment with discrete actions."""
    widths: tuple[int, ...] = (128, 128, 128)
    """Neurons in each layer of the trunk that actor and critic share."""
    activation: Literal["tanh", "relu"] = "tanh"
    """What follows each layer of the trunk."""
    steps: int = 500_000
    """Environment steps over the whole run, all agents together."""
    games: int = 0
    """Finished games over the whole run; above 0 it replaces --steps."""
    agents: int = 16
    """Environments that are played in step."""
    workers: int = 1
    """Processes that play a part of the agents each; the same but for rounding, and for how cart-poles start anew."""
    rollout: int = 16
    """Steps that each agent plays between two updates."""
    learning_rate: float = 1e-3
    """Adam's learning rate in the first epoch."""
    decay: bool = True
    """Whether the learning rate falls linearly, to 0 at the end of the last epoch."""
    discount: float = 0.99
    """Weight of a reward one step later, between 0 and 1."""
    gae: float = 0.98
    """Lambda of the advantage estimate, between 0 and 1; 1 means plain n-step returns."""
    reward_scale: float = 1.0
    """Factor on the rewards that training sees, to keep the critic's targets near 1; reported returns are unscaled."""
    entropy: float = 0.01
    """Weight of the entropy bonus in the loss."""
    last_entropy: float | None = None
    """What that weight falls to, linearly over the epochs; None: it stays."""
    normalise: bool = False
    """Whether each rollout's advantages are shifted and scaled to mean 0 and deviation 1."""
    value: float = 0.25
    """Weight of the critic's squared error in the loss."""
    clip: float | None = 0.5
    """Largest gradient norm, or None for no clipping."""
    scoring_rollouts: int = 5
    """Rollouts that pruning scores are computed on."""
    scoring_length: int = 128
    """Steps that each agent plays in one of them."""
    scoring_value: float | None = None
    """Weight of the critic's squared error in the loss that pruning scores are computed of; None: --value. A smaller
    one keeps the actor's weights where single weights are pruned: the critic's error outweighs the policy's part."""


def check(options: A2COptions) -> None:
    """Raise a ValueError for what cannot be trained."""
    for name in ("epochs", "steps", "agents", "workers", "rollout", "scoring_rollouts", "scoring_length"):
        number = getattr(options, name)
        require(number >= 1, f"{name} must be at least 1, not {number}.")
    fits = options.workers <= options.agents
    require(fits, f"workers must be at most the {options.agents} agents that they share, not {options.workers}.")
    for name in ("games", "seed", "entropy", "value"):
        number = getattr(options, name)
        require(0 <= number < math.inf, f"{name} must be a number of 0 or more, not {number}.")
    for name in ("last_entropy", "scoring_value"):
        number = getattr(options, name)
        told = f"{name} must be None or a number of 0 or more, not {number}."
        require(number is None or 0 <= number < math.inf, told)
    for name in ("discount", "gae"):
        number = getattr(options, name)
        require(0 <= number <= 1, f"{name} must be between 0 and 1, not {number}.")
    for name in ("learning_rate", "reward_scale"):
        number = getattr(options, name)
        require(0 < number < math.inf, f"{name} must be a number above 0, not {number}.")
    environments = get_args(get_type_hints(type(options))["environment"])  # those that the task is about
    if environments:
        told = f"environment must be {' or '.join(environments)}, not {options.environment!r}."
        require(options.environment in environments, told)
    clip, widths, known = options.clip, options.widths, " or ".join(ACTIVATIONS)
    require(clip is None or 0 < clip < math.inf, f"clip must be None or a number above 0, not {clip}.")
    require(bool(widths) and min(widths) >= 1, f"widths must be one or more numbers of at least 1, not {widths}.")
    require(options.activation in ACTIVATIONS, f"activation must be {known}, not {options.activation!r}.")
