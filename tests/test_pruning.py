"""prune: one pruning, now; what it counts, what it keeps, and what it refuses."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop import CRITERIA, prune
from earlycrop.selection.targets import max_remaining
from tests.toy import data, loss, mlp, network, vectors, weights_left


def test_frozen_layers_are_not_the_first_to_go() -> None:
    model = mlp(6, 32, 32, 3)
    model[0].requires_grad_(False)  # its nodes are scored by the columns that consume them
    prune(model, loss, vectors(), sparsity=0.5)
    assert model[0].out_features > 10
    model = mlp(6, 32, 32, 3)
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    prune(model, loss, vectors(), sparsity=0.1)
    assert model[0].out_features == 32, "nothing that is trained produces or consumes it"
    assert model[2].out_features < 32


def test_several_matrices_of_one_module_are_not_one_layer() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.one).relu() @ self.two

    event = prune(Raw(), loss, vectors(), sparsity=0.5)
    assert event.node_sparsity == 0.5
    assert prune(Raw(), loss, vectors(), sparsity=0.5, of="nodes").left == 8


def test_weights_that_are_kept_are_not_changed() -> None:
    for structured in (True, False):
        model, batches = network(), data()
        before = copy.deepcopy(dict(model.named_parameters()))
        prune(model, loss, batches, sparsity=0.7, structured=structured)
        values = {v for p in before.values() for v in p.flatten().tolist()} | {0.0}
        assert all(v in values for p in model.parameters() for v in p.flatten().tolist())


@pytest.mark.parametrize(
    ("of", "criterion"),
    [
        pytest.param(of, criterion, marks=[] if criterion == "crop" or of == "macs" else pytest.mark.slow)
        for of in ("weights", "nodes", "macs", "bytes")
        for criterion in CRITERIA
    ],
)
def test_prune_meets_any_measure(criterion: str, of: str) -> None:
    model, batches = network(), data()
    event = prune(model, loss, batches[:1], criterion, 0.6, of, rounds=2)
    assert event.of == of
    left = earlycrop.trace(model, lambda m: loss(m, batches[0])).cost(of)
    if of == "nodes":  # of which a trace sees none in a layer of one
        left = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert event.left == left <= max_remaining(event.dense, 0.6)
    assert event.batches == 1


def test_bad_calls_of_prune_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="there is no criterion 'tailor'"):
        inspect.unwrap(prune)(model, loss, data(), "tailor")
    with pytest.raises(ValueError, match="there is no batch to score on"):
        prune(model, loss, [])
    with pytest.raises(ValueError, match="no node of this model can be removed: the model returns it") as raised:
        prune(nn.Linear(36, 3), lambda m, b: functional.cross_entropy(m(b[0].flatten(1)), b[1]), data())
    assert raised.value.__notes__[0].startswith("\n0 nodes can be removed.")
    with pytest.raises(ValueError, match=r"no node .*: none of its parameters is trained, so it has no score"):
        prune(network().requires_grad_(False), loss, data(), "snip")
    with pytest.raises(ValueError, match="no node of this model can be removed: no two layers follow each other"):
        prune(nn.Linear(36, 1), lambda m, b: m(b[0].flatten(1)).mean(), data())
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no trained weight matrix"):
        prune(frozen, loss, data(), structured=False)


def test_a_target_counts_what_can_go_and_frozen_matrices_stay() -> None:
    model = network()
    model[3].weight.requires_grad_(False)
    dense, frozen = weights_left(model), model[3].weight.numel()
    event = prune(model, loss, data(), "magnitude", 0.5, structured=False)
    assert (event.dense, event.left) == (dense - frozen, max_remaining(dense - frozen, 0.5))
    assert event.achieved == 0.5
    assert event.costs["weights"] == (dense, weights_left(model)) == (dense, frozen + event.left)
    assert event.weight_sparsity == 1 - weights_left(model) / dense
    assert int(model[3].weight.count_nonzero()) == frozen
    note = (
        f"the target does not count {frozen:,} of {dense:,} weights ({frozen / dense:.0%}), which stay, as they are not"
    )
    assert event.notes[0].startswith(note)
    assert event.notes[0].endswith(": '3.weight'")


def test_an_impossible_target_is_reported() -> None:
    model = network()
    with pytest.warns(
        UserWarning, match=r"asked to remove 99.90% of the weights, and 9\d.\d\d% could be removed: .* \(layers 0, 3\)"
    ):
        event = prune(model, loss, data(), sparsity=0.999)
    assert event.left > max_remaining(event.dense, 0.999)
    assert event.achieved < event.asked
    assert event.floors == ("0", "3")


def test_a_loss_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(earlycrop.FlowError, match="the loss is nan: it cannot be differentiated"):
        prune(mlp(), lambda m, b: loss(m, b) * float("nan"), vectors())


def test_expanded_and_lazy_buffers_survive_scoring() -> None:
    class Buffered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("position", torch.arange(3.0).expand(4, 3))
            self.register_buffer("cache", None)

        def forward(self, x: Tensor) -> Tensor:
            self.cache = torch.ones(2)
            return self.b(self.a(x).relu()) + self.position[0]

    model = Buffered()
    prune(model, loss, vectors(), sparsity=0.5)
    assert model.cache is None
    assert model.position.stride() == (0, 1)


def test_a_layer_that_keeps_few_of_its_weights_is_named_in_the_event_and_a_warning() -> None:
    model = mlp(6, 200, 100, 3)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    with pytest.warns(
        UserWarning, match=r"hardly anything is left of some layers \(layer 2 keeps 1 of its 20,000 weights"
    ):
        event = prune(model, loss, vectors(), "magnitude", 0.94, structured=False)
    kept = int((model[2].weight != 0).sum())
    assert kept < 400
    note = f"layer 2 keeps {kept} of its 20,000 weights, less than 2%"
    assert event.notes == (note,)
    assert f"  note: {note}" in str(event).splitlines()
    assert not prune(mlp(), loss, vectors(), "magnitude", 0.5, structured=False).notes
