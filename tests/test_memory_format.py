"""The memory format after a cut: measured once, told in the event, and restored by a run that resumes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from earlycrop import CRITERIA, Pruner, PrunerOptions
from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.rounds import memory_format
from earlycrop.selection import step_time
from earlycrop.utils.memory_format import is_channels_last, set_memory_format, trains_in_channels_last

FASTEST = PrunerOptions(memory_format="fastest")


@pytest.fixture(autouse=True)
def _few_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "MAX_PAIRS", 2)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 6, 6, generator=torch.manual_seed(1)), torch.tensor([0, 1, 2, 0])


def network(strided: int | None = None) -> nn.Sequential:
    """Convolutions and a linear layer; ``strided``: the inputs of a strided convolution of 1 x 1 among them."""
    torch.manual_seed(0)
    middle = [] if strided is None else [nn.Conv2d(16, strided, 3, padding=1), nn.ReLU(), nn.Conv2d(strided, 16, 1, 2)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *middle,
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def make_pruner(
    options: PrunerOptions, strided: int | None = None
) -> tuple[nn.Sequential, torch.optim.Optimizer, AveragedModel, Pruner]:
    model = network(strided)
    average, optimizer = AveragedModel(model), torch.optim.Adam(model.parameters(), 0.01, fused=True)
    pruner = Pruner(
        model, optimizer, loss, "earlycrop-s", 0.3, epochs=4, trigger=1, rounds=1, ema_models=average, options=options
    )
    return model, optimizer, average, pruner


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model.train(), batch()).backward()
        optimizer.step()


def pruned(options: PrunerOptions, strided: int | None = None) -> Any:
    model, optimizer, average, pruner = make_pruner(options, strided)
    pruner.step([batch()])
    train(model, optimizer)
    assert pruner.step([batch()]) is not None
    return model, optimizer, average, pruner


def test_a_model_that_trains_faster_so_goes_on_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "FASTER", float("inf"))
    model, optimizer, average, pruner = pruned(FASTEST)
    kept, kept_optimizer, _, kept_pruner = pruned(PrunerOptions())
    assert is_channels_last(model)
    assert is_channels_last(average)
    assert not is_channels_last(kept)
    assert "the memory format is channels last: a training step takes" in str(pruner.event)
    assert pruner.event.record()["notes"] == list(pruner.event.notes)
    assert kept_pruner.event.notes == ()
    assert "channels_last" not in kept_pruner.state_dict()
    assert pruner.event.layers == kept_pruner.event.layers
    for p in model.parameters():
        assert optimizer.state[p]["exp_avg"].stride() == p.stride()
    train(model, optimizer)
    train(kept, kept_optimizer)
    for a, b in zip(model.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_a_model_that_does_not_train_faster_so_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "FASTER", 0.0)
    model, _, _, pruner = pruned(FASTEST)
    kept = pruned(PrunerOptions())[0]
    assert "the memory format was kept, not changed to channels last: a training step takes" in str(pruner.event)
    for a, b in zip(model.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_a_model_that_torch_cannot_train_so_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement would break the memory of the process."""
    monkeypatch.setattr(memory_format, "FASTER", float("inf"))
    model, _, _, pruner = pruned(FASTEST, strided=6)
    assert not trains_in_channels_last(model)
    assert not is_channels_last(model)
    assert pruner.event.notes == ("the memory format is contiguous: torch cannot train this network in channels last",)


def test_a_later_cut_that_torch_cannot_train_so_goes_back() -> None:
    model, optimizer, average, _ = make_pruner(FASTEST, strided=6)
    train(model, optimizer)
    set_memory_format([model, average], [optimizer], torch.channels_last)
    note = memory_format.choose_memory_format(PruningContext.create(model, optimizer, loss, average), batch())
    assert note == "the memory format is contiguous: torch cannot train this network in channels last"
    for module in (model, average):
        assert all(p.is_contiguous() for p in module.parameters())
    assert all(optimizer.state[p]["exp_avg"].is_contiguous() for p in model.parameters())


def test_a_model_without_convolutions_has_nothing_to_choose() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, optimizer, loss, "earlycrop-s", 0.3, epochs=2, trigger=0, rounds=1, options=FASTEST)
    event = pruner.step([batch()])
    assert event is not None
    assert event.notes == ()


def test_a_step_that_cannot_be_measured_leaves_the_event() -> None:
    model, _, _, pruner = make_pruner(FASTEST)
    pruner.step([batch()])

    class Refusing(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("out of order")
            return super().forward(x)

    model[2] = Refusing()
    event = pruner.step([batch()])
    assert event is not None
    assert "the memory format was kept: a step could not be measured (ValueError:" in event.notes[0]
    assert not is_channels_last(model)


def test_a_run_that_resumes_has_the_format_and_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "FASTER", float("inf"))
    model, optimizer, _, pruner = pruned(FASTEST)
    train(model, optimizer)
    contiguous = {name: t.contiguous() for name, t in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        moments.update({name: t.contiguous() for name, t in moments.items()})
    file = io.BytesIO()
    torch.save((contiguous, state, pruner.state_dict()), file)
    file.seek(0)
    weights, moments, pruner_state = torch.load(file, weights_only=True)
    assert pruner_state["channels_last"]
    train(model, optimizer, steps=3)

    monkeypatch.setattr(memory_format, "FASTER", 0.0)  # nothing is measured again
    resumed, resumed_optimizer, average, _ = pruned(PrunerOptions())
    fresh = Pruner(
        resumed, resumed_optimizer, loss, "earlycrop-s", 0.3, epochs=4, trigger=1, rounds=1, ema_models=average,
        options=FASTEST,
    )  # fmt: skip
    resumed.load_state_dict(weights)
    resumed_optimizer.load_state_dict(moments)
    fresh.load_state_dict(pruner_state)
    assert is_channels_last(resumed)
    assert is_channels_last(average)
    train(resumed, resumed_optimizer, steps=3)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    assert fresh.state_dict()["channels_last"]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no memory format 'channels_last'"):
        PruningRequest(CRITERIA["crop"], True, [0.5], memory_format="channels_last")
