"""Requests and events: the range of each argument, how an event prints, and that its record is complete."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from earlycrop import CRITERIA, Event, Method, Pruner, PrunerOptions
from earlycrop.events import PruningRequest
from tests.toy import data, loss, network, sgd

EVENT = Event(
    reason="lazy regime: unsquared change 0.08, at most 0.1", epoch=7, of="weights", asked=0.9, achieved=0.91,
    dense=20_000, left=1_800, costs={"weights": (20_000, 1_800), "nodes": (96, 54), "macs": (1_000_000, 125_000)},
    weight_sparsity=0.91, node_sparsity=0.4375, rounds=5, floors=("1",), uncertified=(), difference=1.72e-7, batches=3,
    seconds=12.34, layers={"0": (32, 3), "1": (64, 51), "2": (10, 10)},
)  # fmt: skip


def test_an_event_prints_in_a_few_lines() -> None:
    assert str(EVENT).splitlines() == [
        "pruned at epoch 7: lazy regime: unsquared change 0.08, at most 0.1",
        "  weights  20,000 -> 1,800 (-91.0%)",
        "  nodes    96 -> 54 (-43.8%)",
        "  MACs     1,000,000 -> 125,000 (-87.5%)",
        "  target   90.00% of the weights, achieved 91.00%",
        "  layer 0: 32 -> 3 (-90.6%)",
        "  layer 1: 64 -> 51 (-20.3%)",
        "  certificate: differs from the masked dense network by at most 1.7e-07",
        "  rounds: 5, batches: 3, seconds: 12.3",
    ]
    other = str(replace(EVENT, of="time", dense=900, left=90, uncertified=("1.weight",), difference=None))
    assert "  µs/step  900 -> 90 (-90.0%)" in other
    assert "not cut, as the certificate failed: 1.weight" in other
    assert "certificate: differs" not in other


def test_a_record_is_all_of_an_event() -> None:
    assert Event.from_record(EVENT.record(), None) == EVENT


def test_a_pruner_prints_in_a_line() -> None:
    model = network()
    pruner = Pruner(model, sgd(model), loss, "crop-s", 0.5, epochs=4)
    assert str(pruner) == "Pruner(crop-s, 0.5 of the weights, epoch 0 of 4, not pruned yet)"
    pruner.step(data())
    assert str(pruner) == "Pruner(crop-s, 0.5 of the weights, epoch 0 of 4, pruned at epoch 0)"
    assert str(Pruner(model, sgd(model), loss, "dense", epochs=4)) == "Pruner(dense, epoch 0 of 4, not pruned yet)"


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (PruningRequest, {"targets": []}, r"the targets of the rounds must rise, and are \[\]"),
        (PruningRequest, {"targets": [0.6, 0.3]}, r"the targets of the rounds must rise, and are \[0.6, 0.3\]"),
        (PruningRequest, {"targets": [0.5], "gate": "middle"}, "there is no gate 'middle': take one of auto, rows"),
        (
            PruningRequest,
            {"targets": [0.5], "statistics": "old"},
            "there is no setting of statistics 'old': take one of auto",
        ),
        (Method, {"procedure": "rewnd"}, "there is no procedure 'rewnd', did you mean 'rewind'"),
        (PrunerOptions, {"penalty": -1.0}, "penalty must be 0 or more, and is -1.0"),
        (PrunerOptions, {"rewind": 1.0}, "rewind must be a share of the epochs, from 0 to below 1, and is 1.0"),
        (PrunerOptions, {"optimizer_state": "lose"}, "optimizer_state must be 'keep' or 'reset', and is 'lose'"),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, values: dict[str, Any], sentence: str) -> None:
    fields = {} if kind is PrunerOptions else {"criterion": CRITERIA["crop"], "structured": True}
    with pytest.raises(ValueError, match=sentence):
        unchecked(kind, {**fields, **values})


def unchecked(kind: Any, values: dict[str, Any]) -> None:
    """Check a dataclass as users make it, without the type checker of the tests, which would speak first."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    inspect.unwrap(kind.__post_init__)(made)
