"""Rewinding: what is put back, what is removed, and where a training ends."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.optim import swa_utils

from earlycrop import Pruner, PrunerOptions
from earlycrop.procedures.lottery_ticket import LotteryTicket
from tests.toy import EPOCHS, data, loss, network, started, train_epoch, weights_left


def test_rewinding_puts_back_parameters_buffers_optimizer_averages_and_schedulers() -> None:
    model, batches = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    pruner = Pruner(
        model,
        optimizer,
        loss,
        "ltr",
        0.5,
        epochs=4,
        ema_models=[ema],
        options=PrunerOptions(rewind=0.25, rewind_with=[scheduler]),
    )
    # 20 % of what is left each time: .2, .36, .488, and then exactly what was asked for
    assert pruner.total_epochs == 4 + 4 * 3
    pruner.step(batches)
    start: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    momentum: list[Tensor] = []
    rates, asked, positions = [], [], []
    for epoch in range(1, pruner.total_epochs + 1):
        train_epoch(model, optimizer, batches)
        scheduler.step()
        ema.update_parameters(model)
        event = pruner.step(batches)
        rates.append(optimizer.param_groups[0]["lr"])
        positions.append(pruner.position)
        if epoch == 1:
            start = {name: t.clone() for name, t in model.state_dict().items()}
            averaged = {name: t.clone() for name, t in ema.state_dict().items()}
            momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
        if event is None:
            continue
        asked.append(event.asked)
        assert event.epoch == epoch
        assert event.reason == f"training {len(asked)} of 5 is over; rewound to epoch 1"
        assert event.masks is not None
        for name, t in model.state_dict().items():
            gone = event.masks.removed.get(name, torch.zeros_like(t, dtype=torch.bool))
            assert torch.equal(t, start[name].masked_fill(gone, 0)), name
        for name, t in ema.state_dict().items():
            gone = event.masks.removed.get(name.removeprefix("module."), torch.zeros_like(t, dtype=torch.bool))
            assert torch.equal(t, averaged[name].masked_fill(gone, 0)), name
        for (name, p), before in zip(model.named_parameters(), momentum, strict=True):
            gone = event.masks.removed.get(name, torch.zeros_like(p, dtype=torch.bool))
            assert torch.equal(optimizer.state[p]["momentum_buffer"], before.masked_fill(gone, 0)), name
    assert asked == pytest.approx([0.2, 0.36, 0.488, 0.5])
    assert positions == [1, 2, 3, *[1, 2, 3] * 4, 4]
    assert rates == pytest.approx([0.05 * 0.5**position for position in positions])
    assert weights_left(model) == pruner.events[-1].left


def test_rewinding_removes_the_smallest_of_what_is_left() -> None:
    model, optimizer, pruner = started("ltr", 0.2, rewind=0.0)
    assert pruner.total_epochs == 2 * EPOCHS
    pruner.step(data())
    for _ in range(EPOCHS):
        trained = copy.deepcopy(dict(model.named_parameters()))
        train_epoch(model, optimizer, data())
        trained = {name: p.detach().clone() for name, p in model.named_parameters()}
        event = pruner.step(data())
    assert event is not None
    assert event.masks is not None
    sizes = torch.cat([trained[name][gone].abs() for name, gone in event.masks.removed.items()])
    rest = torch.cat([trained[name][~gone].abs() for name, gone in event.masks.removed.items()])
    assert (rest < sizes.max()).sum() <= 20, "but for a path of weights through the network"


def test_bad_rewinds_are_refused() -> None:
    for share, message in (
        (1.0, "must be a share of the epochs"),
        (-0.1, "must be"),
        (0.99, "leaves nothing to train"),
    ):
        with pytest.raises(ValueError, match=message):
            started("ltr", rewind=share)


def test_rewound_positions_end_where_a_training_ends() -> None:
    _, _, pruner = started("ltr", 0.9, rewind=0.5)
    procedure = pruner._procedure
    assert isinstance(procedure, LotteryTicket)
    assert procedure.position(procedure.total_epochs) == EPOCHS
