"""Acrobot (Sutton 1996) as Gymnasium has it: swing the tip of two links above a line; -1 a step until it is there.

A game stops after 500 steps; it counts as solved from a mean return of -100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks import Summary
from tasks.control.a2c import A2C, A2COptions, flare
from tasks.runner.command_line import main

Environment = Literal["Acrobot-v1"]


@dataclass(frozen=True, kw_only=True)
class Options(A2COptions):
    """Acrobot's configuration."""

    environment: Environment = "Acrobot-v1"
    widths: tuple[int, ...] = (256, 256, 256)
    steps: int = 300_000
    rollout: int = 8
    entropy: float = 0.003
    normalise_observations: bool = False
    """Whether observations are shifted and scaled to mean 0 and deviation 1 over all that were seen. Sines, cosines and
    velocities have one scale as they are: scaled anew, the policy learned at half the speed in its first epochs."""


def default() -> Options:
    """Our recipe, of 0.3 million steps."""
    return Options()


def paper() -> Options:
    """The paper's table 4: 16 agents of 8000 games each, 256-256-256, trained as FLARE trains (see ``flare``)."""
    return flare(Options(games=16 * 8000, agents=16, widths=(256, 256, 256)))


PRESETS = {"default": default, "paper": paper}
SUMMARY = Summary("Acrobot", "Gymnasium", "3 layers of 256", "2")
make = A2C


if __name__ == "__main__":
    main("acrobot")
