"""The lunar lander as Gymnasium has it, with as little Python as possible around Box2D's step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.envs.box2d.lunar_lander import (
    FPS,
    LEG_DOWN,
    MAIN_ENGINE_POWER,
    MAIN_ENGINE_Y_LOCATION,
    SCALE,
    SIDE_ENGINE_AWAY,
    SIDE_ENGINE_HEIGHT,
    SIDE_ENGINE_POWER,
    VIEWPORT_H,
    VIEWPORT_W,
    LunarLander,
)

WIDTH, HEIGHT = VIEWPORT_W / SCALE / 2, VIEWPORT_H / SCALE / 2
MAIN_ENGINE = MAIN_ENGINE_Y_LOCATION / SCALE
LEFT, MAIN, RIGHT = 1, 2, 3


class Lander(LunarLander):
    """Gymnasium's LunarLander with discrete actions and no wind, not rendered: the same numbers, to the last bit.

    Terms are in Gymnasium's order, so that they round like its; actions are not checked.
    """

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Fire an engine, or none, and let a fiftieth of a second pass."""
        lander: Any = self.lander
        random = self.np_random.random
        sine, cosine = math.sin(lander.angle), math.cos(lander.angle)
        along, across = (2.0 * random() - 1.0) / SCALE, (2.0 * random() - 1.0) / SCALE
        fuel = 0.0
        if action == MAIN:
            x = sine * (MAIN_ENGINE + 2 * along) + -cosine * across
            y = -cosine * (MAIN_ENGINE + 2 * along) - sine * across
            at = lander.position
            where = (at.x + x, at.y + y)
            lander.ApplyLinearImpulse((-x * MAIN_ENGINE_POWER, -y * MAIN_ENGINE_POWER), where, True)
            fuel = 0.30
        elif action in (LEFT, RIGHT):
            sideways = 3 * across + (action - 2) * SIDE_ENGINE_AWAY / SCALE
            x = sine * along + -cosine * sideways
            y = -cosine * along - sine * sideways
            at = lander.position
            where = (at.x + x - sine * 17 / SCALE, at.y + y + cosine * SIDE_ENGINE_HEIGHT / SCALE)
            lander.ApplyLinearImpulse((-x * SIDE_ENGINE_POWER, -y * SIDE_ENGINE_POWER), where, True)
            fuel = 0.03
        self.world.Step(1.0 / FPS, 6 * 30, 2 * 30)
        at, speed, (left, right) = lander.position, lander.linearVelocity, self.legs
        x, y = (at.x - WIDTH) / WIDTH, (at.y - (self.helipad_y + LEG_DOWN / SCALE)) / HEIGHT
        along, across, angle = speed.x * WIDTH / FPS, speed.y * HEIGHT / FPS, lander.angle
        legs = 1.0 if left.ground_contact else 0.0, 1.0 if right.ground_contact else 0.0
        shaping = (
            -100 * math.sqrt(x * x + y * y)
            - 100 * math.sqrt(along * along + across * across)
            - 100 * abs(angle)
            + 10 * legs[0]
            + 10 * legs[1]
        )
        reward = -fuel if self.prev_shaping is None else shaping - self.prev_shaping - fuel
        self.prev_shaping = shaping
        terminated = False
        if self.game_over or abs(x) >= 1.0:
            terminated, reward = True, -100.0
        if not lander.awake:
            terminated, reward = True, 100.0
        state = [x, y, along, across, angle, 20.0 * lander.angularVelocity / FPS, *legs]
        return np.array(state, np.float32), reward, terminated, False, {}
