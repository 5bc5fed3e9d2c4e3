"""Schedules against numbers worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from earlycrop.selection.schedules import exponential, halving, one_shot


def test_halving_is_the_papers_schedule() -> None:
    assert halving(0.9, 5) == pytest.approx([0.5, 0.7, 0.8, 0.85, 0.9])  # .9 - .4, .9 - .2, .9 - .1, .9 - .05
    assert halving(0.98, 3) == pytest.approx([0.5, 0.74, 0.98])
    assert halving(0.3, 4) == pytest.approx([0.15, 0.225, 0.2625, 0.3])  # the authors' starts at .5 and overshoots


def test_the_exponential_schedule_keeps_the_same_share_of_what_is_left_each_time() -> None:
    left = [1 - s for s in exponential(0.9, 1)]
    assert len(left) == 100
    assert [b / a for a, b in itertools.pairwise(left)] == pytest.approx([0.1**0.01] * 99)


@pytest.mark.parametrize("schedule", [one_shot, halving, exponential])
@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.51, 0.9, 0.999])
@pytest.mark.parametrize("rounds", [1, 2, 5, 30])
def test_every_schedule_rises_and_ends_on_the_target(schedule, sparsity: float, rounds: int) -> None:  # type: ignore[no-untyped-def]
    steps = schedule(sparsity, rounds)
    assert steps[-1] == sparsity
    assert all(0 < a <= b <= sparsity for a, b in itertools.pairwise(steps))
