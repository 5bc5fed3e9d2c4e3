"""Losses and errors of depth regression by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.depth.metrics import Errors, berhu, l2
from tasks.runner.errors import RunError

TRUTH = torch.tensor([[[2.0, 0.0], [4.0, 1.0]]])
PREDICTED = torch.tensor([[[2.5, 9.0], [3.0, 0.0]]])


def test_losses_by_hand() -> None:
    assert float(l2(PREDICTED, TRUTH)) == pytest.approx((0.25 + 1 + 1) / 3)
    c = 1 / 5
    assert float(berhu(PREDICTED, TRUTH)) == pytest.approx(((0.25 + c * c) + 2 * (1 + c * c)) / (2 * c) / 3)
    close = TRUTH + torch.tensor([0.1, 1.0])
    # |x| = 0.1 and 0.1 are below a fifth of the largest, 1
    assert float(berhu(close, TRUTH)) == pytest.approx((0.1 + 0.1 + (1 + c * c) / (2 * c)) / 3)
    assert float(berhu(TRUTH, TRUTH)) == 0


def test_errors_by_hand_whatever_the_batches() -> None:
    errors = Errors()
    errors.add(PREDICTED, TRUTH)
    means = errors.means()
    assert means["rmse"] == pytest.approx(math.sqrt((0.25 + 1 + 1) / 3))
    assert means["rel"] == pytest.approx((0.25 + 0.25 + 1) / 3)
    # what is predicted at 0 counts as 1 cm there
    assert means["log10"] == pytest.approx((math.log10(1.25) + math.log10(4 / 3) + 2) / 3)
    assert (means["delta1"], means["delta2"], means["delta3"]) == pytest.approx((0, 2 / 3, 2 / 3))
    parts = Errors()
    parts.add(PREDICTED[:, :1], TRUTH[:, :1])  # one reading, and two in the other
    parts.add(PREDICTED[:, 1:], TRUTH[:, 1:])
    assert parts.means() == pytest.approx(means)
    with pytest.raises(RunError, match="no pixel that was evaluated has a reading"):
        Errors().means()
