"""What a sparsity can be a share of, and how much of that a target leaves."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, get_args

Measure = Literal["weights", "nodes", "macs", "bytes", "time"]
MEASURES: tuple[str, ...] = get_args(Measure)
"""What a sparsity can be a share of; time is that of a training step on this device."""


def max_remaining(dense: int, sparsity: float) -> int:
    """How much may be left of ``dense``: floor((1 - sparsity) dense), with the sparsity as it is written in decimals.

    Raises:
        ValueError: the sparsity is not between 0 and 1.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must be above 0 and below 1, and is {sparsity}: it is the share that is removed")
    return int((1 - Fraction(repr(float(sparsity)))) * dense)
