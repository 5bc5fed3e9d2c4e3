"""Advantage actor-critic for environments with discrete actions: the adapter that the control tasks share.

A2C is Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", with its actors in step; advantages are
those of Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from tasks import Task
from tasks._a2c_options import A2COptions, check
from tasks._backprop import Played, fast_loss
from tasks._environments import make_environment
from tasks._episode import draw
from tasks._policy import Policy
from tasks._rollouts import EVALUATION_SEED, OUTLOOK_SEED, Player, Rollout, advantages, mean_return
from tasks._workers import Worker
from tasks.nets.actor_critic import ActorCritic
from tasks.runner.errors import require

EPISODES = 100
TRAINING, SCORING = 0, 1


class Batch(NamedTuple):
    """One rollout, its T steps of N agents as T * N rows."""

    observations: Tensor
    actions: Tensor
    returns: Tensor
    advantages: Tensor
    mask: Tensor
    """1, or 0 where an environment was being reset: nobody acted there."""
    played: Played | None = None
    """The same in numpy, with the forward pass of acting, for training on the CPU."""
    value: float | None = None
    """Weight of the critic's error, where it is not that of training."""


class Drawn:
    """Batches that are drawn when first iterated over (most epochs score nothing), and stay the same then."""

    def __init__(self, draw: Callable[[], list[Batch]]) -> None:
        self.batches = cache(draw)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches())


class A2C(Task):
    """An environment as a :class:`tasks.Task`; ``outlook_games`` are played for what a pruning upset."""

    metric, higher_is_better, split = "return", True, f"{EPISODES} episodes"

    def __init__(self, options: A2COptions, outlook_games: int = 32) -> None:
        check(options)
        self.outlook_games = outlook_games
        threadpool_limits(1, "blas")  # for good: numpy's pool and torch's would wait for each other's cores
        self.options = options
        self.workers = [Worker() for _ in range(options.workers - 1)]  # this process plays as well
        self.dataset, self.clip = options.environment, options.clip
        self.network = "-".join(["mlp", *map(str, options.widths)])
        self.games = self.steps = 0
        self.returns: list[float] = []
        self.progress, self.bonus = 0.0, options.entropy
        self.logits: np.ndarray = np.zeros((0, 1))
        with closing(make_environment(options.environment, 1)) as environment:
            self.inputs = int(np.prod(environment.single_observation_space.shape or ()))
            self.actions = int(getattr(environment.single_action_space, "n", 0))
        require(self.actions > 0, f"environment must have discrete actions, which {options.environment} has not.")

    def model(self) -> nn.Module:
        """A trunk and two heads, with orthogonal weights."""
        return ActorCritic(self.inputs, self.options.widths, self.actions, self.options.activation)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Adam, fused: its many small tensors cost more calls than arithmetic otherwise."""
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
                rollout = player.play(Policy(model), options.rollout)
                self.steps += int(rollout.mask.sum())
                self.games += len(rollout.returns)
                self.returns += rollout.returns
                self.logits = rollout.logits
                yield self._batch(rollout, model, train=True)
                if (self.games if options.games else self.steps) >= goal:
                    return

    def scoring_batches(self, model: nn.Module, epoch: int) -> Drawn:
        """Longer rollouts in environments of their own."""

        def draw() -> list[Batch]:
            options = self.options
            with closing(self._player(epoch, SCORING)) as player:
                policy = Policy(model)
                rollouts = [player.play(policy, options.scoring_length) for _ in range(options.scoring_rollouts)]
            return [self._batch(rollout, model, train=False) for rollout in rollouts]

        return Drawn(draw)

    def _bonus(self) -> float:
        """The weight of the entropy bonus in the epoch that begins, at the point that the learning rate is at."""
        first, last = self.options.entropy, self.options.last_entropy
        return first if last is None else first + (last - first) * self.progress

    def _player(self, epoch: int, purpose: int) -> Player:
        options = self.options
        return Player(options.environment, options.agents, (options.seed, epoch, purpose), self.workers)

    def _batch(self, rollout: Rollout, model: nn.Module, train: bool) -> Batch:
        options, values = self.options, rollout.values
        rewards = rollout.rewards * options.reward_scale
        gains = advantages(rewards, values, rollout.terminated, rollout.truncated, options.discount, options.gae)
        observations, actions, returns, gained, mask = (
            np.ascontiguousarray(x).reshape(-1, *x.shape[2:])
            for x in (rollout.observations[:-1], rollout.actions, gains + values[:-1], gains, rollout.mask)
        )
        if options.normalise and mask.any():
            gained = ((gained - gained[mask].mean()) / (gained[mask].std() + 1e-8)).astype(gained.dtype)
        observations = observations.reshape(-1, self.inputs)
        like = next(model.parameters())
        played = None
        if train and like.device.type == "cpu":
            hidden = [h[:-1].reshape(-1, h.shape[-1]) for h in rollout.hidden]
            logits = rollout.logits.reshape(-1, self.actions)
            played = Played(observations, actions, returns, gained, mask, hidden, logits, values[:-1].reshape(-1))
        seen, r, a, m = (torch.from_numpy(x).to(like) for x in (observations, returns, gained, mask))
        weight = None if train else options.scoring_value
        return Batch(seen, torch.from_numpy(actions).to(like.device), r, a, m, played, weight)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean of -A log pi(a|s) + value * (R - V(s))^2 - entropy * H(pi(.|s)) over the rows that count.

        ``value`` is the batch's, or else that of training.
        """
        logits, values = model(batch.observations)
        log = functional.log_softmax(logits, -1)
        chosen = log.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        entropy = -(log.exp() * log).sum(-1)
        error = (batch.returns - values).square()
        weight = self.options.value if batch.value is None else batch.value
        rows: Tensor = weight * error - batch.advantages * chosen - self.bonus * entropy
        return (rows * batch.mask).sum() / batch.mask.sum().clamp(min=1)

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """``loss`` without a second derivative: on the CPU from the forward pass that acting has done."""
        if batch.played is None:
            return self.loss(model, batch)
        return fast_loss(model, batch.played, self.options.value, self.bonus)

    def log(self) -> dict[str, float]:
        """Games and steps so far; the mean return of the games that the last epoch ended; its last batch's entropy."""
        line: dict[str, float] = {"games": self.games, "steps": self.steps}
        if self.returns:
            line["return"] = float(np.mean(self.returns))
        if self.logits.size:
            log = self.logits - np.logaddexp.reduce(self.logits, -1, keepdims=True)
            line["entropy"] = float(-(np.exp(log) * log).sum(-1).mean())
        return line

    def pruning_diagnostics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float | Tensor]:
        """The mean return of some games, other ones than the final evaluation's, and the policy on ``batches``."""
        with torch.no_grad():
            logits = [model(batch.observations)[0][batch.mask > 0] for batch in batches]
        return {
            "return": mean_return(Policy(model), self.dataset, self.outlook_games, OUTLOOK_SEED, self.workers),
            "policy": functional.log_softmax(torch.cat(logits), -1),
        }

    def evaluate(self, model: nn.Module) -> float:
        """Mean undiscounted return of the most likely actions, over the first game of 100 environments."""
        return mean_return(Policy(model), self.dataset, EPISODES, EVALUATION_SEED, self.workers)

    def record(self, model: nn.Module, folder: Path) -> list[Path]:
        """A game of the most likely actions, as an animated picture."""
        draw(self.dataset, Policy(model), folder / "episode.gif")
        return [folder / "episode.gif"]

    def state_dict(self) -> dict[str, Any]:
        """The counters and the bonus: environments and random numbers start anew in each epoch."""
        return {"games": self.games, "steps": self.steps, "bonus": self.bonus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the counters, and the bonus that the last epoch was trained, and may be scored, with."""
        self.games, self.steps = state["games"], state["steps"]
        self.bonus = state.get("bonus", self.bonus)  # an old checkpoint has none
