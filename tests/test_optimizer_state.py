"""What stands around an optimizer: state it cannot follow, wrappers, scalers, schedules, several optimizers at once."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

import earlycrop
from earlycrop import Masks, Pruner, SurgeryError, prune, shrink, trace
from tests.networks import Language
from tests.test_optimizers import Gone, gone_of, kept, optimizers_of, step, with_zeros
from tests.test_surgeon import zeroed


def mlp(width: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
    ).double()


class EightBit(torch.optim.Optimizer):
    """Sign momentum, kept in 8 bits: a number's code, and a scale for each block of four."""

    def __init__(self, parameters: Any, lr: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any) -> None:
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["codes"] = torch.full_like(p, 128, dtype=torch.uint8)
                    state["scale"] = torch.zeros(-(-p.numel() // 4), dtype=p.dtype)
                blocks = state["scale"].repeat_interleave(4)[: p.numel()].view_as(p)
                momentum = 0.9 * (state["codes"].to(p.dtype) - 128) / 127 * blocks + p.grad
                padded = nn.functional.pad(momentum.flatten(), (0, -p.numel() % 4)).view(-1, 4)
                state["scale"] = padded.abs().amax(1)
                blocks = state["scale"].clamp(min=1e-12).repeat_interleave(4)[: p.numel()].view_as(p)
                state["codes"] = (momentum / blocks * 127 + 128).round().to(torch.uint8)
                p -= group["lr"] * momentum.sign()


class Odd(torch.optim.SGD):
    """Keeps what it knows where ``what`` says."""

    def __init__(self, parameters: Any, what: str) -> None:
        super().__init__(parameters, 0.1)
        held = self.param_groups[0]["params"]
        if what == "attribute":
            self.slow = {"first": [held[0]]}
        elif what == "group":
            self.param_groups[0]["slow"] = list(held)
        elif what == "name":
            self.state["0.weight"] = {"slow": held[0].detach().clone()}  # type: ignore[index]
        elif what == "list":
            self.state[held[0]]["history"] = [held[0].detach().clone()]
        elif what == "flat":
            self.state[held[0]]["flat"] = held[0].detach().flatten()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (EightBit, r"EightBit keeps 'codes' for '0.weight' in uint8: .* share their scale .*state.clear"),
        (lambda p: Odd(p, "attribute"), "Odd holds parameters in 'slow' as well"),
        (lambda p: Odd(p, "group"), "Odd holds parameters in 'slow' as well"),
        (lambda p: Odd(p, "name"), "Odd keeps state by '0.weight' and not by parameter"),
        (lambda p: Odd(p, "list"), "Odd keeps 'history' for '0.weight' as a list of tensors"),
        (lambda p: Odd(p, "flat"), "Odd keeps 'flat' for '0.weight' in a form that does not follow"),
    ],
)
def test_state_that_cannot_follow_is_refused(make: Callable[[Any], Optimizer], sentence: str) -> None:
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = make(list(model.parameters()))
    step(model, [optimizer], x)
    held = [id(p) for p in model.parameters()]
    with pytest.raises(SurgeryError, match=sentence):
        shrink(model, trace(model, x), [0, 15], optimizer)
    assert [id(p) for p in model.parameters()] == held == [id(p) for p in optimizer.param_groups[0]["params"]]


def test_state_that_was_cleared_starts_afresh() -> None:
    """What the refusal says to do, in the middle of a run."""
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = EightBit(model.parameters())
    step(model, [optimizer], x)
    optimizer.state.clear()
    shrink(model, trace(model, x), [0, 15], optimizer)
    step(model, [optimizer], x)
    assert optimizer.state[model[0].weight]["codes"].shape == (11, 6)


class Sharpness(torch.optim.Optimizer):
    """Sharpness-aware minimisation around another optimizer, with which it shares the groups."""

    def __init__(self, parameters: Any, kind: type[Optimizer], **options: Any) -> None:
        super().__init__(parameters, options)
        self.base = kind(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                self.state[p]["climb"] = p.grad * 0.05
                p += self.state[p]["climb"]
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= self.state[p]["climb"]
        self.base.step()


def test_an_optimizer_around_another_is_followed_with_it() -> None:
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = Sharpness(model.parameters(), torch.optim.Adam, lr=0.01)
    graph = trace(model, x)

    def go(m: nn.Module, o: Optimizer, gone: Gone | None = None) -> None:
        step(m, [torch.optim.SGD(m.parameters(), 0.0)], x, gone)
        step(m, [o], x, gone)

    go(model, optimizer)
    masked = zeroed(model, graph, [0, 15])
    other = Sharpness(masked.parameters(), torch.optim.Adam, lr=0.01)
    other.base.load_state_dict(copy.deepcopy(optimizer.base.state_dict()))
    shrink(model, graph, [0, 15], optimizer)
    assert (
        {id(p) for p in optimizer.base.state} == {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    )
    gone = gone_of(graph, [0, 15])
    go(model, optimizer)
    go(masked, other, gone)
    for n, p in masked.named_parameters():
        torch.testing.assert_close(model.get_parameter(n).detach(), kept(p.detach(), gone.get(n, [])))


@pytest.mark.parametrize("when", ["scaled", "unscaled", "stepped"])
def test_a_gradient_scaler_goes_on(when: str) -> None:
    """The cut comes between the scaler's calls; the step is the one without a scaler."""
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    graph = trace(model, x)
    masked = zeroed(model, graph, [0, 15])
    optimizer = torch.optim.Adam(model.parameters(), 0.01, fused=True)
    other = torch.optim.Adam(masked.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    gone = gone_of(graph, [0, 15])
    if when == "stepped":
        shrink(model, graph, [0, 15], optimizer)
    scaler.scale((model(x).tanh() ** 2).mean()).backward()
    masked_gradient = copy.deepcopy(masked)
    (masked_gradient(x).tanh() ** 2).mean().backward()
    if when == "unscaled":
        scaler.unscale_(optimizer)
    if when != "stepped":  # the gradients at hand are those of the dense network
        dense = {n: p.grad.clone() for n, p in model.named_parameters()}  # type: ignore[union-attr]
        shrink(model, graph, [0, 15], optimizer)
        scale = 1.0 if when == "unscaled" else 1024.0
        for n, p in masked.named_parameters():
            p.grad = with_zeros(dense[n] / scale, gone.get(n, []))
    else:
        for p, q in zip(masked.parameters(), masked_gradient.parameters(), strict=True):
            p.grad = q.grad
    scaler.step(optimizer)
    scaler.update()
    other.step()
    assert scaler.get_scale() == 2048.0
    for n, p in masked.named_parameters():
        torch.testing.assert_close(model.get_parameter(n).detach(), kept(p.detach(), gone.get(n, [])))
    optimizer.zero_grad()
    scaler.scale((model(x).tanh() ** 2).mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4096.0


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=10),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.PolynomialLR(o)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, anneal_epochs=4),
}


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_a_schedule_goes_on_as_if_nothing_had_been_cut(name: str) -> None:
    def rates(cut: bool) -> list[tuple[float, float]]:
        model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        scheduler, seen = SCHEDULERS[name](optimizer), []
        for i in range(8):
            step(model, [optimizer], x)
            scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])
            if cut and i == 3:
                shrink(model, trace(model, x), [0, 15], optimizer)
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        return seen

    assert rates(True) == rates(False)
    assert len(set(rates(True))) > 2


def test_nothing_holds_the_parameters_from_before() -> None:
    """Not the optimizer, its scheduler, the scaler, the copy or the model: they are freed."""
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters())
    ema = torch.optim.swa_utils.AveragedModel(model)
    kept_alive = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9), torch.amp.GradScaler("cpu"), ema
    kept_alive[1].scale((model(x) ** 2).mean()).backward()
    kept_alive[1].step(optimizer)
    kept_alive[1].update()
    graph = trace(model, x)
    old = [weakref.ref(p) for m in (model, ema) for p in m.parameters() if p.shape[0] == 12]
    shrink(model, graph, [0, 15], optimizer, copies=[ema])
    gc.collect()
    assert len(old) == 8
    assert all(ref() is None for ref in old)


def pair(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [torch.optim.Muon(matrices, 0.02), torch.optim.AdamW([p for p in model.parameters() if p.ndim != 2], 0.01)]


def data() -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(3, 16, 6, generator=g, dtype=torch.float64)
    return [(batch, batch[:, :3].argmax(1)) for batch in x]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def epoch(model: nn.Module, optimizers: list[Optimizer]) -> None:
    for batch in data():
        model.zero_grad()
        loss(model, batch).backward()
        for o in optimizers:
            o.step()


@pytest.mark.parametrize("structured", [True, False])
def test_prune_takes_several_optimizers(structured: bool) -> None:
    model = mlp()
    optimizers = pair(model)
    epoch(model, optimizers)
    event = prune(model, loss, data(), sparsity=0.5, structured=structured, optimizer=optimizers)
    zeros = {n: p.detach() == 0 for n, p in model.named_parameters()}
    assert sum(int(z.sum()) for z in zeros.values()) == (0 if structured else event.dense - event.left)
    for _ in range(2):
        epoch(model, optimizers)
    held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert all(bool((model.get_parameter(n)[z] == 0).all()) for n, z in zeros.items()), "Muon moved a removed weight"


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_a_pruner_with_several_optimizers_goes_on_from_a_checkpoint(method: str, tmp_path: Path) -> None:
    def start(model: nn.Module) -> tuple[nn.Module, list[Optimizer], Pruner]:
        optimizers = pair(model)
        return model, optimizers, Pruner(model, optimizers, loss, method, 0.5, epochs=6)

    def epochs(model: nn.Module, optimizers: list[Optimizer], pruner: Pruner, n: int) -> None:
        for _ in range(n):
            epoch(model, optimizers)
            pruner.step(data())

    whole = start(mlp())
    whole[2].step(data())
    epochs(*whole, 4)
    assert whole[2].event is not None
    earlycrop.save(whole[0], tmp_path)
    state = {"optimizers": [o.state_dict() for o in whole[1]], "pruner": whole[2].state_dict()}
    earlycrop.save_state(state, tmp_path / "state")
    epochs(*whole, 2)

    state = earlycrop.load_state(tmp_path / "state")
    resumed = start(earlycrop.load(tmp_path, mlp()))
    for o, held in zip(resumed[1], state["optimizers"], strict=True):
        o.load_state_dict(held)
    resumed[2].load_state_dict(state["pruner"])
    epochs(*resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True))


def test_one_of_several_optimizers_that_is_another_models_is_refused() -> None:
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(mlp().parameters(), 0.1)]
    for call in (
        lambda: shrink(model, trace(model, x), [0], optimizers),
        lambda: Pruner(model, optimizers, loss, epochs=6),
        lambda: Masks.of_zeros(model, optimizers),
        lambda: prune(model, loss, data(), optimizer=optimizers),
    ):
        with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
            call()


def test_gradients_and_memory_formats_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    model.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step(model, [optimizer], x)
    model[0].bias.grad = None
    model[2].weight.grad = model[2].weight.grad.contiguous()  # type: ignore[union-attr]
    model[4].requires_grad_(False)
    before = copy.deepcopy(model)
    gradient = model[2].weight.grad
    shrink(model, trace(model, x), [1, 9], optimizer)
    assert model[0].bias.grad is None
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[2].weight.is_contiguous()
    assert optimizer.state[model[0].weight]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
    expected = gradient[[0, 2, 3, 4, 5]][:, [0, *range(2, 8)]]  # type: ignore[index]
    assert torch.equal(model[2].weight.grad, expected)
    assert model[2].weight.grad.is_contiguous()
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False] * 2
    assert torch.equal(model[4].weight, before[4].weight[:, [0, 2, 3, 4, 5]])


class Lists(nn.Module):
    """Parameters in a list and a dict, one shared, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 8))])
        self.named = nn.ParameterDict({"out": nn.Parameter(torch.randn(3, 8))})
        self.again = nn.ParameterList([self.named["out"]])
        self.register_buffer("scale", torch.rand(8) + 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = (x @ w.T).tanh()
        return (x * self.scale) @ self.named["out"].T + x @ self.again[0].T


def test_parameters_in_lists_and_buffers_that_are_not_saved() -> None:
    model, x = Lists().double(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, [optimizer], x)
    graph = trace(model, x)
    assert graph.count == 16
    masked = zeroed(model, graph, [0, 1, 9])
    shrink(model, graph, [0, 1, 9], optimizer)
    torch.testing.assert_close(model(x), masked(x))
    assert [tuple(w.shape) for w in model.weights] == [(6, 6), (7, 6)]
    assert model.named["out"] is model.again[0]
    assert model.scale.shape == (7,)
    assert "scale" not in model.state_dict()
    step(model, [optimizer], x)


def test_module_hooks_stay() -> None:
    model, x = mlp(), torch.randn(5, 6, dtype=torch.float64)
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    model.register_forward_pre_hook(lambda m, i: (i[0] * 2,))
    graph = trace(model, x)
    masked = zeroed(model, graph, [0, 15])
    shrink(model, graph, [0, 15])
    seen.clear()
    torch.testing.assert_close(model(x), masked(x))
    assert seen == [(5, 11), (5, 12)]


def test_recurrent_layers_follow_under_muon() -> None:
    """Gates that are stacked in one matrix lose the same rows in the momentum."""
    model = Language(nn.LSTM).double()
    x = torch.randint(0, 9, (3, 5))
    optimizers = optimizers_of("Muon", {}, model)
    step(model, optimizers, x)
    weight = model.rnn.weight_hh_l0
    momentum = optimizers[0].state[weight]["momentum_buffer"].clone()
    graph = trace(model, x)
    node = next(n for n in graph.nodes if any(name == "rnn.weight_hh_l0" for name, _, _ in n.owns))
    rows, columns = (next(i for name, d, i in node.owns if (name, d) == ("rnn.weight_hh_l0", dim)) for dim in (0, 1))
    shrink(model, graph, [node.index], optimizers)
    expected = momentum[np.setdiff1d(np.arange(28), rows)][:, np.setdiff1d(np.arange(7), columns)]
    assert torch.equal(optimizers[0].state[model.rnn.weight_hh_l0]["momentum_buffer"], expected)
