"""What a report counts, which real cuts confirm, its reasons, and its hints."""

from __future__ import annotations

import ast
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import earlycrop
from earlycrop import shrink, trace
from earlycrop.graph.summary import HELP, UNUSED, summarize
from earlycrop.graph.text import format_count, format_summary
from tests.networks import CASES, build


def test_a_graph_prints_its_report() -> None:
    model, example = build("mlp")
    graph = trace(model, example)
    assert str(graph) == graph.report() == format_summary(summarize(graph))
    assert repr(graph) == "Graph(nodes=18, weights=164, layers=3)"
    assert type(replace(graph, count=graph.count)) is type(graph) is earlycrop.Graph


def test_costs_by_hand() -> None:
    """6 - 10 - 8 - 3, on five samples: one node of each hidden layer is kept."""
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    summary = summarize(trace(model, torch.zeros(5, 6)), {"0": "Linear"})
    assert (summary.nodes, summary.weights, summary.parameters, summary.macs) == (18, 164, 185, 5 * 164)
    first, second, last = summary.rows
    assert (first.kind, first.outputs, first.removable, first.parameters, first.macs) == ("Linear", 10, 10, 70, 300)
    assert (first.saves_parameters, first.saves_macs) == (9 * (6 + 1) + 9 * 8, 5 * 9 * (6 + 8))
    assert (second.saves_parameters, second.saves_macs) == (7 * (10 + 1) + 7 * 3, 5 * 7 * (10 + 3))
    assert (last.outputs, last.removable, last.saves_parameters) == (3, 0, 0)
    half, ninety, all_ = summary.cuts
    assert (all_.target, all_.weights, all_.parameters, all_.macs) == (None, 6 + 1 + 3, 15, 50)
    assert (half.target, ninety.target) == (0.5, 0.9)
    assert 82 - 18 < half.weights <= 82  # one node more than needed at most: 18 weights
    assert half.macs == 5 * half.weights
    assert all_.weights <= ninety.weights <= 16
    (region,) = summary.frozen
    assert (region.why, region.layers, region.outputs) == ("the model returns it", ("4",), 3)


@pytest.mark.parametrize("name", [n for n in CASES if n != "lstm"])  # torch's counter does not see inside an LSTM
def test_what_a_layer_saves_is_what_its_cut_saves(name: str) -> None:
    model, example = build(name)
    graph = trace(model, example)
    summary = summarize(graph)
    size = sum(p.numel() for p in model.parameters())
    assert size == summary.parameters == summary.other_parameters + sum(row.parameters for row in summary.rows)
    assert _macs(model, example) == summary.macs == sum(row.macs for row in summary.rows)
    kept = {int(axis.nodes.min()) for axis in graph.axes if (axis.nodes >= 0).all()}
    nodes = {layer.name: set(layer.nodes[layer.nodes >= 0].tolist()) for layer in graph.layers}
    for row in summary.rows:
        small = copy.deepcopy(model)
        shrink(small, graph, nodes.get(row.layer, set()) - kept)
        assert size - sum(p.numel() for p in small.parameters()) == row.saves_parameters
        assert summary.macs - _macs(small, example) == row.saves_macs


def _macs(model: nn.Module, example: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    return counter.get_total_flops() // 2


def test_counts_are_formatted_with_three_digits() -> None:
    texts = {0: "0", 864: "864", 999: "999", 1000: "1.00k", 9994: "9.99k", 9996: "10.0k", 99_949: "99.9k"}
    texts |= {99_951: "100k", 999_499: "999k", 999_500: "1.00M", 25_557_032: "25.6M", 4_089_184_256: "4.09G"}
    assert {n: format_count(n) for n in texts} == texts


def test_a_long_name_has_a_line_to_itself() -> None:
    model = nn.Sequential()
    model.add_module("a_name_as_long_as_" * 4 + "this", nn.Linear(6, 10))
    model.add_module("last", nn.Linear(10, 3))
    summary = summarize(trace(model, torch.zeros(1, 6)))
    narrow, wide = format_summary(summary, 80).splitlines(), format_summary(summary).splitlines()
    assert max(map(len, narrow)) <= 80
    after = narrow[narrow.index("a_name_as_long_as_" * 4 + "this") + 1]
    assert after.split() == ["10/10", "70", "60", "87.4%", "90.0%"]  # 9 (6 + 1) + 9 x 3 of 103, 81 of 90
    assert any(line.startswith("a_name") and line.endswith("90.0%") for line in wide)


def test_a_cut_that_is_out_of_reach_says_so() -> None:
    model = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 30))  # at least 36 of 72 weights stay
    lines = format_summary(summarize(trace(model, torch.zeros(1, 6)))).splitlines()
    assert next(line for line in lines if line.startswith("50%")).split()[:4] == ["50%", "of", "weights", "cut"]
    assert next(line for line in lines if line.startswith("90%")).startswith("90% of weights: out of reach")


def test_equal_reasons_are_one_region() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 4)) for _ in range(5)
            )
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for layer in self.layers:
                x = x + layer(x)
            return self.last(x)

    report = trace(Normed(), torch.zeros(2, 3)).report()
    assert report.count("it is normalised over") == 1
    assert "6 layers, 24 outputs: layers.0.1 and" not in report
    assert "6 layers, 24 outputs: layers.0.3 and 5 more" in report
    assert "hint: no change helps: mean and variance" in report


def test_hints_are_for_reasons_that_the_tracer_gives() -> None:
    sources = [p for p in Path(earlycrop.__file__).parent.rglob("*.py") if p.name != "summary.py"]
    strings = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for reason in set(HELP) - {UNUSED}:
        assert any(string.startswith(reason) for string in strings), reason
