"""Playing vectorised environments: what the control tasks learn from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import count, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks._environments import make_environment, start
from tasks._policy import Policy

if TYPE_CHECKING:
    from tasks._workers import Worker


EVALUATION_SEED, OUTLOOK_SEED = 2**31, 2**31 + 2**16
"""Player shifts its seeds to below 2**30, so that no training environment is ever seeded like an evaluated one."""
KEYS = count()
"""What players are told apart by."""


class Steps(NamedTuple):
    """What N agents lived through in T steps."""

    observations: np.ndarray
    """(T + 1, N, inputs): the last is what the last actions led to."""
    actions: np.ndarray
    """(T, N), as the next three."""
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    logits: np.ndarray
    """(T, N, actions)."""
    hidden: list[np.ndarray]
    """(T + 1, N, width) for each of the trunk's layers, what it gave."""


class Rollout(NamedTuple):
    """The same, and what follows from it."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    """(T, N): where somebody acted."""
    logits: np.ndarray
    values: np.ndarray
    """(T + 1, N)."""
    hidden: list[np.ndarray]
    returns: list[float]
    """Undiscounted returns of the games that ended."""


class Part:
    """A player's agents from ``first`` to before ``last``, of ``agents``, in environments of their own."""

    def __init__(self, name: str, seed: int, first: int, last: int, agents: int) -> None:
        self.environment = make_environment(name, last - first)
        self.observation = start(self.environment, seed, first, agents)

    def play(self, policy: Policy, noise: np.ndarray) -> Steps:
        """Play a step for each row of ``noise``, (T, N, actions), added to the policy's logits."""
        length, agents, _ = noise.shape
        policy = policy.arranged(agents)
        hidden = [np.empty((length + 1, agents, width), np.float32) for width in policy.widths]
        logits, actions = np.empty(noise.shape, np.float32), np.empty((length, agents), np.int64)
        observations, told = [self.observation], []
        for t in range(length):
            logits[t] = policy.logits(policy.features(self.observation, [h[t] for h in hidden]))
            (logits[t] + noise[t]).argmax(-1, out=actions[t])
            self.observation, *rest = self.environment.step(actions[t])
            observations.append(self.observation)
            told.append(rest)
        policy.features(self.observation, [h[length] for h in hidden])
        rewards, terminated, truncated = (_rows([each[i] for each in told]) for i in range(3))
        return Steps(_rows(observations), actions, rewards, terminated, truncated, logits, hidden)

    def close(self) -> None:
        """Close the environments."""
        self.environment.close()


def _rows(arrays: list[np.ndarray]) -> np.ndarray:
    """numpy.stack, with a call for all of them in place of a few for each."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


class Player:
    """Agents in environments that were reset with a seed made of ``key``; close it after use.

    This process and each of ``workers`` play a part of them.

    An environment that is done resets in its *next* step (gymnasium's default), so that the observation after a step
    is always the one it led to, final ones included, and the step of the reset is no transition: ``mask`` is 0 there.
    """

    def __init__(self, name: str, agents: int, key: tuple[int, ...], workers: Sequence[Worker] = ()) -> None:
        sequence = np.random.SeedSequence(key)
        self.random = np.random.default_rng(sequence)
        seed = int(sequence.spawn(1)[0].generate_state(1)[0]) >> 2
        self.spans, self.workers, self.key = spans(agents, 1 + len(workers)), workers, next(KEYS)
        for worker, span in zip(workers, self.spans[1:], strict=True):
            worker.ask("open", self.key, name, seed, *span, agents)
        self.part = Part(name, seed, *self.spans[0], agents)
        for worker in workers:
            worker.answer()
        self.done = np.zeros(agents, bool)
        self.total = np.zeros(agents)

    def play(self, policy: Policy, length: int) -> Rollout:
        """Play ``length`` steps, with actions drawn from the policy."""
        shape = (length, len(self.done), len(policy.actor[1]))
        noise = self.random.gumbel(size=shape).astype(np.float32)  # the Gumbel-max trick: a draw from softmax(logits)
        for worker, (first, last) in zip(self.workers, self.spans[1:], strict=True):
            worker.ask("play", self.key, policy, np.ascontiguousarray(noise[:, first:last]))
        steps = self.part.play(policy, noise[:, : self.spans[0][1]])
        if self.workers:
            steps = _beside([steps, *(worker.answer() for worker in self.workers)])
        mask, returns = self._games(steps.rewards, steps.terminated | steps.truncated)
        return Rollout(**steps._asdict(), mask=mask, values=policy.values(steps.hidden[-1]), returns=returns)

    def _games(self, rewards: np.ndarray, done: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Where somebody acted, (T, N), and the returns of the games that ended, in the order of their ends."""
        mask = ~np.concatenate([self.done[None], done[:-1]])
        so_far, returns = rewards.cumsum(0) + self.total, []
        for t, agent in np.argwhere(done):
            returns.append(float(so_far[t, agent]))
            so_far[t:, agent] -= so_far[t, agent]
        self.done, self.total = done[-1], so_far[-1]
        return mask, returns

    def close(self) -> None:
        """Close the environments."""
        self.part.close()
        for worker in self.workers:
            worker.left.append(self.key)


def spans(number: int, parts: int) -> list[tuple[int, int]]:
    """``number`` in consecutive parts that differ by one at most, as (first, one after the last)."""
    bounds = [number * i // parts for i in range(parts + 1)]
    return list(pairwise(bounds))


def _beside(parts: list[Steps]) -> Steps:
    """The agents of all parts, in their order."""
    *arrays, hidden = zip(*parts, strict=True)
    layers = [np.concatenate(layer, axis=1) for layer in zip(*hidden, strict=True)]
    return Steps._make([*(np.concatenate(array, axis=1) for array in arrays), layers])


def mean_return(policy: Policy, name: str, games: int, seed: int, workers: Sequence[Worker] = ()) -> float:
    """Mean undiscounted return of the most likely actions, over the first game of ``games`` environments.

    This process and each of ``workers``, at most one for a game, play a part of them.
    """
    workers = workers[: games - 1]
    own, *others = spans(games, 1 + len(workers))
    for worker, span in zip(workers, others, strict=True):
        worker.ask("first_returns", policy, name, seed, *span, games)
    returns = [first_returns(policy, name, seed, *own, games), *(worker.answer() for worker in workers)]
    return float(np.concatenate(returns).mean())


def first_returns(policy: Policy, name: str, seed: int, first: int, last: int, games: int) -> np.ndarray:
    """Undiscounted returns of the most likely actions, over the first game of environments ``first`` to ``last``."""
    total, alive = np.zeros(last - first), np.ones(last - first, bool)
    policy = policy.arranged(last - first)
    with closing(make_environment(name, last - first)) as environment:
        observation = start(environment, seed, first, games)
        while alive.any():
            actions = policy.logits(policy.features(observation)).argmax(-1)
            observation, rewards, terminated, truncated, _ = environment.step(actions)
            total += rewards * alive
            alive &= ~(terminated | truncated)
    return total


def advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    discount: float,
    gae: float,
) -> np.ndarray:
    """A_t = d_t + discount * gae * A_(t+1) within a game, d_t = r_t + discount * V_(t+1) - V_t; (T, N), V (T + 1, N).

    Schulman et al. 2016, eq. 16, cut off at the end of the rollout, where V stands for what follows. V after a terminal
    state is 0; a game that was only cut short (truncated) counts as going on, and V of its last observation is used.
    """
    errors = rewards + discount * values[1:] * ~terminated - values[:-1]
    weights = discount * gae * ~(terminated | truncated)
    result: np.ndarray = np.empty_like(errors)
    following = np.zeros_like(errors[0])
    for t in reversed(range(len(errors))):
        result[t] = following = errors[t] + weights[t] * following
    return result
