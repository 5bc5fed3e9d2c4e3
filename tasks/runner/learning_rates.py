"""Learning-rate schedules: shares of the largest rate by the progress of a training."""

from __future__ import annotations

import math


def one_cycle(progress: float) -> float:
    """The share of the largest rate: from 1/25 up over the first 30 %, and down to 1/250,000, along half cosines.

    Smith and Topin 2018, "Super-convergence", with the cosines, and the numbers, of torch's OneCycleLR.
    """
    low, last, rise = 1 / 25, 1 / 25e4, 0.3
    if progress < rise:
        return low + (1 - low) * (1 - math.cos(math.pi * progress / rise)) / 2
    return last + (1 - last) * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2
