"""Inputs of the certificate: the example, noise in its place, and float32 for a model in half precision."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from earlycrop import SurgeryError, prune, shrink, trace
from earlycrop.surgery.outputs import reproducible_runs
from tests.networks import build
from tests.toy import Net


def two_layers(forward: Any, **more: nn.Module) -> Net:
    torch.manual_seed(0)
    return Net(forward, one=nn.Linear(4, 8), out=nn.Linear(8, 2), **more)


def test_an_error_that_the_example_does_not_show_is_found_by_noise() -> None:
    """Where the first input is above 1/2, which it never is in the example, the network computes with its own width."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.one(x).relu()
        return self.out(torch.where(x[:, :1] > 0.5, hidden / torch.tensor([hidden.shape[-1]]), hidden))

    model, x = two_layers(forward), torch.rand(32, 4)
    x[:, 0] = x[:, 0] / 2
    graph, before = trace(model, x), list(model.parameters())
    with pytest.raises(SurgeryError, match="output on noise differs from the masked dense one's"):
        shrink(model, graph, [0, 3])
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_noise_is_like_the_example_and_the_same_for_both_networks() -> None:
    seen: list[Any] = []

    def forward(self: Any, x: Tensor, *, kind: Tensor, states: dict[str, Any]) -> Tensor:
        seen.append((x, kind, states))
        return self.out(self.one(x).relu()) + self.embedding(kind) + states["bias"] + states["start"].sum()

    model = two_layers(forward, embedding=nn.Embedding(5, 2))
    x, kind = torch.rand(500, 4) ** 2, torch.randint(0, 5, (500,))
    bias, start = torch.full((500, 2), 5.0) + torch.randn(500, 2), torch.zeros(3)
    example = {"x": x, "kind": kind, "states": {"bias": bias, "start": start, "name": "a"}}
    graph = trace(model, example)
    seen.clear()
    cut = shrink(model, graph, [0, 3])
    assert cut.caveats == ()
    masked, masked_noise, small, small_noise = seen
    assert masked[0] is small[0] is x
    noise, kinds, states = masked_noise
    assert not torch.equal(noise, x)
    assert torch.equal(noise, small_noise[0])
    assert torch.equal(states["bias"], small_noise[2]["bias"])
    assert kinds is kind, "integers may be indices"
    assert states["start"] is start, "a constant stays one"
    assert states["name"] == "a"
    assert noise.dtype == x.dtype
    assert float(noise.min()) >= float(x.min()) >= 0
    assert float(noise.max()) <= float(x.max()) <= 1
    assert float(states["bias"].mean()) == pytest.approx(5, abs=0.2)
    assert float(states["bias"].std()) == pytest.approx(1, abs=0.2)


def raising(self: Any, x: Tensor) -> Tensor:
    if not torch.equal(x, x.round()):
        raise ValueError("whole numbers only")
    return self.out(self.one(x).relu())


def infinite(self: Any, x: Tensor) -> Tensor:
    return self.out(self.one(x).relu()) + (x[:, :1] - x[:, 1:2]).sqrt()


@pytest.mark.parametrize(
    ("forward", "caveat"),
    [
        (raising, "it stands on the example alone: the dense model fails on noise (ValueError: whole numbers only)"),
        (infinite, "it stands on the example alone: the dense model's output on noise is not finite"),
    ],
)
def test_where_noise_proves_nothing_the_cut_says_so(forward: Any, caveat: str) -> None:
    x = torch.randint(0, 9, (16, 4)).float().sort(1, descending=True).values
    model = two_layers(forward)
    cut = shrink(model, trace(model, x), [0, 3])
    assert cut.caveats == (caveat,)
    assert cut.difference is not None
    assert cut.difference <= 1e-5


def test_a_network_of_tokens_says_so() -> None:
    model, x = build("lstm")
    cut = shrink(model, trace(model, x), [0, 7])
    assert cut.caveats == (
        "it stands on the example alone: the model is called with no floating tensor to replace by noise",
    )


def test_noise_reaches_a_model_that_a_loss_calls() -> None:
    """The usual example: a loss over a batch. Targets stay as they are, and masked logits may be infinite."""
    called: list[tuple[Tensor, ...]] = []

    def forward(self: Any, x: Tensor) -> Tensor:
        called.append((x,))
        return self.out(self.one(x).relu()).masked_fill(torch.tensor([True, False]), -torch.inf)

    model, x = two_layers(forward), torch.randn(16, 4)
    graph = trace(model, lambda m: functional.cross_entropy(m(x), torch.ones(16, dtype=torch.long)))
    called.clear()
    assert shrink(model, graph, [0, 3]).caveats == ()
    assert [torch.equal(c[0], x) for c in called] == [True, False, True, False]


def test_an_input_that_is_cut_itself_says_so() -> None:
    """The first state of a loop is a parameter, which the loss hands in: it is as wide as what is cut."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.randn(8))
            self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.out(self.cell(x, h))

    model, x = Step(), torch.randn(5, 4)
    graph = trace(model, lambda m: m(x, m.start.expand(5, -1)))
    assert shrink(model, graph, [0, 5]).caveats == (
        "it stands on the example alone: what is cut is an input of the model",
    )
    assert model.start.shape == (6,)


def test_random_numbers_are_left_as_they_were() -> None:
    model, x = build("mlp")
    graph = trace(model, x)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    shrink(model, graph, [0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]


def slightly_wrong(self: Any, x: Tensor) -> Tensor:
    """A hundredth of the output is computed with its own width."""
    hidden = self.one(x).relu()
    return self.out(hidden * (1 + torch.tensor([hidden.shape[-1]]) / 800))


def right(self: Any, x: Tensor) -> Tensor:
    return self.out(self.one(x).relu())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_proven_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(16, 4, dtype=dtype)
    model = two_layers(right).to(dtype)
    cut = shrink(model, trace(model, x), [0, 3])
    assert cut.difference is not None
    assert cut.difference <= 1e-6
    assert cut.caveats == ()
    assert {p.dtype for p in model.parameters()} == {dtype}
    model = two_layers(slightly_wrong).to(dtype)
    with pytest.raises(SurgeryError, match=r"differs .* by 0.00\d+ \(relative; allowed 1e-05\)"):
        shrink(model, trace(model, x), [0, 3])
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.one.weight.shape == (8, 4)


@pytest.mark.parametrize("name", ["conv-norm", "lstm", "residual", "tied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision(name: str, dtype: torch.dtype) -> None:
    model, x = build(name, dtype)
    with torch.no_grad():
        small_before = model.eval()(x).float()
    cut = shrink(model, trace(model, x), [0, 2])
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    with torch.no_grad():
        assert model(x).dtype == dtype
        assert model(x).shape == small_before.shape


def test_a_model_that_runs_in_half_precision_only_says_so() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(self.one(x.to(torch.bfloat16)).relu())

    model, x = two_layers(forward).bfloat16(), torch.randn(16, 4)
    cut = shrink(model, trace(model, x), [0, 3])
    assert len(cut.caveats) == 1
    assert cut.caveats[0].startswith("it allows 0.05: the model does not run in float32 (RuntimeError: ")

    def returning(self: Any, x: Tensor) -> Tensor:
        return right(self, x).half()

    model = two_layers(returning)
    cut = shrink(model, trace(model, x), [0, 3])
    assert cut.caveats == ("it allows 0.05: the model returns half precision, whatever it is given",)


@pytest.mark.parametrize("where", ["loss", "forward"])
def test_autocast_is_off_in_the_certificate_and_on_again_after(where: str) -> None:
    types: list[torch.dtype] = []

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "forward"):
            types.append(self.one(x).dtype)
            return right(self, x)

    def loss(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "loss"):
            return functional.cross_entropy(m(batch[0]).float(), batch[1])

    model = two_layers(forward)
    batch = torch.randn(16, 4), torch.randint(0, 2, (16,))
    graph = trace(model, lambda m: loss(m, batch))
    types.clear()
    cut = shrink(model, graph, [0, 3])
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    assert set(types) == {torch.float32}
    assert cut.caveats == ()
    if where == "forward":
        model(batch[0])
        assert types[-1] == torch.bfloat16
    assert prune(model, loss, [batch], sparsity=0.3).difference <= 1e-5  # type: ignore[operator]


def test_complex_outputs_are_compared() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.complex(self.out(self.one(x).relu()), x[:, :2])

    model, x = two_layers(forward), torch.randn(16, 4)
    cut = shrink(model, trace(model, x), [0, 3])
    assert cut.difference is not None
    assert cut.difference <= 1e-5


def test_what_a_forward_keeps_is_as_it_was() -> None:
    """A state of the dense width, kept in an attribute, survives a cut that is taken back."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.one(x).relu()
        self.state = hidden.detach()
        return self.out(hidden / torch.tensor([hidden.shape[-1]]))

    model, x = two_layers(forward), torch.randn(16, 4)
    model(x)
    state = model.state
    with pytest.raises(SurgeryError):
        shrink(model, trace(model, x), [0, 3])
    assert model.state is state


@pytest.mark.parametrize("certified", ["taken back", "cut"])
def test_a_recurrent_layer_computes_with_its_own_weights_after_it(certified: str) -> None:
    """It keeps a list of them, which must not be one of those that stood in their place."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0]
        return self.out(hidden / torch.tensor([hidden.shape[-1]]) if certified == "taken back" else hidden)

    model, x = Net(forward, rnn=nn.LSTM(4, 8), out=nn.Linear(8, 2)), torch.randn(3, 5, 4)
    model(x)
    graph = trace(model, x)
    if certified == "taken back":
        with pytest.raises(SurgeryError):
            shrink(model, graph, [0, 3])
    else:
        shrink(model, graph, [0, 3])
    assert len(torch.autograd.grad(model(x).sum(), list(model.parameters()))) == 6


def test_what_is_rounding_alone_is_without_shared_options_in_float64() -> None:
    """The output is scaled by 1 + width * eps of its type, so that the networks differ by 200 eps on any CPU.

    That is 2.4e-5 in float32, above the tolerance of 1e-5, and 4.4e-14 in float64, below the tolerance of 1e-10.
    """

    def rounding(self: Any, x: Tensor) -> Tensor:
        width = torch.tensor([self.out.in_features], dtype=x.dtype)
        return self.out(self.one(x).relu()) * (1 + width * torch.finfo(x.dtype).eps)

    torch.manual_seed(0)
    far, x = Net(rounding, one=nn.Linear(4, 600), out=nn.Linear(600, 2)), torch.randn(100, 4)
    cut = shrink(far, trace(far, x), range(0, 600, 3))
    assert cut.difference is not None
    assert cut.difference <= 1e-10
    assert len(cut.caveats) == 1
    assert cut.caveats[0].startswith("it was made in float64: in less, rounding makes a difference of ")
    assert far.one.weight.shape == (400, 4)

    model = two_layers(lambda self, x: self.out(self.one(x).relu() * (1 + torch.tensor([self.out.in_features]) / 8e4)))
    graph, before = trace(model, x), list(model.parameters())
    with pytest.raises(SurgeryError, match=r"differs from the masked dense one's by \d.*e-05 "):
        shrink(model, graph, [0, 3])
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_empty_outputs_prove_nothing() -> None:
    model = two_layers(lambda self, x: self.out(self.one(x).relu())[x[:, 0] > 9])
    graph = trace(model, torch.rand(5, 4))
    with pytest.raises(SurgeryError, match="returns only empty tensors, so that the cut cannot be proven"):
        shrink(model, graph, [0])
    assert shrink(model, graph, [0], certify=False).nodes == 1


def test_hooks_that_a_forward_registers_are_registered_once() -> None:
    """As transformers does at a model's first call: a note on the module, and hooks on a part of it."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not hasattr(self, "noted"):
            self.noted, self.seen = True, []
            self.one.register_forward_hook(lambda module, given, output: self.seen.append(output))
        self.seen.clear()
        self.one(x)
        return self.out(torch.stack(self.seen).sum(0).relu())  # type: ignore[no-any-return]

    model, x = two_layers(forward), torch.randn(5, 4)
    cut = shrink(model, trace(model, x), [0, 3])
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    assert not hasattr(model, "noted")
    assert not model.one._forward_hooks
    assert model(x).shape == (5, 2)
    assert len(model.one._forward_hooks) == 1


def test_a_model_that_is_called_under_vmap_is_cut() -> None:
    """What it is given and returns there means nothing outside: the loss is compared, and on the example alone."""
    model, batches = two_layers(lambda self, x: self.out(self.one(x).relu())), [torch.rand(5, 4), torch.rand(5, 4)]
    other = copy.deepcopy(model)
    event = prune(model, lambda m, x: torch.func.vmap(m)(x).square().mean(), batches, sparsity=0.5)
    assert event.difference is not None
    assert event.difference <= 1e-5
    assert not event.uncertified
    assert event.layers == prune(other, lambda m, x: m(x).square().mean(), batches, sparsity=0.5).layers
    assert torch.equal(model.one.weight, other.one.weight)


def test_outputs_in_plain_objects_are_compared_and_kept_whole() -> None:
    @dataclass
    class Out:
        policy: torch.distributions.Categorical
        hidden: Tensor

    def forward(self: Any, x: Tensor) -> Out:
        hidden = self.a(x).relu()
        return Out(torch.distributions.Categorical(logits=self.c(self.b(hidden).relu())), hidden)

    model, x = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 5), c=nn.Linear(5, 3)), torch.randn(4, 6)
    graph = trace(model, x)
    assert graph.count == 5, "what is returned in a field stays"
    with reproducible_runs(model, x, {}) as run:
        assert {tuple(t.shape) for t in run(None)} == {(4, 3), (4, 8)}
    shrink(model, graph, [0, 1])
    assert model(x).policy.logits.shape == (4, 3)
    blind = Net(lambda self, x: self.b(self.a(x).relu()).argmax(-1), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    graph = trace(blind, x)
    with pytest.raises(SurgeryError, match="returns no floating tensor to compare"):
        shrink(blind, graph, [0])


def test_infinities_in_the_outputs_are_equal() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).masked_fill(torch.tensor([True, False, False]), -torch.inf)

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 3))
    assert shrink(model, trace(model, torch.randn(4, 6)), [0, 1]).difference <= 1e-5  # type: ignore[operator]
