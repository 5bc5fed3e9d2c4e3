"""Schedules and triggers against numbers worked out by hand."""

from __future__ import annotations

import inspect
import itertools
import math
from typing import get_args

import pytest
import torch
from torch import nn

from earlycrop.scoring.criteria import CRITERIA, CriterionName, Gate
from earlycrop.selection.schedules import exponential, halving, one_shot
from earlycrop.selection.targets import MEASURES, Measure
from earlycrop.triggers.triggers import (
    TRIGGERS,
    AtEpoch,
    Knee,
    LazyRegime,
    MaskDistance,
    Trigger,
    TriggerContext,
    TriggerName,
    after,
    lazy_regime,
)
from earlycrop.triggers.weight_distance import DEFINITIONS, Definition, WeightDistance


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


class Moved:
    """A model of one weight vector that is put where a test wants it, and a trigger that looks at it."""

    def __init__(self, trigger: Trigger) -> None:
        self.model = nn.Linear(2, 1, bias=False).double()
        self.trigger, self.distance = trigger, WeightDistance()

    def to(self, epoch: int, x: float, y: float) -> str | None:
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[x, y]]))
        self.distance.update(self.model)
        return self.trigger.update(
            TriggerContext(self.model, epoch, self.distance, lambda: torch.zeros(3, dtype=torch.bool))
        )


def along(trigger: Trigger, distances: list[float]) -> list[str | None]:
    """The reasons, as the weights move along a line."""
    moved = Moved(trigger)
    return [moved.to(epoch, 0, y) for epoch, y in enumerate(distances)]


def test_every_definition_by_hand() -> None:
    """w: (3, 4), then (3, 7), (3, 9), (3, 8.5): d = 3, 5, 4.5 with |w_0| = 5."""
    moved = Moved(LazyRegime(0.0, latest=100))
    seen = []
    for epoch, at in enumerate([(3, 4), (3, 7), (3, 9), (3, 8.5)]):
        assert moved.to(epoch, *at) is None
        seen.append(moved.distance.log())
    assert seen[0] == {}
    assert seen[1] == {"distance": 3.0}
    assert seen[2]["unsquared"] == pytest.approx(2 / 3)
    assert seen[2]["squared"] == pytest.approx((25 - 9) / 9)
    assert seen[2]["squared_current"] == pytest.approx((25 - 9) / 25)
    assert seen[2]["algorithm1"] == pytest.approx((25 - 9) / 25)  # |w_0|^2 = 25 too
    assert seen[2]["authors"] == pytest.approx(1.0)  # e_2 is the yardstick
    assert (seen[2]["fall"], seen[2]["level"]) == pytest.approx((2 / 3, 2 / 3))  # c = 3, 2
    assert seen[3]["unsquared"] == pytest.approx(0.5 / 3)
    assert seen[3]["algorithm1"] == pytest.approx((4.5**2 - 25) / 25)  # negative: the sign is kept
    assert seen[3]["authors"] == pytest.approx(abs(1.5 - 2) / 2)  # distances from (3, 7), by its norm
    assert (seen[3]["fall"], seen[3]["level"]) == pytest.approx((0.5 / 2, 0.5 / 3))


def test_the_lazy_regime_fires_at_the_threshold_and_says_why() -> None:
    reasons = along(LazyRegime(0.25, latest=9), [0.0, 1.0, 2.0, 2.25])
    assert reasons[:3] == [None, None, None]
    assert reasons[3] == "lazy regime: unsquared change 0.25, at most 0.25"


def test_not_before_the_earliest_and_not_after_the_latest() -> None:
    reasons = along(LazyRegime(0.5, latest=5, earliest=4), [0.0, 1.0, 1.0, 1.0, 1.0])
    assert [bool(r) for r in reasons] == [False, False, False, False, True]
    reasons = along(LazyRegime(0.5, latest=3), [0.0, 1.0, 2.0, 3.0])
    assert reasons[3] == "latest epoch 3: the unsquared change stayed above 0.5"
    assert reasons[:3] == [None] * 3


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


def test_the_mask_distance_by_hand() -> None:
    """Ten units; the mask of each epoch given by what it removes."""
    masks = [{0}, {0, 1}, {0, 2}, {0, 2}, {0, 2}, {0, 2}, {0, 2}]
    trigger = MaskDistance(latest=50, below=0.2, masks=4)
    worst, reasons = [], []
    model = nn.Linear(1, 1)
    for epoch in range(8):
        mask = torch.tensor([i in masks[max(epoch - 1, 0)] for i in range(10)])
        reasons.append(trigger.update(TriggerContext(model, epoch, WeightDistance(), lambda mask=mask: mask)))  # type: ignore[misc]
        worst.append(trigger.log().get("mask_distance"))
    assert worst[:2] == [None, None], "one mask has nothing to differ from"
    assert worst[2:] == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.0, 0.0])
    assert [bool(r) for r in reasons] == [False] * 6 + [True, True]
    assert reasons[6] == "the masks of the last 4 epochs differ by 0, less than 0.2"
    again = MaskDistance(latest=50, below=0.2, masks=4)
    again.load_state_dict(trigger.state_dict())
    assert [m.tolist() for m in again.history.masks] == [m.tolist() for m in trigger.history.masks]
    late = MaskDistance(latest=2)
    reasons = [
        late.update(TriggerContext(model, e, WeightDistance(), lambda e=e: torch.arange(4) < e)) for e in range(3)
    ]  # type: ignore[misc]
    assert reasons[2] == "latest epoch 2: the masks of the last 2 epochs still differed by 0.25"


def test_a_state_goes_on_where_it_was() -> None:
    points = [(0.0, 1.0), (0.5, 2.0), (1.0, 2.5), (1.2, 2.7), (1.25, 2.8)]
    whole, first, second = (Moved(LazyRegime(0.05, latest=50)) for _ in range(3))
    logs = []
    for epoch, at in enumerate(points):
        whole.to(epoch, *at)
        logs.append(whole.distance.log())
    for epoch, at in enumerate(points[:3]):
        first.to(epoch, *at)
    second.distance.load_state_dict(first.distance.state_dict())
    for epoch, at in enumerate(points[3:], start=3):
        second.to(epoch, *at)
        assert second.distance.log() == logs[epoch]


def test_weights_that_never_move_do_not_divide_by_zero() -> None:
    for trigger in (LazyRegime(0.5, latest=3), Knee(latest=3)):
        assert [bool(r) for r in along(trigger, [0.0] * 4)] == [False, False, False, True]


def test_default_limits_are_shares_of_the_budget() -> None:
    trigger = lazy_regime(0.95, 80)
    assert isinstance(trigger, LazyRegime)
    assert (trigger.earliest, trigger.latest) == (4, 20)
    assert math.isclose(trigger.threshold, 0.05)
    assert lazy_regime(0.9, 30).latest == 8
    with pytest.raises(ValueError, match="needs at least 3 epochs"):
        lazy_regime(0.9, 2)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no definition 'cubed'"):
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
    for names, table in (
        (CriterionName, CRITERIA),
        (TriggerName, TRIGGERS),
        (Definition, DEFINITIONS),
        (Measure, MEASURES),
    ):
        assert get_args(names) == tuple(table)
    assert {criterion.gate for criterion in CRITERIA.values()} <= set(get_args(Gate))


@pytest.mark.parametrize("name", list(TRIGGERS))
def test_every_trigger_is_one_and_has_its_latest_epoch_within_the_budget(name: str) -> None:
    trigger = TRIGGERS[name](0.9, 40)
    assert isinstance(trigger, Trigger)
    assert trigger.latest == {"before": 0, "after": 30, "never": None}.get(name, 10)
    trigger.load_state_dict(trigger.state_dict())


def test_complex_weights_move_too() -> None:
    model = nn.ParameterDict({"real": torch.zeros(3), "complex": torch.zeros(2, dtype=torch.complex64)})
    distance = WeightDistance()
    for far in (0.0, 1.0, 3.0):
        with torch.no_grad():
            model["complex"].copy_(torch.tensor([3.0 + 4.0j, 0.0]) * far)
        distance.update(model)
    assert distance.history.from_start == [0.0, 5.0, 15.0]
