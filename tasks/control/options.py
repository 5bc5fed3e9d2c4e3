"""The options of the control tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

from tasks.runner.options import AtLeast0, Bounds, Clip, Count, CountOr0, Counts, Options, Positive

UpTo1 = Annotated[float, Bounds(least=0, most=1)]


@dataclass(frozen=True, kw_only=True)
class A2COptions(Options):
    """A control task's configuration."""

    environment: str
    """Gymnasium environment with discrete actions."""
    widths: Counts = (128, 128, 128)
    """Neurons in each layer of the trunk that actor and critic share."""
    activation: Literal["tanh", "relu"] = "tanh"
    """What follows each layer of the trunk."""
    steps: Count = 500_000
    """Environment steps over the whole run, all agents together."""
    games: CountOr0 = 0
    """Finished games over the whole run; above 0 it replaces --steps."""
    agents: Count = 16
    """Environments that are played in step."""
    workers: Count = 1
    """Environments that step at once: above 1, a process each (Gymnasium's async form), which pays where a step takes
    milliseconds. The games are the same, but cart-pole's start otherwise."""
    schedule: Literal["keep", "restart", "after-cut", "constant"] = "after-cut"
    """How the learning rate goes: see the other tasks; here it is held until the pruning by default."""
    rollout: Count = 16
    """Steps that each agent plays between two updates."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate in the first epoch."""
    decay: bool = True
    """Whether the learning rate falls linearly, to 0 at the end of the last epoch."""
    discount: UpTo1 = 0.99
    """Weight of a reward one step later, between 0 and 1."""
    gae: UpTo1 = 0.98
    """Lambda of the advantage estimate, between 0 and 1; 1 means plain n-step returns."""
    reward_scale: Positive = 0.02
    """Factor on the rewards that training sees, to keep the critic's targets near 1; reported returns are unscaled."""
    entropy: AtLeast0 = 0.01
    """Weight of the entropy bonus in the loss."""
    last_entropy: Annotated[float | None, Bounds(least=0)] = None
    """What that weight falls to, linearly over the epochs; None: it stays."""
    normalise_observations: bool = True
    """Whether observations are shifted and scaled to mean 0 and deviation 1 over all that were seen. Without it, the
    weights of an observation that varies little in early games have little effect on any score, and may all go."""
    normalise: bool = False
    """Whether each rollout's advantages are shifted and scaled to mean 0 and deviation 1."""
    value: AtLeast0 = 0.25
    """Weight of the critic's squared error in the loss."""
    clip: Clip = 0.5
    """Largest gradient norm, or None for no clipping."""
    scoring_rollouts: Count = 5
    """Rollouts that pruning scores are computed on."""
    scoring_length: Count = 128
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
