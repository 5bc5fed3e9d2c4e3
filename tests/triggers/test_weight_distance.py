"""How far the weights have moved, by every definition, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from earlycrop.triggers.triggers import LazyRegime
from earlycrop.triggers.weight_distance import WeightDistance
from tests.triggers.vector import Moved


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


def test_a_state_goes_on_where_it_was() -> None:
    points = [(0.0, 1.0), (0.5, 2.0), (1.0, 2.5), (1.2, 2.7), (1.25, 2.8)]
    uninterrupted, first, second = (Moved(LazyRegime(0.05, latest=50)) for _ in range(3))
    logs = []
    for epoch, at in enumerate(points):
        uninterrupted.to(epoch, *at)
        logs.append(uninterrupted.distance.log())
    for epoch, at in enumerate(points[:3]):
        first.to(epoch, *at)
    second.distance.load_state_dict(first.distance.state_dict())
    for epoch, at in enumerate(points[3:], start=3):
        second.to(epoch, *at)
        assert second.distance.log() == logs[epoch]


def test_complex_weights_move_too() -> None:
    model = nn.ParameterDict({"real": torch.zeros(3), "complex": torch.zeros(2, dtype=torch.complex64)})
    distance = WeightDistance()
    for far in (0.0, 1.0, 3.0):
        with torch.no_grad():
            model["complex"].copy_(torch.tensor([3.0 + 4.0j, 0.0]) * far)
        distance.update(model)
    assert distance.history.from_start == [0.0, 5.0, 15.0]
