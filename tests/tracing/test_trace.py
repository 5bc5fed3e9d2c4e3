"""What a trace is made from, what it leaves as it was, and what it says of what cannot be traced."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop import TraceError, prune, trace
from earlycrop.tracing.rules import table
from tests.networks import build
from tests.oracles import certified
from tests.toy import Net, mlp, vectors


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
    assert "it is sorted along (sort in the model's own forward)" in graph.report()


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


def exported() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will no longer do
        return torch.export.export(mlp(3, 4, 1), (torch.zeros(2, 3),)).module()


UNWATCHABLE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "script": (
        lambda: torch.jit.trace(mlp(3, 4, 1), torch.zeros(2, 3)),
        "the model is a torch.jit script, which cannot be traced",
    ),
    "script inside": (
        lambda: nn.Sequential(torch.jit.trace(mlp(3, 4, 1), torch.zeros(2, 3)), nn.Linear(1, 1)),
        "'0' is a torch.jit script, .*: prune the module that it was made from, then script the result",
    ),
    "export": (exported, "the model comes from torch.export, .*: prune the module that was exported, then export"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)), "'0.weight' has no shape yet: run the model on"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", list(UNWATCHABLE))
def test_a_model_that_cannot_be_watched_is_refused(kind: str) -> None:
    make, message = UNWATCHABLE[kind]
    model = make()
    with pytest.raises(ValueError, match=message):
        trace(model, torch.zeros(2, 3))
    for structured in (True, False):
        with pytest.raises(ValueError, match=message):
            earlycrop.prune(model, lambda m, x: m(x).sum(), [torch.zeros(2, 3)], structured=structured)
    with pytest.raises(ValueError, match=message):
        earlycrop.Pruner(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), lambda m, x: m(x).sum(), epochs=3)
    assert model(torch.zeros(2, 3)).shape == (2, 1)


def test_a_module_of_torch_fx_is_one_like_any_other() -> None:
    assert trace(torch.fx.symbolic_trace(mlp(3, 4, 1)), torch.zeros(2, 3)).count == 4


def test_a_loss_may_look_at_numbers_in_numpy() -> None:
    def looking(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = model(batch[0])
        assert output.detach().cpu().numpy().argmax(1).shape == (8,)
        return functional.cross_entropy(output, batch[1])

    assert prune(mlp(), looking, vectors(), sparsity=0.5).achieved >= 0.5


def test_a_loss_that_runs_another_model_is_refused() -> None:
    other = mlp()
    with pytest.raises(TraceError, match="let it run the model that it is given"):
        trace(mlp(), lambda model: other(torch.randn(2, 6)))


@pytest.mark.parametrize("by", ["slice", "split"])
def test_an_empty_part_freezes_nothing(by: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.a(x)
        turned, rest = (h[..., : self.n], h[..., self.n :]) if by == "slice" else h.split([h.shape[-1], 0], -1)
        return self.out(torch.cat([turned.cos(), rest], -1))

    model = Net(forward, a=nn.Linear(8, 16), out=nn.Linear(16, 3)).double()
    model.n = 16  # as the width of rotary embeddings over whole heads is set
    certified(model, torch.randn(4, 8, dtype=torch.float64), nodes=16)


def test_a_distribution_that_a_module_keeps_is_copied_with_it() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 32), nn.Linear(32, 2)
            self.distribution: Any = None

        def forward(self, x: Tensor) -> Tensor:
            self.distribution = torch.distributions.Categorical(logits=self.head(self.body(x).tanh()))
            return self.distribution.logits  # type: ignore[no-any-return]

    model, x = Policy(), torch.randn(16, 4)
    model(x).square().mean().backward()
    kept = model.distribution
    assert trace(model, x).count == 32
    assert model.distribution is kept
    assert kept.logits.grad_fn is not None


def test_a_rule_that_fails_is_logged_and_freezes_its_operation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(recorder: Any, op: Any) -> None:
        raise ZeroDivisionError("integer modulo by zero")

    logger = logging.getLogger("earlycrop.tracing.rules")
    monkeypatch.setattr(logger, "handlers", [])  # those that make it an error in tests
    monkeypatch.setitem(table.RULES, torch.ops.aten.cat, failing)
    table._get_traits.cache_clear()
    model = Net(
        lambda self, x: self.out(torch.cat([self.a(x), self.b(x).relu()], -1)),
        a=nn.Linear(8, 6), b=nn.Linear(8, 6), out=nn.Linear(12, 3),
    )  # fmt: skip
    graph = trace(model, torch.randn(4, 8))
    table._get_traits.cache_clear()
    assert graph.count == 0
    assert "the rule failing of cat failed, so its channels stay (ZeroDivisionError" in caplog.text
    assert "cat" in str(graph)
