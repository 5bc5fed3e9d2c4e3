"""A game of a policy as an animated picture."""

from __future__ import annotations

import math
import os
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image
from torch import nn

from tasks.control.rollouts import known_warnings, likeliest
from tasks.runner import machine
from tasks.runner.files import replacing
from tasks.runner.networks import evaluating

SEED = 2**31 + 2**20
FRAMES, WIDTH = 250, 320
"""Most frames, and pixels from left to right, of a picture: about a megabyte."""


def draw(name: str, model: nn.Module, path: Path) -> float:
    """Play a game of the most likely actions and write it to ``path`` as a GIF at about its own speed; its return.

    The return is in the file's comment as well.
    """
    with known_warnings():
        environment = gymnasium.make(name, render_mode="rgb_array")
    driver = os.environ.get("SDL_VIDEODRIVER", "dummy")  # it draws into arrays, also where there is no display
    with machine.environment(SDL_VIDEODRIVER=driver), closing(environment):
        rate = environment.metadata["render_fps"]
        every = max(1, rate // 25)  # viewers slow down what has more than 50 frames a second
        total, frames = _play(environment, model, every)
    thinned = math.ceil((len(frames) - 1) / FRAMES)
    pictures = [Image.fromarray(frame) for frame in frames[:-1:thinned] + frames[-1:]]
    size = WIDTH, WIDTH * pictures[0].height // pictures[0].width
    first, *others = (picture.resize(size).quantize(64) for picture in pictures)
    with replacing(path) as temporary:
        first.save(
            temporary, "GIF", save_all=True, append_images=others, duration=1000 * every * thinned // rate, loop=0,
            comment=f"{name}, return {total:g}",
        )  # fmt: skip
    return total


def _play(environment: gymnasium.Env, model: nn.Module, every: int) -> tuple[float, list[np.ndarray]]:
    """A game's return, and frames of every ``every``-th step and of the last."""
    observation, _ = environment.reset(seed=SEED)
    frames, total, over, steps = [np.asarray(environment.render())], 0.0, False, 0
    with evaluating(model):
        while not over:
            action = likeliest(model, observation[None])[0]
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over, steps = total + float(reward), terminated or truncated, steps + 1
            if over or steps % every == 0:
                frames.append(np.asarray(environment.render()))
    return total, frames
