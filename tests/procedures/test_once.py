"""When a method prunes: its own trigger, one by name or a number; what is logged until then, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from earlycrop import Pruner
from tests.pruner_arguments import unchecked_pruner, with_options
from tests.toy import EPOCHS, data, loss, network, started, train_epoch


def test_optimizers_start_afresh_after_a_pruning_if_asked() -> None:
    for state in ("keep", "reset"):
        model, optimizer, pruner = started("taylor", optimizer_state=state)
        pruner.step(data())
        for _ in range(EPOCHS):
            train_epoch(model, optimizer, data())
            if pruner.step(data()) is not None:
                assert (len(optimizer.state) == 0) == (state == "reset")
        assert pruner.event is not None


def test_watching_measures_all_that_triggers_look_at_whatever_prunes() -> None:
    for method in ("dense", "efficientconvnets"):
        model, optimizer, pruner = started(method, log_triggers=True)
        pruner.step(data())
        logs = []
        for _ in range(EPOCHS):
            train_epoch(model, optimizer, data())
            pruner.step(data())
            logs.append(pruner.log())
        until = EPOCHS if method == "dense" else 5
        assert [len(log) for log in logs] == [1, *[10] * (until - 1), *[0] * (EPOCHS - until)]


def test_the_watched_mask_distance_is_early_bird_s() -> None:
    """Whatever will prune, and whether or not the run was interrupted."""
    logs = []
    both: tuple[tuple[str, dict[str, Any]], ...] = (
        ("earlybird", {"penalty": 0.0, "log_triggers": False}), ("efficientconvnets", {"log_triggers": True})
    )  # fmt: skip
    for method, more in both:
        options = {**more, "epochs": 20}
        torch.manual_seed(1)
        model, optimizer, pruner = started(method, **options)
        pruner.step(data())
        seen = []
        for epoch in range(4):
            train_epoch(model, optimizer, data())
            pruner.step(iter(data()))
            seen.append(pruner.log().get("mask_distance"))
            if epoch == 2 and method != "earlybird":
                state = pruner.state_dict()
                pruner = Pruner(model, optimizer, loss, method, 0.5, **with_options(**options))
                pruner.load_state_dict(state)
        logs.append(seen)
    assert logs[0] == logs[1]
    assert logs[0][0] is None
    assert logs[0][3] > 0


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("crop-s", {"trigger": "sometimes"}, "there is no trigger 'sometimes': take one of before, lazy-regime, knee"),
        ("crop-s", {"trigger": "-3"}, "or the number of an epoch to prune after"),
        ("crop-s", {"trigger": 99}, "the trigger may wait until epoch 99, and there are"),
        ("ltr", {"trigger": "knee"}, "this method decides itself when to prune"),
        ("gatedecorators", {"epochs": 3}, "gatedecorators needs at least 4 epochs, and there are 3"),
        ("crop-s", {"optimizer_state": "lose"}, "optimizer_state must be 'keep' or 'reset', and is 'lose'"),
        ("taylor", {"epochs": 1}, "pruning after training needs at least 2 epochs"),
    ],
)
def test_impossible_options_are_refused(method: str, options: dict[str, Any], message: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    arguments = {"epochs": EPOCHS, **options}
    with pytest.raises(ValueError, match=message):
        unchecked_pruner(model=model, optimizer=optimizer, loss=loss, method=method, sparsity=0.5, **arguments)


@pytest.mark.parametrize("trigger", [3, "3"])
def test_a_number_is_the_epoch_to_prune_after(trigger: int | str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = unchecked_pruner(
        model=model, optimizer=optimizer, loss=loss, method="crop-s", epochs=EPOCHS, trigger=trigger
    )
    pruner.step(data())
    while pruner.event is None:
        train_epoch(model, optimizer, data())
        pruner.step(data())
    assert (pruner.event.epoch, pruner.event.reason) == (3, "after epoch 3, as set")


def test_a_trigger_that_cannot_fire_within_the_budget_is_refused() -> None:
    from earlycrop.triggers.triggers import AtEpoch

    with pytest.raises(ValueError, match="the trigger may wait until epoch 9, and there are 6"):
        started("crop-s", trigger=AtEpoch(9))


def test_triggers_by_name_take_the_place_of_a_method_s_own() -> None:
    model, optimizer, pruner = started("snap", trigger="knee")
    pruner.step(data())
    assert pruner.event is None
    for _ in range(EPOCHS):
        train_epoch(model, optimizer, data())
        pruner.step(data())
    assert pruner.event is not None
    assert pruner.event.epoch == 3, "the latest for six epochs"
