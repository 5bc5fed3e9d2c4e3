"""What a sparsity can be a share of, and how much a target leaves of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, get_args

from earlycrop.utils.validation import check_sparsity

Measure = Literal["weights", "nodes", "macs", "bytes", "time"]
"""What a sparsity can be a share of. "time" is that of a training step on this device."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


def max_remaining(dense: int, sparsity: float) -> int:
    """Return how much may be left of ``dense``: floor((1 - sparsity) dense).

    The sparsity is taken as it is written in decimals: 0.9 of 1000 leaves 100.

    Args:
        dense: The size of the dense network.
        sparsity: The share to remove.

    Returns:
        The largest size that meets the target.

    Raises:
        ValueError: The sparsity is not between 0 and 1.
    """
    return int((1 - Fraction(repr(check_sparsity(sparsity)))) * dense)
