"""Seconds of several functions, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

REPEATS = 7


def in_turn(
    *functions: Callable[[], object],
    repeats: int = REPEATS,
    warm_up: int = 1,
    clock: Callable[[], float] | None = None,
) -> list[float]:
    """Measure the functions, called one after the other, so that a drift of the machine's speed meets all of them.

    Args:
        functions: What to call.
        repeats: Timed calls of each.
        warm_up: Calls of each before them that are not timed.
        clock: Returns the seconds so far; ``time.perf_counter`` where it is not given.

    Returns:
        The median of each one's seconds.
    """
    read = clock or time.perf_counter
    seconds: list[list[float]] = [[] for _ in functions]
    for round_ in range(warm_up + repeats):
        for times, function in zip(seconds, functions, strict=True):
            start = read()
            function()
            if round_ >= warm_up:
                times.append(read() - start)
    return [median(times) for times in seconds]
