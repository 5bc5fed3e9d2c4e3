"""Batches that run different parts of a network, and parts that no batch runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import FlowError, prune, shrink, trace
from earlycrop.tracing.batches import batch_form
from earlycrop.tracing.trace import trace_batches
from tests.toy import Net, mlp


def two_tasks() -> Net:
    """A shared trunk, and a head for each task."""
    torch.manual_seed(0)
    heads = nn.ModuleDict({"depth": nn.Linear(16, 2), "label": nn.Linear(16, 5)})
    return Net(lambda self, x, task: self.heads[task](self.trunk(x)), trunk=mlp(6, 8, 16), heads=heads)


def squares(model: nn.Module, batch: tuple[Any, ...]) -> Tensor:
    value: Tensor = model(*batch).square().mean()
    return value


def test_a_trunk_is_cut_together_with_the_heads_of_all_tasks_in_the_batches() -> None:
    model, x = two_tasks().double(), torch.randn(9, 6).double()
    batches = [(x, "depth"), (x, "depth"), (x, "label")]
    graph = trace_batches(model, squares, batches)
    assert graph.count == 8 + 16
    assert graph.uncalled == graph.unused == ()
    assert graph.cost("macs") == 9 * (6 * 8 + 8 * 16 + 16 * 2)  # of one run, the first
    cut = shrink(model, graph, [0, 8, 9])
    assert cut.difference is not None
    assert [model.heads[name].in_features for name in ("depth", "label")] == [14, 14]
    assert all(squares(model, batch).isfinite() for batch in batches)


def test_what_a_head_without_a_batch_uses_stays_and_the_event_names_the_head() -> None:
    model, x = two_tasks(), torch.randn(9, 6)
    event = prune(model, squares, [(x, "depth")], "magnitude", 0.25, of="nodes")
    assert model.trunk[0].out_features == 2  # the inner layer gave all six
    assert model.heads["label"].in_features == model.trunk[2].out_features == 16
    assert any("heads.label" in note for note in event.notes)
    assert model(x, "label").shape == (9, 5)


def test_a_frozen_head_without_a_batch_keeps_its_inputs_too() -> None:
    model, x = two_tasks(), torch.randn(9, 6)
    model.heads["label"].requires_grad_(False)
    graph = trace(model, (x, "depth"))
    assert "a layer that no run has called may use it: 'heads.label'" in graph.report()
    assert {layer.name for layer in graph.layers if (layer.nodes >= 0).any()} == {"trunk.0"}


def test_an_expert_without_a_token_keeps_its_inputs_and_the_others_their_outputs() -> None:
    def routed(self: Any, x: Tensor) -> Tensor:
        h = self.stem(x)
        out = torch.zeros(len(x), 12, dtype=x.dtype)
        for i, expert in enumerate(self.experts):
            rows = (self.route(x).argmax(1) == i).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, expert(h[rows]))
        y: Tensor = self.head(out)
        return y

    torch.manual_seed(0)
    experts = nn.ModuleList(mlp(16, 8, 12) for _ in range(3))
    model = Net(routed, stem=nn.Linear(6, 16), route=nn.Linear(6, 3), experts=experts, head=nn.Linear(12, 2)).double()
    with torch.no_grad():
        model.route.bias[2] = -1e3  # the third expert gets no token
    x = torch.randn(9, 6).double()
    graph = trace(model, x)
    assert all((graph.axis[f"experts.{i}.0.weight", 1].nodes < 0).all() for i in range(3))
    assert (graph.axis["stem.weight", 0].nodes < 0).all()
    assert (graph.axis["head.weight", 1].nodes < 0).all()
    assert graph.count == 16  # the hidden units of the experts that ran
    shrink(model, graph, range(0, graph.count, 2))
    with torch.no_grad():
        model.route.bias[2] = 1e3
    assert model(x).shape == (9, 2)


def masked_forward(self: Any, x: Tensor, masked: Tensor | None = None) -> Tensor:
    h = self.embed(x)
    if masked is not None:
        h = torch.where(masked[:, None], self.mask_token, h)
    y: Tensor = self.body(h)
    return y


def test_a_parameter_that_its_module_does_not_use_freezes_nothing() -> None:
    model = Net(masked_forward, embed=nn.Linear(6, 8), body=mlp(8, 16, 3))
    model.mask_token = nn.Parameter(torch.zeros(8))
    graph = trace(model, torch.randn(4, 6))
    assert (graph.uncalled, graph.unused) == ((), ("mask_token",))
    assert graph.count == 8 + 16


@pytest.mark.parametrize("criterion", ["snip", "crop"])
def test_a_parameter_that_only_scoring_meets_is_refused_before_anything_is_cut(criterion: str) -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        in_scoring = torch.is_grad_enabled()  # stands for a path that is drawn at random
        value: Tensor = (model(x, torch.ones(len(x)).bool()) if in_scoring else model(x)).square().mean()
        return value

    model = Net(masked_forward, embed=nn.Linear(6, 8), body=mlp(8, 16, 3))
    model.mask_token = nn.Parameter(torch.randn(8))
    with pytest.raises(FlowError, match="'mask_token' has a gradient, but was not used when the model was traced"):
        prune(model, loss, [torch.randn(4, 6)], criterion, 0.5)
    assert model.embed.out_features == 8


def test_other_batches_are_run_where_their_form_differs_or_something_is_not_used_yet() -> None:
    runs: list[int] = []

    def counted(model: nn.Module, batch: tuple[int, Tensor]) -> Tensor:
        runs.append(batch[0])
        return squares(model, batch[1:])

    model, x = mlp(), torch.randn(4, 6)
    trace_batches(model, lambda m, b: counted(m, (len(b), b)), [x, x, x])
    assert len(set(runs)) == 1
    once = len(runs)
    runs.clear()
    trace_batches(model, lambda m, b: counted(m, (len(b), b)), [x, x[:2], x[:2]])
    assert runs.count(2) == 1
    assert len(runs) == once + 1  # the trials run the first batch alone
    runs.clear()
    spare = Net(lambda self, x: self.body(x), body=mlp(), unused=nn.Linear(7, 7))
    trace_batches(spare, lambda m, b: counted(m, (len(b), b)), [x, x, x])
    assert len(runs) >= once + 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5)),
        (torch.zeros(3), torch.zeros(3).double()),
        ((torch.zeros(3), "depth"), (torch.zeros(3), "label")),
        ({"x": torch.zeros(3), "task": torch.tensor(0)}, {"x": torch.zeros(3), "task": torch.tensor(1)}),
        ({"x": torch.zeros(3)}, {"y": torch.zeros(3)}),
        ([torch.zeros(3)], [torch.zeros(3)] * 2),
        ((torch.zeros(3), None), (torch.zeros(3), torch.zeros(3))),
    ],
)
def test_batches_of_other_shapes_types_keys_or_plain_values_have_another_form(a: Any, b: Any) -> None:
    assert batch_form(a) != batch_form(b)
    assert batch_form(a) == batch_form(a)


def test_the_values_of_tensors_are_no_part_of_the_form() -> None:
    assert batch_form((torch.zeros(3), torch.tensor([1, 2]))) == batch_form((torch.ones(3), torch.tensor([3, 4])))
    assert batch_form(torch.tensor(0.5)) == batch_form(torch.tensor(0.7))
