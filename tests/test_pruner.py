"""Every method of the table in a real training loop, checkpoints in the middle of a run, and errors for bad input."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import CRITERIA, METHODS, Event, Pruner, PrunerOptions
from earlycrop.methods import Method
from earlycrop.selection.schedules import halving
from earlycrop.selection.targets import max_remaining
from earlycrop.triggers.triggers import AtEpoch, LazyRegime, after, before
from tests.pruner_arguments import unchecked_pruner
from tests.toy import EPOCHS, data, loss, network, train_epoch, weights_left

SLOW = pytest.mark.slow
PRUNING = [name for name, method in METHODS.items() if method.criterion is not None]
KINDS = ("random-s", "snip", "crop-s", "earlycrop-s", "earlycrop-u", "earlybird", "gatedecorators", "taylor")
"""A method of each procedure, trigger and kind of unit, but for ltr, which trains for longest."""


def run(method: str | Method, sparsity: float = 0.9, **options: Any) -> tuple[nn.Module, Pruner, list[Event | None]]:
    model, batches = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    pruner = Pruner(model, optimizer, loss, method, sparsity, epochs=EPOCHS, **options)
    events = [pruner.step(batches)]
    for _ in range(pruner.total_epochs):
        train_epoch(model, optimizer, batches)
        events.append(pruner.step(batches))
    return model, pruner, events


def dead(model: nn.Module) -> bool:
    return any(p.numel() == 0 or not bool(p.any()) for p in model.parameters() if p.ndim > 1)


def hooks_of(model: nn.Module, pruner: Pruner) -> int:
    """Hooks on parameters, modules and the optimizer that are none of masks."""
    optimizer: Any = pruner.optimizer
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return (
        on_modules + len(optimizer._optimizer_step_pre_hooks) + sum(bool(p._backward_hooks) for p in model.parameters())
    )


@cache
def full_run(method: str, sparsity: float) -> tuple[nn.Module, Pruner, list[Event | None]]:
    """One that several tests look at, and none changes."""
    return run(method, sparsity)


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [
        pytest.param(method, sparsity, marks=[] if sparsity == 0.9 or method in KINDS else SLOW)
        for method in PRUNING
        for sparsity in (0.3, 0.9)
    ],
)
def test_every_method_reaches_its_sparsity_within_its_budget(method: str, sparsity: float) -> None:
    dense = weights_left(network())
    model, pruner, events = full_run(method, sparsity)
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


@pytest.mark.parametrize("method", [m if m in KINDS else pytest.param(m, marks=SLOW) for m in METHODS])
def test_every_method_is_the_same_for_a_seed(method: str) -> None:
    first, _, events = full_run(method, 0.9)
    second, _, again = run(method)
    assert [e and {**e.record(), "seconds": 0} for e in events] == [e and {**e.record(), "seconds": 0} for e in again]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


RESUMED = [("earlycrop-s", EPOCHS), ("earlycrop-u", EPOCHS), ("snip", EPOCHS), ("dense", EPOCHS)]
RESUMED += [("earlybird", EPOCHS), ("gatedecorators", EPOCHS), ("taylor", EPOCHS), ("ltr", 16)]
AT_ONCE = [("earlycrop-s", 1), ("earlycrop-s", 4), ("earlycrop-u", 4), ("snip", 1), ("earlybird", 1)]
AT_ONCE += [("gatedecorators", 4), ("taylor", 4), ("ltr", 10)]
"""Before a pruning and after it, by each procedure; all other places are slow tests."""


@pytest.mark.parametrize(
    ("method", "after"),
    [
        pytest.param(name, after, marks=[] if (name, after) in AT_ONCE else SLOW)
        for name, epochs in RESUMED
        for after in range(epochs)
    ],
)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(method: str, after: int, tmp_path: Path) -> None:
    sparsity = 0.5 if method == "ltr" else 0.9
    reference, uninterrupted, events = full_run(method, sparsity)
    assert uninterrupted.total_epochs > after
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
    assert all(
        torch.equal(a, b) for a, b in zip(reference.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_batches_are_read_only_when_there_is_something_to_score() -> None:
    model = network()
    pruner = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "earlycrop-s", epochs=EPOCHS)

    def reading() -> Any:
        raise AssertionError("read too early")
        yield

    assert pruner.step(reading()) is None
    pruner.close()
    endless = (batch for _ in iter(int, 1) for batch in data())
    early = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "crop-u", epochs=EPOCHS, score_batches=2)
    event = early.step(endless)
    assert event is not None
    assert event.batches == 2


def test_custom_methods_and_triggers() -> None:
    custom_method = Method(CRITERIA["magnitude"], True, halving, lambda sparsity, epochs: AtEpoch(3))
    _, _, events = run(custom_method, 0.5, rounds=2)
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
        ["algorithm1", "authors", "distance", "fall", "level", "per_rate", "squared", "squared_current", "unsquared"]
    ] * 3
    assert logs[4:] == [{}, {}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"method": "earlycrop"},
            "there is no method 'earlycrop', did you mean 'earlycrop-u'\\? Take one of dense, random-u",
        ),
        ({"sparsity": 1.0}, "sparsity must be above 0 and below 1, and is 1.0"),
        ({"sparsity": 95.0}, "sparsity must be above 0 and below 1"),
        ({"of": "flops"}, "there is no measure 'flops': take one of weights, nodes, macs, bytes"),
        ({"method": "snip", "of": "nodes"}, "an unstructured method removes a share of the weights, not of the nodes"),
        ({"epochs": 0}, "epochs must be at least 1, and is 0"),
        ({"epochs": 2}, "early pruning needs at least 3 epochs"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"score_batches": 0}, "score_batches must be at least 1"),
        ({"gate": "middle"}, "there is no gate 'middle': take one of auto, rows, norms, columns"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=sentence):
        unchecked_pruner(model=model, optimizer=optimizer, loss=loss, **{"epochs": EPOCHS, **options})


def test_copies_of_the_dense_weights_and_a_batch_are_released_after_a_cut() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner = Pruner(model, optimizer, loss, "earlycrop-s", 0.8, epochs=EPOCHS, options=PrunerOptions(log_triggers=True))
    batches = data()
    pruner.step(batches)
    train_epoch(model, optimizer, batches)
    pruner.step(batches)
    distance = pruner._measurements.distance
    assert distance is not None
    references = [weakref.ref(t) for reference in distance._references for t in reference.values()]
    references.append(weakref.ref(batches[0][0]))
    while pruner.event is None:
        train_epoch(model, optimizer, batches)
        pruner.step(batches)
    del batches
    gc.collect()
    assert len(references) > 2
    assert not [ref for ref in references if ref() is not None]


def test_masks_of_earlier_rounds_are_released() -> None:
    pruner = run("ltr", 0.6)[1]
    assert len(pruner.events) > 2
    assert [event.masks is None for event in pruner.events] == [True] * (len(pruner.events) - 1) + [False]
