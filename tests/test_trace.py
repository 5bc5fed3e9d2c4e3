"""What a trace finds in networks whose answer is known, and what it says where nothing can go."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import earlycrop
from earlycrop import TraceError, trace
from tests.networks import CASES, Language, build


@pytest.mark.parametrize("name", list(CASES))
def test_nodes_and_layer_outputs(name: str) -> None:
    model, example = build(name)
    graph = trace(model, example)
    assert graph.count == len(graph.nodes) == CASES[name].nodes
    assert graph.cost("nodes") == CASES[name].outputs
    assert graph.cost("weights") == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    held = [*model.parameters(), *model.buffers()]
    assert graph.cost("bytes") == sum(t.numel() * t.element_size() for t in held)


@pytest.mark.parametrize("name", list(CASES))
def test_work_is_what_torch_counts(name: str) -> None:
    if name == "lstm":
        pytest.skip("torch's counter does not see inside the fused LSTM")
    model, example = build(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    assert trace(model, example).cost("macs") == counter.get_total_flops() // 2


def test_lstm_work_by_hand() -> None:
    """3 sequences of 5: in each of 2 directions and steps, 4 x 7 rows of inputs and 7 states; inputs 6, then 14."""
    model, example = build("lstm")
    work = 15 * 2 * 28 * (6 + 7) + 15 * 2 * 28 * (14 + 7) + 15 * 14 * 11
    assert trace(model, example).cost("macs") == work


def test_a_node_owns_what_must_go_together() -> None:
    model, example = build("residual")
    owns = [{(name, dim): index for name, dim, index in node.owns} for node in trace(model, example).nodes]
    stem, inner = owns[:8], owns[8:]
    for i, own in enumerate(stem):
        assert own == {
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


def test_the_model_is_not_touched() -> None:
    model, example = build("conv-norm", torch.float32)
    model.train()
    before = {n: (id(t), t.clone()) for n, t in model.state_dict(keep_vars=True).items()}
    trace(model, example)
    assert model.training
    assert not model._forward_hooks
    for n, t in model.state_dict(keep_vars=True).items():
        assert (id(t), type(t)) == (before[n][0], type(t))
        assert torch.equal(t, before[n][1])


def test_nothing_is_allocated_or_computed() -> None:
    """A layer of 40,000 x 40,000 would take 6.4 GB and half a minute."""
    with torch.device("meta"):
        big = nn.Sequential(
            nn.Linear(10, 40_000), nn.ReLU(), nn.Linear(40_000, 40_000), nn.ReLU(), nn.Linear(40_000, 2)
        )
    graph = trace(big, torch.zeros(1, 10, device="meta"))
    assert graph.count == 80_000


def test_every_form_of_an_example() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(self.one(x + y).relu())

    model, x = Two(), torch.zeros(2, 3)
    examples: list[Any] = [(x, x), {"x": x, "y": x}, lambda m: m(x, y=x), lambda m: m(x, x).square().mean()]
    for example in examples:
        assert trace(model, example).count == 4


def test_reasons_name_the_operation_and_the_module() -> None:
    report = trace(*build("heads")).report()
    assert "32 nodes can be removed" in report
    assert "the model returns it" in report
    fixed = trace(*build("fixed-size")).report()
    assert "a size is hard-coded in it: shape '[5, 4, 3]' is invalid" in fixed

    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 4)
            self.rank = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid())
            self.out = nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rank(self.body(x).sort(-1).values))

    graph = trace(Sorted(), torch.zeros(2, 3))
    assert graph.count == 5
    assert "this operation is not understood (sort in the model's own forward)" in graph.report()


def test_a_normalised_width_stays_and_its_module_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    graph = trace(model, torch.zeros(2, 3))
    assert graph.count == 5
    assert "it is normalised over (native_layer_norm in '1')" in graph.report()


def test_layer_of_several_uses_is_one_node_set() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
            self.start = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(self.inner(self.start(x)).relu()).relu())

    graph = trace(Twice(), torch.zeros(2, 3))
    assert graph.count == 6
    owned = {(name, dim) for name, dim, _ in graph.nodes[0].owns}
    assert {("inner.weight", 0), ("inner.weight", 1), ("start.weight", 0), ("out.weight", 1)} <= owned


def test_fields_are_compact_over_large_images() -> None:
    """A convolution's channels do not grow with the image."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = trace(model, torch.zeros(1, 3, 4096, 4096, device="meta"))
    assert graph.count == 8
    assert all(slot.nodes.size <= 8 for slot in graph.axes)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(TraceError, match=r"fails on the example \(RuntimeError: .*\): call it the same way"):
        trace(nn.Linear(3, 2), torch.zeros(2, 5))
    model = nn.Linear(3, 2)
    model.generator = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(TraceError, match="cannot be copied"):
        trace(model, torch.zeros(2, 3))
    graph = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="there is no node 4: this graph has nodes 0 to 3"):
        graph.mask([4])


def test_two_traces_number_the_nodes_alike() -> None:
    first, second = (trace(*build("groups")) for _ in range(2))
    for a, b in zip(first.axes, second.axes, strict=True):
        assert (a.tensor, a.dim) == (b.tensor, b.dim)
        assert np.array_equal(a.nodes, b.nodes)


def test_language_of_another_length_has_the_same_nodes() -> None:
    model = Language(nn.GRU)
    short, long = (trace(model, torch.zeros(1, n, dtype=torch.long)) for n in (2, 9))
    assert [n.owns for n in short.nodes] == [n.owns for n in long.nodes]


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def exported() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will no longer do
        return torch.export.export(small(), (torch.zeros(2, 3),)).module()


UNWATCHABLE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "script": (
        lambda: torch.jit.trace(small(), torch.zeros(2, 3)),
        "the model is a torch.jit script, which cannot be traced",
    ),
    "script inside": (
        lambda: nn.Sequential(torch.jit.trace(small(), torch.zeros(2, 3)), nn.Linear(1, 1)),
        "'0' is a torch.jit script, .*: prune the module that it was made from, then script the result",
    ),
    "export": (exported, "the model comes from torch.export, .*: prune the module that was exported, then export"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)), "'0.weight' has no shape yet: run the model on"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", list(UNWATCHABLE))
def test_what_cannot_be_watched_is_told_before_it_is_trained(kind: str) -> None:
    make, told = UNWATCHABLE[kind]
    model = make()
    with pytest.raises(ValueError, match=told):
        trace(model, torch.zeros(2, 3))
    for structured in (True, False):
        with pytest.raises(ValueError, match=told):
            earlycrop.prune(model, lambda m, x: m(x).sum(), [torch.zeros(2, 3)], structured=structured)
    with pytest.raises(ValueError, match=told):
        earlycrop.Pruner(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), lambda m, x: m(x).sum(), epochs=3)
    assert model(torch.zeros(2, 3)).shape == (2, 1)


def test_a_module_of_torch_fx_is_one_like_any_other() -> None:
    assert trace(torch.fx.symbolic_trace(small()), torch.zeros(2, 3)).count == 4
