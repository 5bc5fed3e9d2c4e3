"""Gate Decorators: ticks, tocks, and the gates on the scales of batch norms."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop import Limits, Pruner, prune
from earlycrop.procedures.gate_decorators import GateDecorators
from tests.toy import EPOCHS, data, loss, network, started, train_epoch, weights_left


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
        learning = {"1.weight", "4.weight", "9.weight", "9.bias"} if phase == "tick" else set(before)
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
            assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == learning
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
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(5, 6)).square().mean().backward()
    optimizer.step()
    learning = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
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


def test_a_network_without_batch_norm_is_refused_or_noted() -> None:
    model = flat()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="gatedecorators puts its gates on the scales of batch norms, and this"):
        Pruner(model, optimizer, loss, "gatedecorators", epochs=EPOCHS)
    event = prune(model, loss, data(), "norm-scale", 0.5)
    assert event.notes == (
        "the network has no batch norm: the norm of the rows that produce a node replaced its scale",
    )
    assert prune(network(), loss, data(), "norm-scale", 0.5).notes == ()


def flat() -> nn.Module:
    """Without batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
