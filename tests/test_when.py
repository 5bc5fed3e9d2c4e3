"""Schedules and triggers against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from earlycrop.schedule import halving, linear, one_shot
from earlycrop.trigger import DEFINITIONS, AtEpoch, LazyRegime, lazy_regime


def test_halving_is_the_papers_schedule() -> None:
    assert halving(0.9, 5) == pytest.approx([0.5, 0.7, 0.8, 0.85, 0.9])  # .9 - .4, .9 - .2, .9 - .1, .9 - .05
    assert halving(0.98, 3) == pytest.approx([0.5, 0.74, 0.98])
    assert halving(0.3, 4) == pytest.approx([0.15, 0.225, 0.2625, 0.3])  # the authors' starts at .5 and overshoots


@pytest.mark.parametrize("schedule", [one_shot, linear, halving])
@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.51, 0.9, 0.999])
@pytest.mark.parametrize("rounds", [1, 2, 5, 30])
def test_every_schedule_rises_and_ends_on_the_target(schedule, sparsity: float, rounds: int) -> None:  # type: ignore[no-untyped-def]
    steps = schedule(sparsity, rounds)
    assert steps[-1] == sparsity
    assert all(0 < a <= b <= sparsity for a, b in itertools.pairwise(steps))


class Walk:
    """A model of one weight vector that is put where a test wants it."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1, bias=False).double()

    def at(self, x: float, y: float) -> nn.Module:
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[x, y]]))
        return self.model


def test_every_definition_by_hand() -> None:
    """w: (3, 4), then (3, 7), (3, 9), (3, 8.5): d = 3, 5, 4.5 with |w_0| = 5."""
    walk, trigger = Walk(), LazyRegime(0.0, latest=100)
    seen = []
    for epoch, at in enumerate([(3, 4), (3, 7), (3, 9), (3, 8.5)]):
        assert trigger.update(walk.at(*at), epoch) is None
        seen.append(trigger.log())
    assert seen[0] == {}
    assert seen[1] == {"distance": 3.0}
    assert seen[2]["unsquared"] == pytest.approx(2 / 3)
    assert seen[2]["squared"] == pytest.approx((25 - 9) / 9)
    assert seen[2]["squared_current"] == pytest.approx((25 - 9) / 25)
    assert seen[2]["algorithm1"] == pytest.approx((25 - 9) / 25)  # |w_0|^2 = 25 too
    assert seen[2]["authors"] == pytest.approx(1.0)  # e_2 is the yardstick
    assert seen[3]["unsquared"] == pytest.approx(0.5 / 3)
    assert seen[3]["algorithm1"] == pytest.approx((4.5**2 - 25) / 25)  # negative: the sign is kept
    assert seen[3]["authors"] == pytest.approx(abs(1.5 - 2) / 2)  # distances from (3, 7), by its norm


def test_the_lazy_regime_fires_at_the_threshold_and_says_why() -> None:
    walk, trigger = Walk(), LazyRegime(0.25, latest=9)
    reasons = [trigger.update(walk.at(0, y), epoch) for epoch, y in enumerate([0.0, 1.0, 2.0, 2.25])]
    assert reasons[:3] == [None, None, None]
    assert reasons[3] == "lazy regime: unsquared change 0.25, at most 0.25"


def test_not_before_the_earliest_and_not_after_the_latest() -> None:
    walk, trigger = Walk(), LazyRegime(0.5, latest=5, earliest=4)
    reasons = [trigger.update(walk.at(0, y), epoch) for epoch, y in enumerate([0.0, 1.0, 1.0, 1.0, 1.0])]
    assert [bool(r) for r in reasons] == [False, False, False, False, True]
    walk, trigger = Walk(), LazyRegime(0.5, latest=3)
    reasons = [trigger.update(walk.at(0, y), epoch) for epoch, y in enumerate([0.0, 1.0, 2.0, 3.0])]
    assert reasons[3] == "latest epoch 3: the unsquared change stayed above 0.5"
    assert reasons[:3] == [None] * 3


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_a_state_goes_on_where_it_was(definition: str) -> None:
    points = [(0.0, 1.0), (0.5, 2.0), (1.0, 2.5), (1.2, 2.7), (1.25, 2.8)]
    walk, whole = Walk(), LazyRegime(0.05, latest=50, definition=definition)
    logs = []
    for epoch, at in enumerate(points):
        whole.update(walk.at(*at), epoch)
        logs.append(whole.log())
    first = LazyRegime(0.05, latest=50, definition=definition)
    for epoch, at in enumerate(points[:3]):
        first.update(walk.at(*at), epoch)
    second = LazyRegime(0.05, latest=50, definition=definition)
    second.load_state_dict(first.state_dict())
    for epoch, at in enumerate(points[3:], start=3):
        second.update(walk.at(*at), epoch)
        assert second.log() == logs[epoch]


def test_weights_that_never_move_do_not_divide_by_zero() -> None:
    walk, trigger = Walk(), LazyRegime(0.5, latest=3)
    assert [trigger.update(walk.at(0, 0), epoch) for epoch in range(3)] == [None] * 3
    assert trigger.update(walk.at(0, 0), 3) is not None


def test_default_limits_are_shares_of_the_budget() -> None:
    trigger = lazy_regime(0.95, 80)
    assert (trigger.earliest, trigger.latest) == (4, 20)
    assert math.isclose(trigger.threshold, 0.05)
    assert (lazy_regime(0.9, 30).earliest, lazy_regime(0.9, 30).latest) == (2, 8)
    with pytest.raises(ValueError, match="needs at least 3 epochs"):
        lazy_regime(0.9, 2)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no definition 'cubed'"):
        LazyRegime(0.1, latest=5, definition="cubed")
    with pytest.raises(ValueError, match="the latest epoch to prune, 1, comes before the earliest, 2"):
        LazyRegime(0.1, latest=1)


def test_fixed_epochs() -> None:
    model = nn.Linear(1, 1)
    assert AtEpoch(0).update(model, 0) == "before training"
    assert [AtEpoch(2).update(model, e) for e in range(4)] == [None, None, "after epoch 2, as set", None]
    assert [AtEpoch(None).update(model, e) for e in range(4)] == [None] * 4
