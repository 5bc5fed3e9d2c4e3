"""Vectorised environments with as little as possible around the stepping."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tasks._acrobot_vector import AcrobotVectorEnv, seeds_of
from tasks._cartpole_vector import CartPoles

CARTPOLES = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
LIGHTER = {"gymnasium.envs.box2d.lunar_lander:LunarLander": "tasks._lander:Lander"}
"""What is played in place of a single environment, where it is made without arguments."""


@contextmanager
def known_warnings() -> Iterator[None]:
    """Leave out what making an environment warns of, and nobody here can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*out of date", DeprecationWarning)  # the paper plays CartPole-v0
        warnings.filterwarnings("ignore", "builtin type .* has no __module__", DeprecationWarning)  # SWIG, in Box2D
        yield


def make_environment(name: str, agents: int) -> VectorEnv:
    """Many of an environment at once: on arrays where there is such a form of it, else one after the other."""
    with known_warnings():
        spec = gymnasium.spec(name)
        if spec.id == "Acrobot-v1":
            return AcrobotVectorEnv(agents, spec.max_episode_steps or 0)
        if spec.vector_entry_point == CARTPOLES:
            return CartPoles(agents, spec.max_episode_steps or 0)
        if spec.vector_entry_point is not None:
            return gymnasium.make_vec(name, num_envs=agents)
        return SequentialVectorEnv(spec, agents)


def start(environment: VectorEnv, seed: int, first: int, agents: int) -> np.ndarray:
    """Start the games of ``agents`` environments from ``first`` on, as if the others were there; what is seen first."""
    if isinstance(environment, CartPoles) and environment.num_envs < agents:
        return environment.start_part(seed, first, agents)
    observation: np.ndarray = environment.reset(seed=seed + first)[0]
    return observation


class SequentialVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Gymnasium's SyncVectorEnv for array observations and discrete actions, with the same numbers.

    Left out are what it looks up, copies and checks at every step, and the wrappers of each environment that count its
    steps and check its use; ``info`` is empty.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        bare = copy.deepcopy(spec)
        bare.order_enforce, bare.disable_env_checker, bare.max_episode_steps = False, True, None
        if not spec.kwargs:
            bare.entry_point = LIGHTER.get(str(spec.entry_point), spec.entry_point)
        self.envs = [gymnasium.make(bare) for _ in range(num_envs)]
        self.num_envs, self.limit = num_envs, spec.max_episode_steps
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        seen, chosen = self.envs[0].observation_space, self.envs[0].action_space
        self.single_observation_space, self.single_action_space = seen, chosen
        self.observation_space, self.action_space = batch_space(seen, num_envs), batch_space(chosen, num_envs)
        self.steps, self.done = [0] * num_envs, [False] * num_envs

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all games; environment i is seeded with ``seed + i``."""
        seeds = seeds_of(seed, self.num_envs)
        observations = [env.reset(seed=each, options=options)[0] for env, each in zip(self.envs, seeds, strict=True)]
        self.steps, self.done = [0] * self.num_envs, [False] * self.num_envs
        return np.stack(observations), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step each environment; where a game was over, start another instead."""
        observations = np.empty(self.observation_space.shape or (), self.observation_space.dtype)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for i, (env, action) in enumerate(zip(self.envs, np.asarray(actions).tolist(), strict=True)):
            if self.done[i]:
                observations[i], _ = env.reset()
                self.steps[i], self.done[i] = 0, False
                continue
            observations[i], rewards[i], ended, cut, _ = env.step(action)
            self.steps[i] += 1
            cut = cut or self.steps[i] == self.limit
            terminated[i], truncated[i], self.done[i] = ended, cut, ended or cut
        return observations, rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
