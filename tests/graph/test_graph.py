"""Nodes, what they own, and what a network costs, where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from earlycrop import trace
from tests.networks import CASES, Language, build, graph_of
from tests.toy import Net


@pytest.mark.parametrize("name", list(CASES))
def test_nodes_and_layer_outputs(name: str) -> None:
    model, _ = build(name)
    graph = graph_of(name)
    assert graph.count == len(graph.nodes) == CASES[name].nodes
    assert graph.cost("nodes") == CASES[name].outputs
    assert graph.cost("weights") == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    tensors = [*model.parameters(), *model.buffers()]
    assert graph.cost("bytes") == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("name", list(CASES))
def test_work_is_what_torch_counts(name: str) -> None:
    if name == "lstm":
        pytest.skip("torch's counter does not see inside the fused LSTM")
    model, example = build(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    assert graph_of(name).cost("macs") == counter.get_total_flops() // 2


def test_lstm_work_by_hand() -> None:
    """3 sequences of 5: in each of 2 directions and steps, 4 x 7 rows of inputs and 7 states; inputs 6, then 14."""
    model, example = build("lstm")
    work = 15 * 2 * 28 * (6 + 7) + 15 * 2 * 28 * (14 + 7) + 15 * 14 * 11
    assert trace(model, example).cost("macs") == work


def test_a_node_owns_what_must_go_together() -> None:
    model, example = build("residual")
    owns = [{(name, dim): index for name, dim, index in node.owns} for node in trace(model, example).nodes]
    stem, inner = owns[:8], owns[8:]
    for i, entries in enumerate(stem):
        assert entries == {
            ("stem.weight", 0): (i,), ("stem.bias", 0): (i,), ("conv1.weight", 1): (i,), ("conv2.weight", 0): (i,),
            ("norm2.weight", 0): (i,), ("norm2.bias", 0): (i,), ("norm2.running_mean", 0): (i,),
            ("norm2.running_var", 0): (i,), ("fc.weight", 1): (i,),
        }  # fmt: skip
    assert inner[2][("conv2.weight", 1)] == (2,)
    assert inner[2][("conv1.weight", 0)] == (2,)


def test_a_flattened_channel_owns_all_its_columns() -> None:
    model, example = build("conv-norm")
    node = trace(model, example).nodes[3]
    assert ("fc.weight", 1, (12, 13, 14, 15)) in node.owns


def test_an_lstm_unit_owns_its_four_gates_in_every_layer_and_direction() -> None:
    model, example = build("lstm")
    unit = next(node for node in trace(model, example).nodes if node.layer == "rnn" and node.owns[0][2][0] == 2)
    owns = {(name, dim): index for name, dim, index in unit.owns}
    for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert owns[(f"rnn.weight_ih_{layer}", 0)] == (2, 9, 16, 23)
        assert owns[(f"rnn.weight_hh_{layer}", 1)] == (2,)
    assert owns[("rnn.weight_ih_l1", 1)] == owns[("decoder.weight", 1)] == (2, 9)


def test_two_traces_number_the_nodes_alike() -> None:
    first, second = (trace(*build("groups")) for _ in range(2))
    for a, b in zip(first.axes, second.axes, strict=True):
        assert (a.tensor, a.dim) == (b.tensor, b.dim)
        assert np.array_equal(a.nodes, b.nodes)


def test_language_of_another_length_has_the_same_nodes() -> None:
    model = Language(nn.GRU)
    short, long = (trace(model, torch.zeros(1, n, dtype=torch.long)) for n in (2, 9))
    assert [n.owns for n in short.nodes] == [n.owns for n in long.nodes]


def test_work_is_counted_where_nothing_may_be_cut() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = functional.layer_norm(self.a(x), (8,))
        return self.b(y @ y.mT @ y)  # type: ignore[no-any-return]

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    assert trace(model, torch.randn(2, 5, 6)).cost("macs") == 2 * (5 * 6 * 8 + 2 * 5 * 5 * 8 + 5 * 8 * 3)
