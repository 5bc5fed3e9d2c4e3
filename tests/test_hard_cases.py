"""Networks and calls that once went wrong, or would in a tool that trusts its first impression."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from earlycrop import METHODS, Masks, Pruner, PrunerOptions, SurgeryError, TraceError, prune, shrink, trace
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.targets import max_remaining
from earlycrop.surgery.certificate import run_outputs
from tests.networks import build


class Net(nn.Module):
    """A forward given as a function of the module and its input."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def mlp(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def data() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(3)]


def test_an_optimizer_made_before_loading_trains_the_loaded_model(tmp_path: Any) -> None:
    small = mlp()
    shrink(small, trace(small, torch.randn(2, 6)), [0, 20])
    earlycrop.save(small, tmp_path)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    earlycrop.load(tmp_path, model)
    before = model[0].weight.detach().clone()
    loss(model, data()[0]).backward()
    optimizer.step()
    assert model[0].weight.shape == (15, 6)
    assert not torch.equal(model[0].weight, before)


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
    assert {tuple(t.shape) for t in run_outputs(model, x, {})} == {(4, 3), (4, 8)}
    shrink(model, graph, [0, 1])
    assert model(x).policy.logits.shape == (4, 3)
    blind = Net(lambda self, x: self.b(self.a(x).relu()).argmax(-1), a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    graph = trace(blind, x)
    with pytest.raises(SurgeryError, match="returns no floating tensor to compare"):
        shrink(blind, graph, [0])


def test_frozen_layers_are_not_the_first_to_go() -> None:
    model = mlp(32)
    model[0].requires_grad_(False)  # its nodes are scored by the columns that consume them
    prune(model, loss, data(), sparsity=0.5)
    assert model[0].out_features > 10
    model = mlp(32)
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    prune(model, loss, data(), sparsity=0.1)
    assert model[0].out_features == 32, "nothing that is trained produces or consumes it"
    assert model[2].out_features < 32


def test_modules_that_only_training_uses_follow() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        hidden = self.a(x).relu()
        return (self.b(hidden), self.aux(hidden)) if self.training else self.b(hidden)

    model = Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 3), aux=nn.Linear(8, 3))
    model.eval()
    shrink(model, trace(model, torch.randn(4, 6)), [0, 5])
    model.train()
    assert [y.shape for y in model(torch.randn(4, 6))] == [(4, 3), (4, 3)]


def test_several_matrices_of_one_module_are_not_one_layer() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.one).relu() @ self.two

    event = prune(Raw(), loss, data(), sparsity=0.5)
    assert event.node_sparsity == 0.5
    assert prune(Raw(), loss, data(), sparsity=0.5, of="nodes").left == 8


def test_a_failed_step_can_be_taken_again() -> None:
    model = mlp()
    pruner = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "snap", 0.5, epochs=3)
    with pytest.raises(ValueError, match="no batch to score on"):
        pruner.step([])
    event = pruner.step(data())
    assert event is not None
    assert (event.epoch, event.reason) == (0, "before training")


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("method", "calls"), [("cropit-s", 40), ("cropit-u", 20)])
def test_a_step_that_failed_between_rounds_is_taken_up_where_it_was(
    method: str, calls: int, resumed: bool, tmp_path: Path
) -> None:
    model, left = mlp(64), [calls]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    dense = sum(p.numel() for p in model.parameters() if p.ndim > 1)

    def failing(m: nn.Module, batch: Any) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return loss(m, batch)

    limits = earlycrop.Limits(floors={"0": 0.25})
    pruner = Pruner(
        model, optimizer, failing, method, 0.8, epochs=3, limits=limits, options=PrunerOptions(log_triggers=resumed)
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        pruner.step(data())
    assert not all(bool(p.all()) for p in model.parameters()) or sum(p.numel() for p in model.parameters()) < dense
    left[0] = 1000
    if resumed:
        state = earlycrop.load_state(earlycrop.save_state(pruner.state_dict(), tmp_path / "state"))
        model, optimizer = copy.deepcopy((model, optimizer))
        pruner = Pruner(
            model, optimizer, failing, method, 0.8, epochs=3, limits=limits, options=PrunerOptions(log_triggers=True)
        )
        pruner.load_state_dict(state)
    event = pruner.step(data())
    assert event is not None
    assert event.dense == dense
    assert 0.8 <= event.achieved < 0.83
    assert event.left == sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert event.layers["0"][0] == (64 if METHODS[method].structured else 64 * 6)
    assert event.layers["0"][1] >= event.layers["0"][0] / 4
    if event.masks is not None:
        event.masks.release()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())  # type: ignore[attr-defined]
    assert not optimizer._optimizer_step_post_hooks


def test_a_model_that_is_mended_before_anything_was_cut_is_taken_as_it_is_then() -> None:
    model = Net(lambda m, x: m.inside(x), inside=mlp(), unused=nn.Linear(16, 64))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(model, optimizer, loss, "crop-s", 0.5, epochs=3)
    with pytest.raises(earlycrop.FlowError, match=r"does not depend on 'unused.weight'"):
        pruner.step(data())
    del model.unused
    event = pruner.step(data())
    assert event is not None
    assert event.dense == sum(p.numel() for p in mlp().parameters() if p.ndim > 1)
    assert event.left == sum(p.numel() for p in model.parameters() if p.ndim > 1) <= event.dense / 2


@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("criterion", ["magnitude", "snip", "crop"])
def test_no_row_that_is_divided_by_its_norm_is_zero(normed: Callable[..., nn.Module], criterion: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated", FutureWarning)
        model = nn.Sequential(
            normed(nn.Linear(6, 32)), nn.ReLU(), normed(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 3)
        )
    optimizer, batches = torch.optim.AdamW(model.parameters(), 0.01), data()
    event = prune(model, loss, batches, criterion, 0.9, structured=False, rounds=3, optimizer=optimizer)
    assert event.achieved >= 0.9
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, batches[0]).backward()
        optimizer.step()
    assert bool(loss(model, batches[0]).isfinite())
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_masks_are_not_lost_by_a_cut() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    event = prune(model, loss, data(), sparsity=0.5, structured=False, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"'0.weight' has hooks that a cut would lose .*: release them first"):
        prune(model, loss, data(), sparsity=0.3, optimizer=optimizer)
    assert event.masks is not None
    event.masks.release()
    model[0].weight.decay = False  # type: ignore[attr-defined]
    prune(model, loss, data(), sparsity=0.3, optimizer=optimizer)
    assert model[0].weight.decay is False  # type: ignore[attr-defined]


def test_a_layer_whose_cut_cannot_be_certified_stays_whole_and_the_rest_is_cut() -> None:
    """A tensor holds its own width, which a run on shapes cannot tell from another."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.c(self.b(x / torch.tensor([x.shape[-1]])).relu())

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 40), c=nn.Linear(40, 3))
    event = prune(model, loss, data(), sparsity=0.5, rounds=3)
    assert event.left <= event.dense // 2
    assert model.a.out_features == 16
    assert model.b.out_features < 40
    assert "a.weight" in event.whole
    assert event.difference is not None
    assert event.difference <= 1e-5


def test_infinities_in_the_outputs_are_equal() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).masked_fill(torch.tensor([True, False, False]), -torch.inf)

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 3))
    assert shrink(model, trace(model, torch.randn(4, 6)), [0, 1]).difference <= 1e-5  # type: ignore[operator]


@pytest.mark.parametrize(
    ("write", "why"), [("slice", "different sizes"), ("select", "only go together"), ("scatter", "not understood")]
)
def test_a_constant_that_is_written_into_is_constant_no_more(write: str, why: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.a(x)
        scale = torch.ones_like(hidden)
        if write == "slice":
            scale[:, 1::2] = -1.0
        elif write == "select":
            scale[:, 0] = 3.0
        else:
            scale = scale.scatter(1, torch.zeros(len(x), 1, dtype=torch.long), -2.0)
        return self.b((hidden * scale).relu())

    model = Net(forward, a=nn.Linear(6, 16), b=nn.Linear(16, 3))
    graph = trace(model, torch.randn(4, 6))
    assert graph.count == 0
    assert why in graph.report()


def test_a_loss_may_look_at_numbers_in_numpy() -> None:
    def looking(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = model(batch[0])
        assert output.detach().cpu().numpy().argmax(1).shape == (8,)
        return functional.cross_entropy(output, batch[1])

    assert prune(mlp(), looking, data(), sparsity=0.5).achieved >= 0.5


@pytest.mark.parametrize("drawn", ["numpy", "python", "counter"])
def test_a_number_that_differs_from_call_to_call_is_no_size(drawn: str) -> None:
    """Mixup draws its share, an annealed loss counts its calls: neither has anything to do with a width."""
    calls = iter(range(1, 1000))

    def mixed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        share = {"numpy": np.random.rand, "python": random.random, "counter": lambda: 1 / next(calls)}[drawn]()
        of_inputs = 1.0 if drawn == "counter" else share
        outputs = model(of_inputs * batch[0] + (1 - of_inputs) * batch[0].flip(0))
        return share * functional.cross_entropy(outputs, batch[1]) + (1 - share) * outputs.square().mean()

    model, batches = mlp(), data()
    before = np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr,call-overload]
    graph = trace(model, lambda m: mixed(m, batches[0]))
    assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[union-attr,call-overload]
    assert random.getstate() == before[1]
    assert graph.count == trace(model, batches[0][0]).count == 32
    assert prune(model, mixed, batches, sparsity=0.5).node_sparsity > 0


def test_a_loss_that_is_not_a_number_is_told_as_such() -> None:
    with pytest.raises(earlycrop.FlowError, match="the loss is nan: it cannot be differentiated"):
        prune(mlp(), lambda m, b: loss(m, b) * float("nan"), data())


def test_a_loss_that_runs_another_model_is_told_so() -> None:
    other = mlp()
    with pytest.raises(TraceError, match="let it run the model that it is given"):
        trace(mlp(), lambda model: other(torch.randn(2, 6)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_hold_after_the_model_was_converted(dtype: torch.dtype) -> None:
    model = mlp()
    prune(model, loss, data(), sparsity=0.5, structured=False)
    gone = {n: p.detach() == 0 for n, p in model.named_parameters() if p.ndim > 1}
    model.to(dtype)
    x, y = data()[0]
    loss(model, (x.to(dtype), y)).backward()
    for n, mask in gone.items():
        assert bool((model.get_parameter(n).grad[mask] == 0).all())  # type: ignore[index]


def test_masks_of_zeros_with_a_frozen_matrix() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0] = 0
    model[0].weight.requires_grad_(False)
    assert int(Masks.of_zeros(model).removed["0.weight"].sum()) == 6


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
    prune(model, loss, data(), sparsity=0.5)
    assert model.cache is None
    assert model.position.stride() == (0, 1)


def test_channels_that_can_only_go_together_are_not_removable() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(), nn.Conv2d(16, 3, 1), nn.Flatten())
    graph = trace(model, torch.randn(2, 3, 5, 5))
    assert graph.count == 0
    assert "all its channels can only go together" in graph.report()


def test_tracing_in_inference_mode_and_without_gradients() -> None:
    model, x = mlp(), torch.randn(2, 6)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            assert trace(model, x).count == 32


def emptied() -> nn.Module:
    with torch.device("meta"):
        return mlp()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


MADE: dict[str, Callable[[nn.Module, Any, Path], Any]] = {
    "prune": lambda model, batches, _: prune(model, loss, batches, sparsity=0.5),
    "shrink": lambda model, batches, _: shrink(model, trace(model, batches[0][0]), [0, 1]),
    "load": lambda model, _, folder: earlycrop.load(folder, model),
    "materialise": lambda model, *_: earlycrop.materialise(model),
}


@pytest.mark.parametrize("name", list(MADE))
def test_what_is_made_in_inference_mode_is_trained_outside(name: str, tmp_path: Path) -> None:
    model, batches = emptied() if name == "materialise" else mlp(), data()
    if name == "load":
        earlycrop.save(model, tmp_path)
    with torch.inference_mode():
        MADE[name](model, batches, tmp_path)
        assert torch.is_inference_mode_enabled()
    assert not any(p.is_inference() for p in model.parameters())
    train(model, torch.optim.SGD(model.parameters(), 0.1), batches)


def test_a_pruner_steps_in_inference_mode_and_without_gradients() -> None:
    outcomes = []
    for context in (nullcontext, torch.inference_mode, torch.no_grad):
        torch.manual_seed(0)
        model, batches = mlp(), data()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        pruner = Pruner(model, optimizer, loss, "taylor", 0.5, epochs=4, options=PrunerOptions(log_triggers=True))
        for _ in range(5):
            with context():
                before = torch.is_grad_enabled()
                pruner.step(batches)
                assert torch.is_grad_enabled() == before
            train(model, optimizer, batches)
        outcomes.append(dict(model.named_parameters()))
    assert outcomes[0]["0.weight"].shape != (16, 6)
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=0, atol=0)
    torch.testing.assert_close(outcomes[2], outcomes[0], rtol=0, atol=0)


def test_a_failing_trial_cut_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    model = Net(lambda self, x: self.b(self.a(x).view(-1, 2, 4).sum(1)), a=nn.Linear(6, 8), b=nn.Linear(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(model, torch.randn(3, 6))
    assert capfd.readouterr().err == ""


def lives(model: nn.Sequential) -> bool:
    """Whether some input reaches some output through weights that are not zero."""
    reached = torch.ones(6, dtype=torch.bool)
    for layer in model[::2]:
        reached = ((layer.weight != 0) & reached).any(1)
    return bool(reached.any())


@pytest.mark.parametrize("criterion", ["random", "magnitude", "crop", "grasp", "snip"])
@pytest.mark.parametrize("sparsity", [0.5, 0.95, 0.98, 0.999])
def test_single_weights_never_cut_a_network_in_two(criterion: str, sparsity: float) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = mlp(10)
        with torch.no_grad():
            model[4].weight.mul_(1e-3)  # a head of little weight, whose last one need not be where the trunk is alive
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "asked to remove")
            event = prune(model, loss, data(), criterion, sparsity, structured=False, rounds=3)
        assert lives(model)
        assert event.left == max(max_remaining(190, sparsity), 3)


@pytest.mark.parametrize("name", ["conv-norm", "residual", "concatenation", "lstm", "gru", "heads", "tied"])
def test_a_path_of_weights_is_left_in_every_network(name: str) -> None:
    """At the highest sparsity there is, every output still depends on the parameters of every layer it passes."""
    model, example = build(name)
    graph = trace(model, example)
    scores = {n: torch.rand_like(p) for n, p in model.named_parameters() if p.ndim > 1}
    kept = path_weights(graph, scores)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in kept:
                p.mul_(kept[n])
    model.eval()
    outputs = model(example)
    total = sum(t.square().sum() for t in (outputs.values() if isinstance(outputs, dict) else [outputs]))
    total.backward()
    assert all(bool(k.any()) for k in kept.values())
    assert sum(int(k.sum()) for k in kept.values()) <= 2 * len(kept) ** 2
    for n in ("stem.weight", "conv.weight", "embedding.weight", "trunk.0.weight"):
        if n in kept:
            assert bool(model.get_parameter(n).grad.any()), n  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", "dense"])
def test_the_optimizer_of_another_model_is_refused_at_once(method: str) -> None:
    other = torch.optim.SGD(mlp().parameters(), 0.1)
    with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
        Pruner(mlp(), other, loss, method, epochs=4)
    with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
        Masks.of_zeros(mlp(), other)
