"""The options of the control tasks, and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args, get_type_hints

from tasks.nets.actor_critic import ACTIVATIONS
from tasks.runner.errors import require
from tasks.runner.options import Options, Schedule


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
    """Environments that step at once: above 1, a process each (Gymnasium's async form), which pays where a step takes
    milliseconds. The games are the same, but cart-pole's start otherwise."""
    schedule: Schedule = "after-cut"
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
    normalise_observations: bool = True
    """Whether observations are shifted and scaled to mean 0 and deviation 1 over all that were seen. Without it, the
    weights of an observation that varies little in early games have little effect on any score, and may all go."""
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


Setting = TypeVar("Setting", bound=A2COptions)


def flare(options: Setting) -> Setting:
    """``options`` with the algorithm of FLARE, the framework that the paper names for its control tasks.

    It is probably ``idlrl/flare`` on GitHub. That is a guess: the paper's citation is of an NLP library, but
    ``flare/examples/ac_example.py`` is CartPole's row of table 4 to the word: CartPole-v0, 16 agents, 8000 games for
    each agent (not for all together, which would be ``--games 8000``), a shared trunk 128-128-128. From there are the
    ReLU, the one-step temporal difference (``gae`` 0), a value weight of 1, no entropy bonus, an update every 4 steps
    of an agent, rewards divided by 100, and a constant learning rate of 5e-5 without clipping.

    Deviations: Adam in place of RMSprop, agents that play in step and not asynchronously, orthogonal initialisation.
    """
    return replace(
        options, activation="relu", learning_rate=5e-5, decay=False, clip=None, gae=0.0, value=1.0, entropy=0.0,
        last_entropy=None, normalise=False, normalise_observations=False, rollout=4, reward_scale=0.01, as_authors=True,
    )  # fmt: skip


def check(options: A2COptions) -> None:
    """Raise ValueError, in a sentence, for an option that is out of its range."""
    for name in ("epochs", "steps", "agents", "workers", "rollout", "scoring_rollouts", "scoring_length"):
        number = getattr(options, name)
        require(number >= 1, f"{name} must be at least 1, not {number}.")
    fits = options.workers <= options.agents
    require(fits, f"workers must be at most the {options.agents} agents, not {options.workers}.")
    for name in ("games", "seed", "entropy", "value"):
        number = getattr(options, name)
        require(0 <= number < math.inf, f"{name} must be a number of 0 or more, not {number}.")
    last = options.last_entropy
    require(last is None or 0 <= last < math.inf, f"last_entropy must be None or a number of 0 or more, not {last}.")
    for name in ("discount", "gae"):
        number = getattr(options, name)
        require(0 <= number <= 1, f"{name} must be between 0 and 1, not {number}.")
    for name in ("learning_rate", "reward_scale"):
        number = getattr(options, name)
        require(0 < number < math.inf, f"{name} must be a number above 0, not {number}.")
    environments = get_args(get_type_hints(type(options))["environment"])  # a Literal in the tasks' own options
    if environments:
        known = " or ".join(environments)
        require(options.environment in environments, f"environment must be {known}, not {options.environment!r}.")
    clip, widths, activations = options.clip, options.widths, " or ".join(ACTIVATIONS)
    require(clip is None or 0 < clip < math.inf, f"clip must be None or a number above 0, not {clip}.")
    require(bool(widths) and min(widths) >= 1, f"widths must be one or more numbers of at least 1, not {widths}.")
    require(options.activation in ACTIVATIONS, f"activation must be {activations}, not {options.activation!r}.")
