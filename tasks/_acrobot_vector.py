"""Acrobot (Sutton 1996) as Gymnasium has it, many at once: its equations of motion on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

GRAVITY = 9.8
UPRIGHT = np.pi / 2
START = 0.1
"""Largest angle and velocity that a game starts with."""
LIMITS = np.array([[AcrobotEnv.MAX_VEL_1], [AcrobotEnv.MAX_VEL_2]])


def seeds_of(seed: int | list[int | None] | None, num_envs: int) -> list[int | None]:
    """A seed for each environment, as Gymnasium spreads one: ``seed``, ``seed + 1``, ..."""
    if isinstance(seed, int):
        return [seed + i for i in range(num_envs)]
    return seed or [None] * num_envs


class AcrobotVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """What ``gymnasium.make_vec("Acrobot-v1", num_envs)`` steps one after the other, seeds and resets alike."""

    def __init__(self, num_envs: int, max_episode_steps: int) -> None:
        single = AcrobotEnv()
        self.metadata = {**single.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.observation_space = batch_space(single.observation_space, num_envs)
        self.action_space = batch_space(single.action_space, num_envs)
        self.generators: list[np.random.Generator] = []
        self.state = np.zeros((4, num_envs))
        self.steps = np.zeros(num_envs, int)
        self.done = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all games; environment i is seeded with ``seed + i``."""
        if seed is not None or not self.generators:
            self.generators = [np_random(each)[0] for each in seeds_of(seed, self.num_envs)]
        self._start(np.ones(self.num_envs, bool))
        self.done = np.zeros(self.num_envs, bool)
        return self._observation(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Apply a torque of ``actions`` - 1 for 0.2 seconds; where a game was over, start another instead."""
        fresh = self.done
        moved = _integrate(self.state, np.asarray(actions) - 1.0, AcrobotEnv.dt)
        moved[:2] = _wrapped(moved[:2])
        np.clip(moved[2:], -LIMITS, LIMITS, out=moved[2:])
        self.state = moved
        self.steps += 1
        terminated = -np.cos(moved[0]) - np.cos(moved[1] + moved[0]) > 1.0
        truncated = self.steps >= self.max_episode_steps
        rewards = np.where(terminated, 0.0, -1.0)
        if fresh.any():
            self._start(fresh)
            rewards[fresh] = 0.0
            terminated &= ~fresh
            truncated &= ~fresh
        self.done = terminated | truncated
        return self._observation(), rewards, terminated, truncated, {}

    def _start(self, where: np.ndarray) -> None:
        for i in np.flatnonzero(where):
            self.state[:, i] = self.generators[i].uniform(-START, START, 4).astype(np.float32)
            self.steps[i] = 0

    def _observation(self) -> np.ndarray:
        angles = self.state[:2]
        cosines, sines = np.cos(angles), np.sin(angles)
        rows = np.stack([cosines[0], sines[0], cosines[1], sines[1], self.state[2], self.state[3]], axis=1)
        return rows.astype(np.float32)


def _wrapped(angles: np.ndarray) -> np.ndarray:
    """Angles between -pi and pi, by whole turns."""
    while (beyond := np.abs(angles) > np.pi).any():
        angles = np.where(beyond, angles - np.sign(angles) * (2 * np.pi), angles)
    return angles


def _integrate(state: np.ndarray, torque: np.ndarray, dt: float) -> np.ndarray:
    """One step of the classical fourth-order Runge-Kutta method."""
    k1 = _slope(state, torque)
    k2 = _slope(state + dt / 2 * k1, torque)
    k3 = _slope(state + dt / 2 * k2, torque)
    k4 = _slope(state + dt * k3, torque)
    end: np.ndarray = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return end


def _slope(state: np.ndarray, torque: np.ndarray) -> np.ndarray:
    """d/dt of both angles and both velocities, (4, N): Sutton and Barto's equations, links of length and mass 1.

    Terms are in Gymnasium's order, so that they round like its.
    """
    slope = np.empty_like(state)
    angle1, angle2, speed1, speed2 = state
    cosine, sine = np.cos(angle2), np.sin(angle2)
    inertia = 0.25 + (1.25 + cosine) + 1 + 1
    coupling = 0.25 + 0.5 * cosine + 1
    weight2 = 0.5 * GRAVITY * np.cos(angle1 + angle2 - UPRIGHT)
    weight1 = -0.5 * speed2**2 * sine - speed2 * speed1 * sine + 1.5 * GRAVITY * np.cos(angle1 - UPRIGHT) + weight2
    slope[:2] = state[2:]
    slope[3] = (torque + coupling / inertia * weight1 - 0.5 * speed1**2 * sine - weight2) / (
        1.25 - coupling**2 / inertia
    )
    slope[2] = -(coupling * slope[3] + weight1) / inertia
    return slope
