"""Landing on the moon as Gymnasium has it (with Box2D): softly, between the flags, on little fuel.

A game stops after 1000 steps; it counts as solved from a mean return of 200. The paper played v2, of which v3 is a
correction (wind and turbulence, both off here, and what a reset leaves behind).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from tasks import Task
from tasks._a2c import A2C, A2COptions

Environment = Literal["LunarLander-v3"]


@dataclass(frozen=True, kw_only=True)
class Options(A2COptions):
    """Lunar lander's configuration."""

    environment: Environment = "LunarLander-v3"
    """Gymnasium environment."""
    widths: tuple[int, ...] = (256, 256, 256)
    """Neurons in each layer of the trunk that actor and critic share."""
    reward_scale: float = 0.01
    """Factor on the rewards that training sees, to keep the critic's targets near 1; reported returns are unscaled."""
    steps: int = 1_200_000
    """Environment steps over the whole run, all agents together."""
    entropy: float = 0.01
    """Weight of the entropy bonus in the loss, in the first epoch."""
    final_entropy: float = 0.001
    """Weight of the entropy bonus that the first falls to, linearly, by the end of the last epoch."""
    value: float = 0.5
    """Weight of the critic's squared error in the loss."""
    clip: float | None = 0.2
    """Largest gradient norm, or None for no clipping."""


def default() -> Options:
    """Our recipe: chance keeps it from hovering, which pays at first, and goes as the landings come."""
    return Options()


def paper() -> Options:
    """The paper's table 4 (16 agents, 8000 games, 256-256-256); what it leaves open is our recipe's."""
    return Options(preset="paper", games=8000, agents=16, widths=(256, 256, 256))


PRESETS: dict[str, Callable[[], Options]] = {"default": default, "paper": paper}


def make(options: Options) -> Task:
    """The task; a ValueError says which option cannot be."""
    known = get_args(Environment)
    if options.environment not in known:
        raise ValueError(f"environment must be {' or '.join(known)}, not {options.environment!r}.")
    if not 0 <= options.final_entropy < math.inf:
        raise ValueError(f"final_entropy must be a number of 0 or more, not {options.final_entropy}.")
    return A2C(options, outlook_games=12, final_entropy=options.final_entropy)  # a game takes long


if __name__ == "__main__":
    from tasks._cli import main

    main("lunarlander")
