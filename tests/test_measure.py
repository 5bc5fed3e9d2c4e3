"""Measures against counts by hand and by torch."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from earlycrop import Masks, measure, shrink, trace
from tests.networks import CASES, build


@pytest.mark.parametrize("name", [n for n in CASES if n != "lstm"])
def test_macs_of_a_sample_are_what_torch_counts(name: str) -> None:
    model, example = build(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    assert measure.macs(model, example) == counter.get_total_flops() // 2 // len(example)
    assert measure.macs(model, lambda m: m(example)) == counter.get_total_flops() // 2 // len(example)


def test_sparsities_by_hand() -> None:
    dense, x = build("mlp")  # 6-10-8-3: 60 + 80 + 24 weights
    small = copy.deepcopy(dense)
    graph = trace(small, x)
    shrink(small, graph, [0, 1, 10])  # 6-8-7-3: 48 + 56 + 21
    assert measure.weight_sparsity(small, dense) == 1 - 125 / 164
    assert measure.node_sparsity(trace(small, x), graph) == pytest.approx(3 / 18)
    assert measure.parameters(small) == 125 + 8 + 7 + 3
    masked = copy.deepcopy(dense)
    Masks(masked, {"0.weight": torch.arange(60).reshape(10, 6) < 25})
    assert measure.weight_sparsity(masked, dense) == pytest.approx(25 / 164)
    assert measure.weight_counts(masked) == (139, 164)


def test_a_layer_with_one_output_left_has_one_node() -> None:
    dense, x = build("mlp")
    small = copy.deepcopy(dense)
    graph = trace(small, x)
    shrink(small, graph, list(range(9)))
    assert small[0].out_features == 1
    assert measure.node_sparsity(trace(small, x), graph) == pytest.approx(9 / 18)


def test_csr_bytes_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(2, 5, 3))
    with torch.no_grad():
        model[0].weight[0] = 0
    bits = 34 * 8 + 2 * (3 + 1) + 34 * 90 + 2 * (5 + 1)
    assert measure.csr_bytes(model) == -(-bits // 8)


def test_time_is_the_median_and_memory_is_positive() -> None:
    calls = []
    steps = [lambda: calls.append(sum(range(1000)))]
    (milliseconds,) = measure.milliseconds_in_turn(steps, torch.device("cpu"), 5, 2)
    assert len(calls) == 7
    assert 0 < milliseconds < 1000
    before = measure.peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(50_000_000)
    assert measure.peak_memory_bytes(torch.device("cpu")) >= before
    assert measure.peak_memory_bytes(torch.device("cpu")) > block.numel() * 4


def test_memory_of_a_step_is_what_it_takes_and_not_what_was_taken_before() -> None:
    """In a process of its own: what others leave behind there is given back at any time."""
    code = """
import torch
from earlycrop.measure import step_memory_bytes
cpu = torch.device("cpu")
for n in (25, 100, 25):
    print(step_memory_bytes(lambda: torch.ones(n * 1_000_000).sum(), cpu))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many, again = map(int, done.stdout.split())
    assert 250e6 < many - few < 350e6
    if sys.platform.startswith("linux"):
        assert again == pytest.approx(few, rel=0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the GNU C library's heap")
def test_memory_of_a_step_has_nothing_of_what_is_freed() -> None:
    """Small pieces come from a heap that shrinks from its end alone, which one of them holds."""
    code = """
import torch
from earlycrop.measure import step_memory_bytes
cpu = torch.device("cpu")
print(step_memory_bytes(lambda: None, cpu))
held = [torch.ones(1000) for _ in range(100_000)]
print(step_memory_bytes(lambda: None, cpu))
last = held[-1]
del held
print(step_memory_bytes(lambda: None, cpu))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, many, after = map(int, done.stdout.split())
    assert many - before > 400e6
    assert after - before < 60e6
