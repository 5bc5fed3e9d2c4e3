"""The sparsity after each round of an iterative pruning (Algorithm 1, line 13, and other schedules)."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float, int], list[float]]
"""(target sparsity, number of rounds) -> the sparsity after each round, increasing, the last one the target."""


def one_shot(sparsity: float, rounds: int) -> list[float]:
    """Remove everything in one round, whatever ``rounds`` is.

    Args:
        sparsity: The target rho.
        rounds: Not used.

    Returns:
        The sparsity after each round.
    """
    return [sparsity]


def exponential(sparsity: float, rounds: int) -> list[float]:
    """s_i = 1 - (1 - rho)^(i/n) for i = 1..n with n = 100, whatever ``rounds`` is.

    Source: SynFlow (Tanaka et al. 2020), algorithm 1, which needs 100 rounds to avoid the collapse of a layer.

    Args:
        sparsity: The target rho.
        rounds: Not used.

    Returns:
        The sparsity after each round.
    """
    return [1 - (1 - sparsity) ** (i / 100) for i in range(1, 100)] + [sparsity]


def halving(sparsity: float, rounds: int) -> list[float]:
    """s_i = rho - (rho - start) (1/2)^i for i = 0..n-2, then rho. The start is 1/2, or rho / 2 if rho is at most 1/2.

    Source: Rachwan et al. 2022, algorithm 1, line 13 (CroPit). Deviation: there the start is always 1/2, which removes
    more than the target if rho < 1/2.

    Args:
        sparsity: The target rho.
        rounds: The number of rounds n.

    Returns:
        The sparsity after each round.
    """
    start = 0.5 if sparsity > 0.5 else sparsity / 2
    return [sparsity - (sparsity - start) * 0.5**i for i in range(rounds - 1)] + [sparsity]
