"""Play Gymnasium's vector environments with a module that gives ``(logits, value)`` of observations."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from tasks.runner.errors import LostError
from tasks.runner.networks import evaluating

EVALUATION_SEED, DIAGNOSTICS_SEED = 2**31, 2**31 + 2**16
"""Training environments are seeded below 2**30 + the number of agents, so that none plays an evaluated game."""


class Rollout(NamedTuple):
    """T steps of N agents. Observations, actions, logits and values are on the model's device, the rest on the CPU."""

    observations: Tensor
    """(T + 1, N, ...): the last ones follow from the last actions."""
    actions: Tensor
    """(T, N)."""
    logits: Tensor
    """(T, N, number of actions)."""
    values: Tensor
    """(T + 1, N)."""
    rewards: Tensor
    """(T, N), unscaled."""
    terminated: Tensor
    """(T, N): the game reached its end."""
    truncated: Tensor
    """(T, N): the game was stopped by its time limit."""
    mask: Tensor
    """(T, N): False where the environment was being reset and ignored the action."""
    returns: list[float]
    """Undiscounted returns of the games that ended, in the order of their ends."""


class Player:
    """Agents that act at random as the policy says, in environments of their own. Close it after use.

    An environment whose game is over resets in its *next* step (Gymnasium's default, ``AutoresetMode.NEXT_STEP``). So
    the observation after a step is always the one that the action led to, also at a game's end, and the step of the
    reset is no transition: its reward is 0 and ``mask`` is False.

    Args:
        key: Seed of the environments and of the actions.
        workers: See :func:`make_environments`.
    """

    def __init__(self, name: str, agents: int, key: tuple[int, ...], workers: int = 1) -> None:
        environment_seed, action_seed = np.random.SeedSequence(key).generate_state(2).tolist()
        self.environments = make_environments(name, agents, workers)
        self.random = torch.Generator().manual_seed(action_seed)
        self.observation, _ = self.environments.reset(seed=environment_seed >> 2)
        self.over = np.zeros((1, agents), bool)
        self.score = np.zeros(agents)

    def play(self, model: nn.Module, length: int) -> Rollout:
        """Play ``length`` steps.

        Raises:
            LostError: a worker process has died.
        """
        agents, choices = self.environments.num_envs, actions_of(self.environments)
        like = next(model.parameters())
        observations = like.new_empty((length + 1, *self.observation.shape))
        actions = torch.empty((length, agents), dtype=torch.int64, device=like.device)
        logits, values = like.new_empty((length, agents, choices)), like.new_empty((length + 1, agents))
        rewards = np.empty((length, agents))
        terminated, truncated = np.empty((length, agents), bool), np.empty((length, agents), bool)
        # The Gumbel-max trick: argmax(logits - log(E)) with E ~ Exp(1) is a draw from softmax(logits).
        gumbel = torch.empty(logits.shape).exponential_(generator=self.random).log_().neg_().to(like)
        with evaluating(model):
            for t in range(length):
                observations[t] = torch.as_tensor(self.observation)
                logits[t], values[t] = model(observations[t])
                actions[t] = (logits[t] + gumbel[t]).argmax(-1)
                self.observation, rewards[t], terminated[t], truncated[t] = self._step(actions[t])
            observations[length] = torch.as_tensor(self.observation)
            values[length] = model(observations[length])[1]
        mask, returns = self._games(rewards, terminated | truncated)
        given = map(torch.from_numpy, (rewards, terminated, truncated, mask))
        return Rollout._make([observations, actions, logits, values, *given, returns])

    def _step(self, actions: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        try:
            return self.environments.step(actions.numpy(force=True))[:4]
        except (EOFError, ConnectionError):
            raise LostError(
                "a process that steps an environment has died: the same command goes on from the last checkpoint"
            ) from None

    def _games(self, rewards: np.ndarray, over: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Where agents acted, (T, N), and the returns of the games that ended."""
        mask = ~np.concatenate([self.over, over[:-1]])
        scores, returns = rewards.cumsum(0) + self.score, []
        for t, agent in np.argwhere(over):
            returns.append(float(scores[t, agent]))
            scores[t:, agent] -= scores[t, agent]
        self.over, self.score = over[-1:], scores[-1]
        return mask, returns

    def close(self) -> None:
        """Close the environments, and end their processes."""
        self.environments.close(terminate=True)


def advantages(
    rewards: Tensor, values: Tensor, terminated: Tensor, truncated: Tensor, discount: float, gae: float
) -> Tensor:
    """A_t = d_t + discount * gae * A_(t+1) within a game, where d_t = r_t + discount * V_(t+1) - V_t.

    Generalized advantage estimation, Schulman et al. 2016, eq. 16, cut off at the end of the rollout. The value after a
    terminal state is 0. A truncated game would have gone on: the value of its last observation stands for the rest.

    Args:
        rewards: (T, N), as ``terminated`` and ``truncated``.
        values: (T + 1, N).
        discount: Weight of a reward one step later.
        gae: Lambda; 0 is the one-step temporal difference, 1 is the n-step return minus the value.

    Returns:
        (T, N). Rows of steps in which an environment was reset mean nothing.
    """
    errors = rewards + discount * values[1:] * ~terminated - values[:-1]
    weights = discount * gae * ~(terminated | truncated)
    result, following = torch.empty_like(errors), torch.zeros_like(errors[0])
    for t in reversed(range(len(errors))):
        result[t] = following = errors[t] + weights[t] * following
    return result


def mean_return(model: nn.Module, name: str, games: int, seed: int) -> float:
    """Mean undiscounted return of the most likely actions, over the first game of each of ``games`` environments."""
    total, playing = np.zeros(games), np.ones(games, bool)
    with closing(make_environments(name, games)) as environments, evaluating(model):
        observation, _ = environments.reset(seed=seed)
        while playing.any():
            observation, rewards, terminated, truncated, _ = environments.step(likeliest(model, observation))
            total += rewards * playing
            playing &= ~(terminated | truncated)
    return float(total.mean())


def likeliest(model: nn.Module, observation: np.ndarray) -> np.ndarray:
    """The most likely action for each of the observations."""
    logits, _ = model(torch.as_tensor(observation).to(next(model.parameters())))
    actions: np.ndarray = logits.argmax(-1).numpy(force=True)
    return actions


def make_environments(name: str, count: int, workers: int = 1) -> VectorEnv:
    """Make ``count`` environments that step together.

    Args:
        workers: 1 steps all of them in this process, on arrays where Gymnasium registers such a form of the environment
            (of cart-pole it does), else one after the other. More steps each in its own process, ``workers`` at once.
    """
    with known_warnings():
        if workers == 1:
            return gymnasium.make_vec(name, num_envs=count)
        known = multiprocessing.get_all_start_methods()
        context = "forkserver" if "forkserver" in known else "spawn"  # torch's threads do not survive a fork
        options: dict[str, Any] = {"context": context, "max_concurrency": workers}
        return gymnasium.make_vec(name, num_envs=count, vectorization_mode="async", vector_kwargs=options)


def actions_of(environments: VectorEnv) -> int:
    """The number of actions to choose from; 0 where they are not discrete."""
    space = environments.single_action_space
    return int(space.n) if isinstance(space, Discrete) else 0


@contextmanager
def known_warnings() -> Iterator[None]:
    """Silence the warnings of making an environment that a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*out of date", DeprecationWarning)  # the paper plays CartPole-v0
        warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)  # SWIG, in Box2D
        yield
