"""The learning rate of one cycle beside torch's."""

from __future__ import annotations

import pytest
import torch

from tasks.runner.training import one_cycle


def test_the_schedule_is_torch_s_one_cycle() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=1001)
    for step in range(1000):
        # torch counts its steps from 0 to the last, and its peak is a step before 30 %
        assert 2.0 * one_cycle(step / 1000) == pytest.approx(scheduler.get_last_lr()[0], rel=0.03, abs=1e-3)
        optimizer.step()
        scheduler.step()
