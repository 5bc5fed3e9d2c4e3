"""The sparsity after each round of an iterative pruning: plain functions of the target and the number of rounds."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float, int], list[float]]
"""(target sparsity, rounds) -> the sparsity after each round, rising, ending exactly on the target."""


def one_shot(sparsity: float, rounds: int) -> list[float]:
    """Everything at once, whatever the number of rounds."""
    return [sparsity]


def linear(sparsity: float, rounds: int) -> list[float]:
    """s_i = rho i / n for i = 1..n."""
    return [sparsity * i / rounds for i in range(1, rounds)] + [sparsity]


def exponential(sparsity: float, rounds: int, steps: int = 100) -> list[float]:
    """s_i = 1 - (1 - rho)^(i/n) for i = 1..n with n = 100, whatever the number of rounds.

    Source: SynFlow (Tanaka et al. 2020), algorithm 1, which needs that many to avoid the collapse of a layer.
    """
    return [1 - (1 - sparsity) ** (i / steps) for i in range(1, steps)] + [sparsity]


def halving(sparsity: float, rounds: int) -> list[float]:
    """s_i = rho - (rho - start) (1/2)^i for i = 0..n-2, then rho; start is 1/2, or rho / 2 where rho is at most 1/2.

    Source: Rachwan et al. 2022, algorithm 1, line 13 (CroPit). Deviation: there the start is always 1/2, which for
    rho < 1/2 removes more than was asked for.
    """
    start = 0.5 if sparsity > 0.5 else sparsity / 2
    return [sparsity - (sparsity - start) * 0.5**i for i in range(rounds - 1)] + [sparsity]
