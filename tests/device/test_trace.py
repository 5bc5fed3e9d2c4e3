"""A network has the same nodes on every device, and tracing it leaves the device as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop.graph.graph import Graph
from tests.device.networks import NETWORKS, moved, recurrent, sequences
from tests.networks import CASES, build
from tests.networks.grammar import KINDS, drawn_recipe
from tests.networks.grammar import build as build_drawn
from tests.tracing.operations import mixing
from tests.tracing.test_operations import FUNCTIONS, MODULES, OPERATIONS, between

pytestmark = pytest.mark.usefixtures("without_type_checks")


def on_both(model: nn.Module, example: Any, device: torch.device) -> tuple[Graph, Graph]:
    """Graphs of a network on the CPU and on the device, where its forward makes its tensors, too."""
    device_model, moved_example = copy.deepcopy(model).to(device), moved(example, device)
    graph = earlycrop.trace(model, example)
    with torch.device(device):
        return graph, earlycrop.trace(device_model, moved_example)


def check_same(model: nn.Module, example: Any, device: torch.device) -> None:
    cpu_graph, device_graph = on_both(model, example, device)
    assert device_graph.count == cpu_graph.count
    assert device_graph.cost("macs") == cpu_graph.cost("macs")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_that_are_fed_the_network_s_input(kind: str, device: torch.device) -> None:
    model, (x, _), *_ = recurrent(kind), *sequences()
    cpu_graph, device_graph = on_both(model, x, device)
    assert cpu_graph.count == device_graph.count == 8
    assert cpu_graph.cost("macs") == device_graph.cost("macs")


@pytest.mark.parametrize("name", list(CASES))
def test_small_networks_have_the_same_nodes(name: str, device: torch.device) -> None:
    check_same(*build(name), device)


SOME = 20
"""Of so many operations, one is tried before every commit, and all by `make test-all`."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [key if i % SOME == 0 else pytest.param(*key, marks=pytest.mark.slow) for i, key in enumerate(OPERATIONS)],
)
def test_operations_leave_the_same_nodes(kind: str, name: str, device: torch.device) -> None:
    is_module = name in MODULES[kind]
    check_same(*between(kind, MODULES[kind][name]().double().eval() if is_module else FUNCTIONS[kind][name]), device)


@pytest.mark.parametrize("name", list(mixing.ROWS))
def test_mixing_operations_leave_the_same_nodes(name: str, device: torch.device) -> None:
    check_same(*between("rows", mixing.ROWS[name][0]), device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "seed", [6, 7, *(pytest.param(i, marks=pytest.mark.slow) for i in range(25) if i not in (6, 7))]
)
def test_random_networks_have_the_same_nodes(kind: str, seed: int, device: torch.device) -> None:
    check_same(*build_drawn(drawn_recipe(random.Random(seed).choice, kind)), device)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_trace_leaves_the_device_s_random_state(name: str, device: torch.device) -> None:
    make, batches = NETWORKS[name]
    model, (x, _), *_ = make().to(device), *moved(batches(), device)
    torch.rand(3, device=device)
    state = torch.get_device_module(device).get_rng_state()
    earlycrop.trace(model, x)
    earlycrop.trace(model, lambda m: m(x + torch.randn_like(x)))
    assert torch.equal(torch.get_device_module(device).get_rng_state(), state)
