"""How far the masks of the last epochs differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from earlycrop.triggers.base import TriggerContext
from earlycrop.triggers.triggers import MaskDistance
from earlycrop.triggers.weight_distance import WeightDistance


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
