"""Random networks, random cuts: the small network computes what the masked one does.

The oracle knows nothing of the library's own certificate: a copy in which every entry of the removed nodes is zero.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop import shrink, trace
from earlycrop.graph.graph import Graph
from tests.networks.blocks import State
from tests.networks.blocks.composites import WORDS, drawn
from tests.networks.grammar import KINDS, Recipe, build, inputs, recipes
from tests.oracles import some_nodes, zeroed

pytestmark = pytest.mark.usefixtures("without_type_checks")

SHARES = (0.1, 0.3, 0.5, 0.8, 0.99)
"""Of the nodes that are removed, before one is put back in every dimension that would be empty."""


def outputs(model: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [t for t in tree_leaves(model(*example)) if isinstance(t, Tensor)]


def cuttable(graph: Graph, share: float, number: int) -> list[int]:
    """A random choice that leaves at least one node in every dimension, and an LSTM more units than projections."""
    remove = set(some_nodes(graph, share, number))
    slots = {(slot.tensor, slot.dim): slot.nodes for slot in graph.axes}
    for tensor in {tensor for tensor, _ in slots if "weight_hr_l" in tensor}:
        units, projections = (slots.get((tensor, dim), np.zeros(1, int)).tolist() for dim in (1, 0))
        gone = [i for i in units if i in remove]
        left = len(projections) if len(projections) == 1 else sum(i not in remove for i in projections)
        remove -= set(gone[: max(0, left + 1 - (len(units) - len(gone)))])
    return sorted(remove)


def silenced(model: nn.Module, graph: Graph, remove: list[int]) -> nn.Module:
    """A copy in which all that the removed nodes own is zero.

    Of a row under weight norm it is the length: of a direction of zeros there is none.
    """
    masked = zeroed(model, graph, remove)
    for name, direction in model.named_parameters():
        if name.endswith("parametrizations.weight.original1"):
            masked.get_parameter(name).data.copy_(direction)
    return masked


def cut(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, share: float, number: int) -> int:
    """Cut the model, and compare it with the masked copy on its example and on another input; how many nodes went."""
    example = inputs(recipe)
    graph = trace(model, example)
    remove = cuttable(graph, share, number)
    masked = silenced(model, graph, remove)
    predicted = graph.cost("weights", graph.mask(remove))
    made = shrink(model, graph, remove, optimizer)
    assert made.nodes == len(remove)
    assert made.weights_after == predicted == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in parameters] == [id(p) for p in model.parameters()]
    assert all(p.shape == p.grad.shape == optimizer.state[p]["exp_avg"].shape for p in parameters)
    for x in (example, inputs(recipe)):
        for a, b in zip(outputs(masked, x), outputs(model, x), strict=True):
            assert bool(a.isfinite().all())
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(float(a.abs().max()), 1e-3))
    return len(remove)


def check(recipe: Recipe) -> int:
    """Two cuts, one after the other, in the middle of training; how many nodes went in the first."""
    model, example = build(recipe)
    assert all(bool(t.isfinite().all()) for t in outputs(model, example))
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 0.1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    optimizer.step()
    removed = cut(model, optimizer, recipe, SHARES[recipe.seed % len(SHARES)], recipe.seed)
    cut(model, optimizer, recipe, 0.3, recipe.seed + 1)
    return removed


def check_many(kind: str, number: int, count: int) -> None:
    removed: dict[Recipe, int] = {}

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(recipes(kind))
    def every(recipe: Recipe) -> None:
        removed[recipe] = check(recipe)

    every()
    assert len(removed) >= 0.7 * count, "most networks are different ones"
    assert sum(n > 0 for n in removed.values()) >= 0.5 * len(removed), "most networks lose something"


@pytest.mark.parametrize("kind", KINDS)
def test_random_networks(kind: str) -> None:
    check_many(kind, 0, 5)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_networks(kind: str, number: int) -> None:
    check_many(kind, number, 70)


STARTS = {
    "vector": State("vector", 5),
    "tokens": State("tokens", 11, (4,)),
    "sequence": State("sequence", 5, (4,)),
    "image1": State("image", 5, (6,)),
    "image2": State("image", 5, (4, 4)),
    "image3": State("image", 5, (2, 3, 2)),
}
FIRST = {"vector": ("linear", 8, True), "sequence": ("linear", 8, True), "image": ("conv", 8, 3, 1, 1, 1, "bias")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(WORDS))
def test_every_block_after_a_layer_of_eight(name: str, kind: str) -> None:
    start = STARTS[kind]
    if start.kind not in WORDS[name].kinds:
        pytest.skip("not a block for this kind of state")
    first = () if kind == "tokens" else (FIRST[start.kind],)
    state = start if kind == "tokens" else State(start.kind, 8, start.sizes)
    for number in range(6):
        block, _ = drawn(random.Random(number).choice, state, [name])
        check(Recipe(start, (*first, block), heads=(len(first) + 1,), context=True, seed=number))
