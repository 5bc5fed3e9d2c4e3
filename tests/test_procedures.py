"""What each method does around its pruning: penalties, rewinding, ticks and tocks, controls, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils

import earlycrop
from earlycrop import METHODS, Limits, Pruner, PrunerOptions, prune
from earlycrop.procedures.gate_decorators import GateDecorators
from earlycrop.procedures.lottery_ticket import LotteryTicket
from tests.pruner_arguments import unchecked_pruner, with_options
from tests.test_pruner import EPOCHS, data, loss, network, train_epoch, weights_left


def flat() -> nn.Module:
    """Without batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def started(method: str, sparsity: float = 0.5, **options: Any) -> tuple[Any, torch.optim.Optimizer, Pruner]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    pruner = Pruner(model, optimizer, loss, method, sparsity, **with_options(**{"epochs": EPOCHS, **options}))
    return model, optimizer, pruner


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
    for share, told in ((1.0, "must be a share of the epochs"), (-0.1, "must be"), (0.99, "leaves nothing to train")):
        with pytest.raises(ValueError, match=told):
            started("ltr", rewind=share)


def test_ticks_train_gates_and_classifier_only_and_tocks_have_a_penalty_with_a_gradient() -> None:
    model, optimizer, pruner = started("gatedecorators", 0.6, epochs=8, rounds=2, penalty=0.5)
    procedure = pruner._procedure
    assert isinstance(procedure, GateDecorators)
    phases = [procedure.phase(e) for e in range(1, 9)]
    assert phases == ["dense", "dense", "tick", "tock", "tick", "tock", "tune", "tune"]
    pruner.step(data())
    left = []
    for phase in phases:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        learning = {"1.weight", "4.weight", "9.weight", "9.bias"} if phase == "tick" else set(before)
        assert trained == learning
        if phase in ("tock", "tune"):
            optimizer.zero_grad()
            loss(model, data()[0]).backward()
            plain_gradient = model[1].weight.grad.clone()
            optimizer.step()
            more = model[1].weight.grad - plain_gradient
            expected = 0.5 * before["1.weight"].sign() if phase == "tock" else torch.zeros_like(more)
            torch.testing.assert_close(more, expected)
        train_epoch(model, optimizer, data())
        if phase == "tick":
            assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n not in learning)
            assert not torch.equal(model[1].weight, before["1.weight"])
        event = pruner.step(data())
        assert (event is not None) == (phase == "tick")
        if event is not None:
            left.append((event.dense, event.left, event.reason))
    dense = weights_left(network())
    assert [(d, reason) for d, _, reason in left] == [(dense, "tick 1 of 2"), (dense, "tick 2 of 2")]
    assert left[0][1] <= 0.7 * dense + 1
    assert weights_left(model) == left[1][1] <= 0.4 * dense
    assert not optimizer._optimizer_step_pre_hooks  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:asked to remove")  # the floor is above the target
@pytest.mark.parametrize("resumed", [False, True])
def test_shares_are_of_the_network_before_the_first_tick(resumed: bool, tmp_path: Path) -> None:
    limits = Limits(floors={"3": 0.4}, ceilings={"0": 0.5})
    model, optimizer, pruner = started("gatedecorators", 0.95, epochs=6, rounds=2, limits=limits)
    pruner.step(data())
    widths = []
    for epoch in range(6):
        train_epoch(model, optimizer, data())
        event = pruner.step(data())
        widths += [] if event is None else [event.layers]
        if resumed and epoch == 1:
            state = earlycrop.load_state(earlycrop.save_state(pruner.state_dict(), tmp_path / "state"))
            pruner.close()
            model, optimizer = copy.deepcopy((model, optimizer))
            pruner = Pruner(model, optimizer, loss, "gatedecorators", 0.95, epochs=6, rounds=2, limits=limits)
            pruner.load_state_dict(state)
    assert [each["3"][0] for each in widths] == [16, 16]
    assert model[3].out_channels == widths[-1]["3"][1] == 7, "0.4 of 16, rounded up"
    assert widths[0]["0"][1] <= 6


def test_a_layer_of_one_output_learns_in_ticks_if_it_is_the_last() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = Pruner(model, optimizer, lambda m, b: m(b).square().mean(), "gatedecorators", 0.4, epochs=4)
    for _ in range(2):
        pruner.step([torch.randn(5, 6)])
    assert pruner._procedure is not None
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"1.weight", "3.weight", "3.bias"}


def test_a_tick_whose_cut_failed_is_taken_again_after_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer, pruner = started("gatedecorators", 0.4, epochs=4)
    for _ in range(2):
        pruner.step(data())
        train_epoch(model, optimizer, data())
    with pytest.raises(ValueError, match="there is no batch"):
        pruner.step([])
    state = earlycrop.load_state(earlycrop.save_state(pruner.state_dict(), tmp_path / "state"))
    pruner.close()
    other, its_optimizer = copy.deepcopy((model, optimizer))
    resumed = Pruner(other, its_optimizer, loss, "gatedecorators", 0.4, epochs=4)
    resumed.load_state_dict(state)
    event = resumed.step(data())
    assert event is not None
    assert event.achieved >= 0.4


def test_a_buffer_that_grows_between_cuts_is_seen_as_it_is() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = network()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x) + self.seen.mean()

    model = Counted()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = Pruner(model, optimizer, loss, "gatedecorators", 0.4, epochs=6, rounds=2)
    for epoch in range(7):
        if epoch:
            train_epoch(model, optimizer, data())
        model.seen = torch.zeros(4 + epoch)
        pruner.step(data())
    assert len(pruner.events) == 2


def test_a_tick_ranks_all_gates_by_what_they_gathered() -> None:
    """The sum over the steps of |phi dL/dphi|, by hand, and the least of all layers go."""
    model, optimizer, pruner = started("gatedecorators", 0.4, of="nodes", epochs=4, penalty=0.0)
    pruner.step(data())
    train_epoch(model, optimizer, data())
    pruner.step(data())
    sums = {1: torch.zeros(12), 4: torch.zeros(16)}
    for batch in data():
        optimizer.zero_grad()
        loss(model, batch).backward()
        for layer in sums:
            sums[layer] += (model[layer].weight * model[layer].weight.grad).abs().detach()
        optimizer.step()
    scales = {layer: model[layer].weight.detach().clone() for layer in sums}
    event = pruner.step(data())
    assert event is not None
    assert event.left == 16  # of 28 nodes at most 60 %, 16.8, stay
    ranked = torch.cat([sums[1], sums[4]]).argsort()[12:].tolist()
    expected = torch.cat([scales[1], scales[4]])[sorted(ranked)]
    torch.testing.assert_close(torch.cat([model[1].weight, model[4].weight]).detach(), expected)


def test_early_bird_has_its_penalty_until_it_prunes() -> None:
    model, optimizer, pruner = started("earlybird", 0.5, epochs=8, penalty=0.3)
    pruner.step(data())
    pushed = []
    for _ in range(8):
        before = model[1].weight.detach().clone()
        optimizer.zero_grad()
        loss(model, data()[0]).backward()
        gradient = model[1].weight.grad.clone()
        optimizer.step()
        more = model[1].weight.grad - gradient
        pushed.append(bool(more.any()))
        if pushed[-1]:
            torch.testing.assert_close(more, 0.3 * before.sign())
        pruner.step(data())
    assert pruner.event is not None
    assert pushed == [True] * pruner.event.epoch + [False] * (8 - pruner.event.epoch)
    assert METHODS["earlybird"].penalty == 1e-4


def test_a_network_without_batch_norm_is_told_so() -> None:
    model = flat()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="gatedecorators puts its gates on the scales of batch norms, and this"):
        Pruner(model, optimizer, loss, "gatedecorators", epochs=EPOCHS)
    event = prune(model, loss, data(), "norm-scale", 0.5)
    assert event.notes == (
        "the network has no batch norm: the norm of the rows that produce a node replaced its scale",
    )
    assert prune(network(), loss, data(), "norm-scale", 0.5).notes == ()


@pytest.mark.parametrize("method", ["snip", "snap", "cropit-u", "cropit-s"])
def test_the_shuffled_control_keeps_each_layers_count_and_not_the_choice(method: str) -> None:
    counts, kept = [], []
    for shuffled in (False, True):
        model, _, pruner = started(method, 0.6, shuffled=shuffled, rounds=2 if method == "snip" else 1)
        before = {v for p in network().parameters() for v in p.flatten().tolist()} | {0.0}
        torch.manual_seed(5)
        event = pruner.step(data())
        assert event is not None
        counts.append(event.layers)
        assert (event.notes != ()) == shuffled
        kept.append([p.detach().flatten().tolist() for p in model.parameters()])
        assert {v for values in kept[-1] for v in values} <= before, "what is kept is as it was"
    assert counts[0] == counts[1]
    assert kept[0] != kept[1]


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
        assert [len(log) for log in logs] == [1, *[9] * (until - 1), *[0] * (EPOCHS - until)]


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
    ("method", "options", "told"),
    [
        ("crop-s", {"trigger": "sometimes"}, "there is no trigger 'sometimes': take one of before, lazy-regime, knee"),
        ("crop-s", {"trigger": "-3"}, "or the number of the epoch to prune after"),
        ("crop-s", {"trigger": 99}, "the trigger may wait until epoch 99, and there are"),
        ("ltr", {"trigger": "knee"}, "this method decides itself when to prune"),
        ("gatedecorators", {"epochs": 3}, "gatedecorators needs at least 4 epochs, and there are 3"),
        ("crop-s", {"optimizer_state": "lose"}, "optimizer_state must be 'keep' or 'reset', and is 'lose'"),
        ("taylor", {"epochs": 1}, "pruning after training needs at least 2 epochs"),
    ],
)
def test_what_cannot_be_is_refused(method: str, options: dict[str, Any], told: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    arguments = {"epochs": EPOCHS, **options}
    with pytest.raises(ValueError, match=told):
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
    assert pruner.event.epoch == 2, "the latest for six epochs"


def test_rewound_positions_end_where_a_training_ends() -> None:
    _, _, pruner = started("ltr", 0.9, rewind=0.5)
    procedure = pruner._procedure
    assert isinstance(procedure, LotteryTicket)
    assert procedure.position(procedure.total_epochs) == EPOCHS
