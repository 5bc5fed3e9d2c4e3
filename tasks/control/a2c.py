"""Advantage actor-critic (A2C) for environments with discrete actions.

A2C is the synchronous form of Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", with the
advantages of Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation". An
epoch alternates between a rollout of the current policy and a gradient step on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import Task
from tasks.control import rollouts
from tasks.control.rendering import draw
from tasks.control.rollouts import Player, Rollout, advantages
from tasks.nets.actor_critic import ActorCritic, RunningNorm
from tasks.runner.errors import require
from tasks.runner.networks import evaluating
from tasks.runner.options import AtLeast0, Bounds, Clip, Count, CountOr0, Counts, Options, Positive, Schedule

EPISODES = 100
TRAINING, SCORING = 0, 1
UpTo1 = Annotated[float, Bounds(minimum=0, maximum=1)]


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
    schedule: Schedule = "after-cut"
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
    last_entropy: Annotated[float | None, Bounds(minimum=0)] = None
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


class Batch(NamedTuple):
    """One rollout, its T steps of N agents as T * N rows."""

    observations: Tensor
    actions: Tensor
    returns: Tensor
    advantages: Tensor
    mask: Tensor
    """1, or 0 where an environment was being reset and nobody acted."""


class A2C(Task):
    """An environment as a :class:`tasks.Task`.

    A subclass may override :meth:`model`: any module will do that maps a batch of observations (N, ...) to logits
    (N, number of actions) and values (N,).

    Args:
        diagnostics_games: Games that are played before and after a pruning.

    Raises:
        ValueError: there are more workers than agents, or the environment has no discrete actions.
    """

    metric, higher_is_better, split = "return", True, f"{EPISODES} episodes"

    def __init__(self, options: A2COptions, diagnostics_games: int = 32) -> None:
        fits = options.workers <= options.agents
        require(fits, f"workers must be at most the {options.agents} agents, not {options.workers}.")
        self.options, self.diagnostics_games = options, diagnostics_games
        self.dataset, self.clip = options.environment, options.clip
        self.network = "-".join([*["norm"] * options.normalise_observations, "mlp", *map(str, options.widths)])
        with closing(rollouts.make_environments(options.environment, 1)) as environment:
            self.shape = environment.single_observation_space.shape or ()
            self.actions = rollouts.actions_of(environment)
        require(self.actions > 0, f"environment must have discrete actions, which {options.environment} has not.")
        self.games = self.steps = 0
        self.returns: list[float] = []
        self.rollout: Rollout | None = None
        self.progress, self.bonus = 0.0, options.entropy

    def model(self) -> nn.Module:
        """A trunk and two heads, with orthogonal weights; normalised as observations of the first policy are."""
        name, options = self.options.environment, self.options
        require(len(self.shape) == 1, f"environment must be observed as a vector, and {name} has shape {self.shape}.")
        model = ActorCritic(
            self.shape[0], options.widths, self.actions, options.activation, options.normalise_observations
        )
        if options.normalise_observations:
            with closing(self._player(0, TRAINING)) as player:
                _update_norms(model, player.play(model, options.scoring_length).observations)
        return model

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Adam, fused: with many small tensors, launching its operations one by one takes longer than computing."""
        return torch.optim.Adam(model.parameters(), self.options.learning_rate, eps=1e-5, fused=True)

    def learning_rate(self, progress: float) -> float:
        """Linear to 0, or constant."""
        self.progress = progress
        return self.options.learning_rate * (1 - progress if self.options.decay else 1)

    def batches(self, model: nn.Module, epoch: int) -> Iterator[Batch]:
        """Rollouts of the policy as it is, at least one, until this and all earlier epochs' share is played."""
        options = self.options
        self.returns, self.bonus = [], self._bonus()
        goal = (options.games or options.steps) * epoch / options.epochs
        with closing(self._player(epoch, TRAINING)) as player:
            while True:
                self.rollout = rollout = player.play(model, options.rollout)
                self.steps += int(rollout.mask.sum())
                self.games += len(rollout.returns)
                self.returns += rollout.returns
                yield self._batch(rollout)
                _update_norms(model, rollout.observations)
                if (self.games if options.games else self.steps) >= goal:
                    return

    def scoring_batches(self, model: nn.Module, epoch: int) -> list[Batch]:
        """Longer rollouts in environments of their own."""
        options = self.options
        with closing(self._player(epoch, SCORING)) as player:
            played = [player.play(model, options.scoring_length) for _ in range(options.scoring_rollouts)]
        return [self._batch(rollout) for rollout in played]

    def _player(self, epoch: int, purpose: int) -> Player:
        options = self.options
        return Player(options.environment, options.agents, (options.seed, epoch, purpose), options.workers)

    def _bonus(self) -> float:
        """The weight of the entropy bonus in the epoch that begins: linear in the progress of the learning rate."""
        first, last = self.options.entropy, self.options.last_entropy
        return first if last is None else first + (last - first) * self.progress

    def _batch(self, rollout: Rollout) -> Batch:
        options, values, mask = self.options, rollout.values.cpu(), rollout.mask
        rewards = (rollout.rewards * options.reward_scale).to(values)
        gains = advantages(rewards, values, rollout.terminated, rollout.truncated, options.discount, options.gae)
        returns = gains + values[:-1]
        if options.normalise and mask.any():
            gains = (gains - gains[mask].mean()) / (gains[mask].std(correction=0) + 1e-8)
        rows = (rollout.observations[:-1], rollout.actions, returns, gains, mask.to(values))
        return Batch._make(x.flatten(0, 1).to(rollout.values.device) for x in rows)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the actor's and the critic's term of the loss, as means over the rows that count.

        The actor's is -A log pi(a|s) - entropy * H(pi(.|s)), the critic's value * (R - V(s))^2. Training minimises the
        sum, and CroP scores by the relative change of each term's gradient flow: nearly all of the sum's is the
        critic's.
        """
        logits, values = model(batch.observations)
        log = functional.log_softmax(logits, -1)
        chosen = log.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        entropy = -(log.exp() * log).sum(-1)
        actor = -batch.advantages * chosen - self.bonus * entropy
        critic = self.options.value * (batch.returns - values).square()
        count = batch.mask.sum().clamp(min=1)
        return {"actor": (actor * batch.mask).sum() / count, "critic": (critic * batch.mask).sum() / count}

    def log(self) -> dict[str, float]:
        """Games and steps so far, mean return of the games that the last epoch ended, entropy of its last rollout."""
        line: dict[str, float] = {"games": self.games, "steps": self.steps}
        if self.returns:
            line["return"] = float(np.mean(self.returns))
        if self.rollout is not None:
            log = functional.log_softmax(self.rollout.logits, -1)
            line["entropy"] = float(-(log.exp() * log).sum(-1).mean())
        return line

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | Tensor]:
        """The mean return of some games, other ones than the final evaluation's, and the policy on ``batches``."""
        with evaluating(model):
            logits = [model(batch.observations)[0][batch.mask > 0] for batch in batches]
        return {
            "return": rollouts.mean_return(model, self.dataset, self.diagnostics_games, rollouts.DIAGNOSTICS_SEED),
            "policy": functional.log_softmax(torch.cat(logits), -1),
        }

    def evaluate(self, model: nn.Module) -> float:
        """Mean undiscounted return of the most likely actions, over the first game of 100 environments."""
        return rollouts.mean_return(model, self.dataset, EPISODES, rollouts.EVALUATION_SEED)

    def record(self, model: nn.Module, folder: Path) -> list[Path]:
        """A game of the most likely actions, as an animated picture."""
        draw(self.dataset, model, folder / "episode.gif")
        return [folder / "episode.gif"]

    def state_dict(self) -> dict[str, Any]:
        """The counters and the bonus: environments and random numbers start anew in each epoch."""
        return {"games": self.games, "steps": self.steps, "bonus": self.bonus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the counters, and the entropy bonus of the last epoch, which scoring uses."""
        self.games, self.steps, self.bonus = state["games"], state["steps"], state["bonus"]


def _update_norms(model: nn.Module, observations: Tensor) -> None:
    for module in model.modules():
        if isinstance(module, RunningNorm):
            module.update(observations)
