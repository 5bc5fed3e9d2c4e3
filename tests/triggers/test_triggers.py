"""Triggers against numbers worked out by hand."""

from __future__ import annotations

import inspect
import math
from typing import get_args

import pytest
import torch
from torch import nn

from earlycrop.scoring.criteria import CRITERIA, CriterionName, Gate
from earlycrop.selection.targets import MEASURES, Measure
from earlycrop.triggers.base import Trigger, TriggerContext
from earlycrop.triggers.triggers import TRIGGERS, AtEpoch, Knee, LazyRegime, TriggerName, after, lazy_regime
from earlycrop.triggers.weight_distance import Definition, DistanceHistory, WeightDistance
from tests.triggers.vector import Moved


def along(trigger: Trigger, distances: list[float]) -> list[str | None]:
    """The reasons, as the weights move along a line."""
    moved = Moved(trigger)
    return [moved.to(epoch, 0, y) for epoch, y in enumerate(distances)]


def test_the_lazy_regime_fires_at_the_threshold_and_says_why() -> None:
    reasons = along(LazyRegime(0.25, latest=9), [0.0, 1.0, 2.0, 2.25])
    assert reasons[:3] == [None, None, None]
    assert reasons[3] == "lazy regime: the weights' change (per_rate) is 0.25, at most the threshold, 0.25"


def test_not_before_the_earliest_and_not_after_the_latest() -> None:
    reasons = along(LazyRegime(0.5, latest=5, earliest=4), [0.0, 1.0, 1.0, 1.0, 1.0])
    assert [bool(r) for r in reasons] == [False, False, False, False, True]
    reasons = along(LazyRegime(0.5, latest=3), [0.0, 1.0, 2.0, 3.0])
    assert reasons[3] == "latest epoch 3: the weights' change (per_rate) stayed above the threshold, 0.5"
    assert reasons[:3] == [None] * 3


def test_default_triggers_explain_threshold_and_latest_epoch() -> None:
    reason = along(lazy_regime(0.9, 8), [0.0, 1.0, 2.0, 3.0, 4.0])[4]
    assert reason == "latest epoch 4, half of the epochs: the weights' change (per_rate) stayed above 1 - sparsity, 0.1"
    reason = along(lazy_regime(0.9, 8), [0.0, 1.0, 2.0, 2.05])[3]
    assert reason == "lazy regime: the weights' change (per_rate) is 0.05, at most 1 - sparsity, 0.1"


ANNEALED = [0, 17.2, 37.8, 51.7, 55.5, 56.3, 56.9, 57.9, 58.9, 60, 61]
"""d_t of a ResNet18 under OneCycle, as it was measured: the movement falls until epoch 5, then keeps its level."""


def test_the_knee_is_seen_an_epoch_after_it_whatever_the_learning_rate() -> None:
    reasons = along(Knee(latest=20), ANNEALED)  # c = 17.2, 20.6, 13.9, 3.8, .8, .6, ..
    assert [bool(r) for r in reasons].index(True) == 6
    assert reasons[6] == "knee: the weights moved 0.0291 of the most in an epoch, and 0.75 of the epoch before"
    constant = along(Knee(latest=20), [0, 60.6, 61.6, 62.5])  # a constant rate, with no warm-up
    assert [bool(r) for r in constant] == [False, False, False, True]
    assert along(Knee(latest=4), [0, 1, 2, 3, 4])[4] == "latest epoch 4: the movement of the weights had no knee"
    assert along(Knee(latest=9, earliest=7), ANNEALED)[6] is None


def test_weights_that_never_move_do_not_divide_by_zero() -> None:
    for trigger in (LazyRegime(0.5, latest=3), Knee(latest=3)):
        assert [bool(r) for r in along(trigger, [0.0] * 4)] == [False, False, False, True]


def test_default_limits_are_shares_of_the_budget() -> None:
    trigger = lazy_regime(0.95, 80)
    assert isinstance(trigger, LazyRegime)
    assert (trigger.earliest, trigger.latest) == (4, 40)
    assert math.isclose(trigger.threshold, 0.05)
    assert lazy_regime(0.9, 30).latest == 15
    with pytest.raises(ValueError, match="needs at least 3 epochs"):
        lazy_regime(0.9, 2)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no definition of the lazy regime 'cubed'"):
        inspect.unwrap(LazyRegime.__init__)(LazyRegime.__new__(LazyRegime), 0.1, latest=5, definition="cubed")
    with pytest.raises(ValueError, match="the latest epoch to prune, 1, comes before the earliest, 2"):
        LazyRegime(0.1, latest=1)


def test_fixed_epochs() -> None:
    model = nn.Linear(1, 1)

    def reasons(trigger: Trigger, epochs: int = 4) -> list[str | None]:
        return [
            trigger.update(TriggerContext(model, e, WeightDistance(), lambda: torch.zeros(1))) for e in range(epochs)
        ]

    assert reasons(AtEpoch(0))[0] == "before training"
    assert reasons(AtEpoch(2)) == [None, None, "after epoch 2, as set", None]
    assert reasons(AtEpoch(None)) == [None] * 4
    assert reasons(after(0.9, 8), 8)[6] == "after epoch 6, the end of dense training"
    with pytest.raises(ValueError, match="needs at least 2 epochs"):
        after(0.9, 1)


@pytest.mark.parametrize("name", list(TRIGGERS))
def test_every_trigger_of_the_table_has_its_latest_epoch_within_the_budget(name: str) -> None:
    trigger = TRIGGERS[name](0.9, 40)
    assert isinstance(trigger, Trigger)
    assert trigger.latest == {"before": 0, "after": 30, "never": None}.get(name, 20)
    trigger.load_state_dict(trigger.state_dict())


class SmallStep(Trigger):
    """The example of the documentation."""

    latest = 20
    uses_weight_distance = True

    def update(self, context: TriggerContext) -> str | None:
        if context.epoch == self.latest:
            return "latest epoch"
        if context.epoch > 0 and context.distance.history.changes[-1] < 1:
            return "the weights moved less than 1"
        return None


def test_a_trigger_needs_nothing_but_a_decision() -> None:
    trigger = SmallStep()
    assert isinstance(trigger, Trigger)
    assert along(trigger, [0.0, 2.0, 4.0, 4.5]) == [None, None, None, "the weights moved less than 1"]
    assert trigger.log() == trigger.state_dict() == {}
    with pytest.raises(TypeError, match="abstract"):
        type("Undecided", (Trigger,), {})()


def test_the_names_in_the_types_are_those_of_the_tables() -> None:
    moved = WeightDistance()
    moved.history = DistanceHistory([0.0, 1.0, 2.0], [0.0, 1.0], 1.0)
    for names, table in (
        (CriterionName, CRITERIA),
        (TriggerName, TRIGGERS),
        (Definition, list(moved.values())[:-2]),
        (Measure, MEASURES),
    ):
        assert get_args(names) == tuple(table)
    assert {criterion.gate for criterion in CRITERIA.values()} <= set(get_args(Gate))
