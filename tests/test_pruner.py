"""The seam: every method of the table through a real training loop, its checkpoints, and what it says of bad input."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop import CRITERIA, METHODS, Event, Pruner, PrunerOptions, prune
from earlycrop.methods import Method
from earlycrop.selection.schedules import halving
from earlycrop.selection.targets import max_remaining
from earlycrop.triggers.triggers import AtEpoch, LazyRegime, after, before

EPOCHS = 6
PRUNING = [name for name, method in METHODS.items() if method.criterion is not None]
ONCE = [name for name in PRUNING if METHODS[name].procedure == "once"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 3),
    )  # fmt: skip


def data() -> list[tuple[Tensor, Tensor]]:
    """Three classes told apart by where the light is."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (96,), generator=g)
    x = torch.randn(96, 1, 6, 6, generator=g) * 0.3
    for i in range(96):
        x[i, 0, 2 * y[i] : 2 * y[i] + 2] += 1
    return list(zip(x.split(32), y.split(32), strict=True))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> None:
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def run(method: str | Method, sparsity: float = 0.9, **options: Any) -> tuple[nn.Module, Pruner, list[Event | None]]:
    model, batches = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    pruner = Pruner(model, optimizer, loss, method, sparsity, epochs=EPOCHS, **options)
    events = [pruner.step(batches)]
    for _ in range(pruner.total_epochs):
        train_epoch(model, optimizer, batches)
        events.append(pruner.step(batches))
    return model, pruner, events


def weights_left(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)


def dead(model: nn.Module) -> bool:
    return any(p.numel() == 0 or not bool(p.any()) for p in model.parameters() if p.ndim > 1)


def hooks_of(model: nn.Module, pruner: Pruner) -> int:
    """Hooks on parameters, modules and the optimizer that are none of masks."""
    optimizer: Any = pruner.optimizer
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return (
        on_modules + len(optimizer._optimizer_step_pre_hooks) + sum(bool(p._backward_hooks) for p in model.parameters())
    )


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
@pytest.mark.parametrize("method", PRUNING)
def test_every_method_reaches_its_sparsity_within_its_budget(method: str, sparsity: float) -> None:
    dense = weights_left(network())
    model, pruner, events = run(method, sparsity)
    fired = [e for e in events if e is not None]
    row = METHODS[method]
    event = fired[-1]
    assert event is pruner.event
    assert fired == pruner.events
    assert event.epoch == len(events) - 1 - events[::-1].index(event) <= pruner.total_epochs
    assert (pruner.total_epochs == EPOCHS) == (method != "ltr")
    assert hooks_of(model, pruner) == 0
    assert all(p.requires_grad for p in model.parameters())
    if row.procedure == "once":
        assert len(fired) == 1
        assert (event.epoch == 0) == (row.trigger is before)
        assert event.rounds == (100 if method == "synflow" else 5 if row.schedule is halving else 1)
        assert (event.epoch == 5) == (row.trigger is after)
    assert event.left == max_remaining(dense, sparsity) or METHODS[method].structured
    assert event.left <= max_remaining(dense, sparsity)
    assert weights_left(model) == event.left
    assert event.achieved == event.weight_sparsity == 1 - event.left / dense
    assert not dead(model)
    assert (event.node_sparsity > 0) == METHODS[method].structured
    if METHODS[method].structured:
        assert event.difference is not None
        assert event.difference <= 1e-5
    accuracy = sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in data()) / 96
    if sparsity < 0.5:
        assert accuracy > 0.6 if row.trigger is after else accuracy > 0.8, "the pruned network no longer learns"


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m in ("synflow", "ltr") else m for m in METHODS]
)
def test_every_method_is_the_same_for_a_seed(method: str) -> None:
    first, _, events = run(method)
    second, _, again = run(method)
    assert [e and {**e.record(), "seconds": 0} for e in events] == [e and {**e.record(), "seconds": 0} for e in again]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


RESUMED = [("earlycrop-s", EPOCHS), ("earlycrop-u", EPOCHS), ("snip", EPOCHS), ("dense", EPOCHS)]
RESUMED += [("earlybird", EPOCHS), ("gatedecorators", EPOCHS), ("taylor", EPOCHS), ("ltr", 16)]


@cache
def uninterrupted(method: str, sparsity: float) -> tuple[dict[str, Tensor], int, list[Event | None]]:
    """The final state of a whole run, its epochs and its events: the same for all places where others are cut off."""
    model, pruner, events = run(method, sparsity)
    return model.state_dict(), pruner.total_epochs, events


@pytest.mark.parametrize(
    ("method", "after"),
    [
        pytest.param(name, after, marks=[] if name == "earlycrop-s" or after in (1, 4, 10) else pytest.mark.slow)
        for name, epochs in RESUMED
        for after in range(epochs)
    ],
)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(method: str, after: int, tmp_path: Path) -> None:
    sparsity = 0.5 if method == "ltr" else 0.9
    whole, epochs, events = uninterrupted(method, sparsity)
    assert epochs > after
    model, batches = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    pruner = Pruner(model, optimizer, loss, method, sparsity, epochs=EPOCHS)
    pruner.step(batches)
    for _ in range(after):
        train_epoch(model, optimizer, batches)
        pruner.step(batches)
    earlycrop.save(model, tmp_path)
    state = {"optimizer": optimizer.state_dict(), "pruner": pruner.state_dict(), "rng": torch.get_rng_state()}
    earlycrop.save_state(state, tmp_path / "state")

    state = earlycrop.load_state(tmp_path / "state")
    model = earlycrop.load(tmp_path, network())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    optimizer.load_state_dict(state["optimizer"])
    pruner = Pruner(model, optimizer, loss, method, sparsity, epochs=EPOCHS)
    pruner.load_state_dict(state["pruner"])
    torch.set_rng_state(state["rng"])
    for epoch in range(after, pruner.total_epochs):
        train_epoch(model, optimizer, batches)
        event = pruner.step(batches)
        expected = events[epoch + 1]
        assert (event is None) == (expected is None)
        if event is not None and expected is not None:
            assert {**event.record(), "seconds": 0} == {**expected.record(), "seconds": 0}
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), model.state_dict().values(), strict=True))


def test_weights_that_are_kept_are_not_changed() -> None:
    for structured in (True, False):
        model, batches = network(), data()
        before = copy.deepcopy(dict(model.named_parameters()))
        prune(model, loss, batches, sparsity=0.7, structured=structured)
        values = {v for p in before.values() for v in p.flatten().tolist()} | {0.0}
        assert all(v in values for p in model.parameters() for v in p.flatten().tolist())


@pytest.mark.parametrize("criterion", list(CRITERIA))
@pytest.mark.parametrize("of", ["weights", "nodes", "macs", "bytes"])
def test_prune_meets_any_measure(criterion: str, of: str) -> None:
    model, batches = network(), data()
    event = prune(model, loss, batches[:1], criterion, 0.6, of, rounds=2)
    assert event.of == of
    left = earlycrop.trace(model, lambda m: loss(m, batches[0])).cost(of)
    if of == "nodes":  # of which a trace sees none in a layer of one
        left = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert event.left == left <= max_remaining(event.dense, 0.6)
    assert event.batches == 1


def test_batches_are_read_only_when_there_is_something_to_score() -> None:
    model = network()
    pruner = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "earlycrop-s", epochs=EPOCHS)

    def reading() -> Any:
        raise AssertionError("read too early")
        yield

    assert pruner.step(reading()) is None
    endless = (batch for _ in iter(int, 1) for batch in data())
    early = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "crop-u", epochs=EPOCHS, score_batches=2)
    event = early.step(endless)
    assert event is not None
    assert event.batches == 2


def test_methods_and_triggers_can_be_ones_own() -> None:
    mine = Method(CRITERIA["magnitude"], True, halving, lambda sparsity, epochs: AtEpoch(3))
    _, _, events = run(mine, 0.5, rounds=2)
    assert [e is not None for e in events] == [False] * 3 + [True] + [False] * 3
    _, pruner, events = run("crop-u", trigger=LazyRegime(10.0, latest=4))
    assert events[2] is not None
    assert events[2].reason.startswith("lazy regime")
    assert pruner.log() == {}


def test_the_trigger_is_logged_every_epoch_until_it_fires() -> None:
    model, batches = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    pruner = Pruner(model, optimizer, loss, "earlycrop-u", 0.9, epochs=EPOCHS, trigger=LazyRegime(0.0, latest=4))
    pruner.step(batches)
    logs = []
    for _ in range(EPOCHS):
        train_epoch(model, optimizer, batches)
        pruner.step(batches)
        logs.append(pruner.log())
    assert [sorted(log) for log in logs[1:4]] == [
        ["algorithm1", "authors", "distance", "fall", "level", "squared", "squared_current", "unsquared"]
    ] * 3
    assert logs[4:] == [{}, {}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "earlycrop"}, "there is no method 'earlycrop': take one of dense, random-u"),
        ({"sparsity": 1.0}, "sparsity must be above 0 and below 1, and is 1.0"),
        ({"sparsity": 95.0}, "sparsity must be above 0 and below 1"),
        ({"of": "flops"}, "there is no measure 'flops': a sparsity can be a share of weights, nodes, macs, bytes"),
        ({"method": "snip", "of": "nodes"}, "an unstructured method removes a share of the weights, not of the nodes"),
        ({"epochs": 0}, "epochs must be at least 1, and is 0"),
        ({"epochs": 2}, "early pruning needs at least 3 epochs"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"score_batches": 0}, "score_batches must be at least 1"),
        ({"gate": "middle"}, "there is no gate 'middle'"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=sentence):
        Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, **{"epochs": EPOCHS, **options})


def test_bad_calls_of_prune_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="there is no criterion 'tailor'"):
        prune(model, loss, data(), "tailor")
    with pytest.raises(ValueError, match="there is no batch to score on"):
        prune(model, loss, [])
    with pytest.raises(ValueError, match="no node of this model can be removed"):
        prune(nn.Linear(36, 3), lambda m, b: functional.cross_entropy(m(b[0].flatten(1)), b[1]), data())
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no trained weight matrix"):
        prune(frozen, loss, data(), structured=False)


def test_frozen_matrices_count_and_stay() -> None:
    model = network()
    model[3].weight.requires_grad_(False)
    dense, frozen = weights_left(model), model[3].weight.numel()
    event = prune(model, loss, data(), "magnitude", 0.1, structured=False)
    assert weights_left(model) == event.left == max_remaining(dense, 0.1)
    assert int(model[3].weight.count_nonzero()) == frozen


def test_an_impossible_target_is_reported() -> None:
    model = network()
    with pytest.warns(
        UserWarning, match=r"asked to remove 99.90% of the weights, and 9\d.\d\d% could be removed: .* \(0, 3\)"
    ):
        event = prune(model, loss, data(), sparsity=0.999)
    assert event.left > max_remaining(event.dense, 0.999)
    assert event.achieved < event.asked
    assert event.floors == ("0", "3")


def test_copies_of_the_dense_weights_and_a_batch_are_let_go_of_after_a_cut() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = Pruner(model, optimizer, loss, "earlycrop-s", 0.8, epochs=EPOCHS, options=PrunerOptions(log_triggers=True))
    batches = data()
    pruner.step(batches)
    train_epoch(model, optimizer, batches)
    pruner.step(batches)
    assert pruner._distance is not None
    held = [weakref.ref(t) for reference in pruner._distance._references for t in reference.values()]
    held.append(weakref.ref(batches[0][0]))
    while pruner.event is None:
        train_epoch(model, optimizer, batches)
        pruner.step(batches)
    del batches
    gc.collect()
    assert len(held) > 2
    assert not [ref for ref in held if ref() is not None]


def test_masks_of_earlier_rounds_are_let_go_of() -> None:
    pruner = run("ltr", 0.6)[1]
    assert len(pruner.events) > 2
    assert [event.masks is None for event in pruner.events] == [True] * (len(pruner.events) - 1) + [False]
