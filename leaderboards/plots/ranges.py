"""What range an axis shows, so that hopeless runs and those of many times the size do not squeeze the others."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

HOPELESS = 10.0
"""A method is off the axis if it is this many times as far from the others as they are from each other."""
NARROWEST = 0.05
"""Values that differ by less than this share of the best are drawn as that close together."""
MANY = 4.0
"""An axis of losses is logarithmic if the largest is this many times the smallest."""


def shown_range(values: Sequence[float], higher_is_better: bool) -> tuple[float, float]:
    """Return the range of the methods' values, without those that are hopelessly worse than at least two others."""
    ranked = sorted(values, reverse=higher_is_better)
    narrowest = NARROWEST * abs(ranked[0])
    kept = ranked[:2]
    for value in ranked[2:]:
        if abs(value - kept[-1]) > HOPELESS * max(abs(kept[-1] - kept[0]), narrowest):
            break
        kept.append(value)
    return min(kept), max(kept)


def set_range(panel: Axes, low: float, high: float) -> None:
    """Show from ``low`` to ``high``, with a margin, on the vertical axis."""
    narrowest = NARROWEST * max(abs(low), abs(high))
    margin = max(0.12 * (high - low), (narrowest - (high - low)) / 2)
    panel.set_ylim(low - margin, high + margin)


def end_of_games(ends: Sequence[float]) -> float:
    """Return where an axis of games ends: at most at twice the median of the methods' ends."""
    return min(max(ends), 2 * median(ends))


def spread_losses(panel: Axes, lowest: float, highest: float) -> None:
    """Make the vertical axis logarithmic where losses differ many times."""
    if not 0 < lowest * MANY < highest:
        return
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 500 * lowest else (1,)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.4g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
