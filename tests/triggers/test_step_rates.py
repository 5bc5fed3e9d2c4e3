"""The sum of learning rates by which a trigger measures the weights' movement, in real training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop.triggers.step_rates import StepRates
from tests.toy import loss, mlp, train_epoch, vectors


def test_the_rates_of_all_steps_are_added_up_weighted_by_entries() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))  # 9 and 4 entries
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters()}], 0.2)
    rates = StepRates([optimizer])
    assert rates.take() is None
    for _ in range(3):
        optimizer.step()
    assert rates.take() == pytest.approx(3 * (0.1 * 9 + 0.2 * 4) / 13)
    assert rates.take() is None
    optimizer.param_groups[0]["lr"] = torch.tensor(0.2)
    optimizer.step()
    assert rates.take() == pytest.approx(0.2)
    rates.release()
    optimizer.step()
    assert rates.take() is None
    assert not optimizer._optimizer_step_post_hooks


def distances(schedule: list[float], **options: Any) -> list[dict[str, float]]:
    torch.manual_seed(0)
    model, data = mlp(), vectors(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", 0.5, epochs=8, **options)
    pruner.step(data)
    logs = []
    for rate in schedule:
        optimizer.param_groups[0]["lr"] = rate
        train_epoch(model, optimizer, data)
        pruner.step(data)
        logs.append(pruner.log())
    return logs


def test_the_change_by_the_rate_is_that_of_a_constant_rate_where_the_rate_is_constant() -> None:
    never = earlycrop.LazyRegime(0.0, latest=8)
    for log in distances([0.1] * 4, trigger=never)[1:]:
        assert log["per_rate"] == pytest.approx(log["unsquared"])
    warmed, constant = distances([1e-3, 0.1, 0.1], trigger=never), distances([0.1] * 3, trigger=never)
    assert warmed[1]["unsquared"] > 50 > constant[1]["unsquared"]  # a warm-up makes the first epoch a short yardstick
    assert warmed[1]["per_rate"] == pytest.approx(1, rel=0.2)


def test_a_copy_of_a_pruner_counts_the_steps_of_its_own_optimizer() -> None:
    torch.manual_seed(0)
    model, data = mlp(), vectors(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trigger = earlycrop.LazyRegime(0.0, latest=6)
    pruner = earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", 0.5, epochs=8, trigger=trigger)
    pruner.step(data)
    train_epoch(model, optimizer, data)
    pruner.step(data)
    other_model, other_optimizer, other = copy.deepcopy((model, optimizer, pruner))
    for _ in range(2):
        train_epoch(model, optimizer, data)
        pruner.step(data)
        train_epoch(other_model, other_optimizer, data)
        other.step(data)
    assert other.log() == pruner.log()
    assert pruner.log()["per_rate"] == pytest.approx(pruner.log()["unsquared"])


def test_after_the_cut_no_step_is_counted_and_no_hook_is_left() -> None:
    torch.manual_seed(0)
    model, data = mlp(), vectors(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", 0.5, epochs=4, trigger="lazy-regime")
    assert len(optimizer._optimizer_step_post_hooks) == 1
    for _ in range(3):
        pruner.step(data)
        train_epoch(model, optimizer, data)
    assert pruner.event is not None
    assert not optimizer._optimizer_step_post_hooks
