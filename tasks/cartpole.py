"""Cart-pole balancing (Barto, Sutton and Anderson 1983) as Gymnasium has it: a reward of 1 for each step upright.

v1 stops a game after 500 steps and counts as solved from a mean return of 475, v0 after 200 and from 195.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks import Summary
from tasks.control.a2c import A2C, A2COptions, flare
from tasks.runner.command_line import main

Environment = Literal["CartPole-v1", "CartPole-v0"]


@dataclass(frozen=True, kw_only=True)
class Options(A2COptions):
    """Cart-pole's configuration."""

    environment: Environment = "CartPole-v1"


def default() -> Options:
    """Our recipe: solves v1 in half a million steps, and still does when most of the network is cut on the way."""
    return Options()


def paper_table4() -> Options:
    """The paper's table 4: v0, 16 agents of 8000 games each, 128-128-128, trained as FLARE trains (see ``flare``)."""
    return flare(Options(environment="CartPole-v0", games=16 * 8000, agents=16, widths=(128, 128, 128)))


def paper_text() -> Options:
    """The paper's section 5: v0, 20 agents of 640 games each, 256-256-256, 30 epochs, trained as FLARE trains."""
    return flare(Options(environment="CartPole-v0", games=20 * 640, agents=20, widths=(256, 256, 256), epochs=30))


PRESETS = {"default": default, "paper-table4": paper_table4, "paper-text": paper_text}
SUMMARY = Summary("CartPole", "Gymnasium", "3 layers of 128", "1")
make = A2C


if __name__ == "__main__":
    main("cartpole")
