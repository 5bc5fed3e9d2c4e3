"""Optimizers in practice: unsupported state, wrappers, gradient scalers and schedulers."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from earlycrop import SurgeryError, shrink, trace
from tests.oracles import Gone, gone_of, kept, step, with_zeros, zeroed
from tests.toy import tanh_mlp


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
        params = self.param_groups[0]["params"]
        if what == "attribute":
            self.slow = {"first": [params[0]]}
        elif what == "group":
            self.param_groups[0]["slow"] = list(params)
        elif what == "name":
            self.state["0.weight"] = {"slow": params[0].detach().clone()}  # type: ignore[index]
        elif what == "list":
            self.state[params[0]]["history"] = [params[0].detach().clone()]
        elif what == "flat":
            self.state[params[0]]["flat"] = params[0].detach().flatten()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (EightBit, r"EightBit keeps 'codes' for '0.weight' in uint8: .* share a scale .*state.clear"),
        (lambda p: Odd(p, "attribute"), "Odd also holds parameters in 'slow'"),
        (lambda p: Odd(p, "group"), "Odd also holds parameters in 'slow'"),
        (lambda p: Odd(p, "name"), "Odd keeps state by '0.weight' and not by parameter"),
        (lambda p: Odd(p, "list"), "Odd keeps 'history' for '0.weight' as a list of tensors"),
        (lambda p: Odd(p, "flat"), "Odd keeps 'flat' for '0.weight' in a form that does not follow"),
    ],
)
def test_state_that_cannot_follow_is_refused(make: Callable[[Any], Optimizer], sentence: str) -> None:
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = make(list(model.parameters()))
    step(model, [optimizer], x)
    identities = [id(p) for p in model.parameters()]
    with pytest.raises(SurgeryError, match=sentence):
        shrink(model, trace(model, x), [0, 15], optimizer)
    assert [id(p) for p in model.parameters()] == identities == [id(p) for p in optimizer.param_groups[0]["params"]]


def test_state_that_was_cleared_starts_afresh() -> None:
    """What the refusal says to do, in the middle of a run."""
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
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
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
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
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
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
        model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
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
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters())
    ema = torch.optim.swa_utils.AveragedModel(model)
    kept_alive = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9), torch.amp.GradScaler("cpu"), ema
    kept_alive[1].scale((model(x) ** 2).mean()).backward()
    kept_alive[1].step(optimizer)
    kept_alive[1].update()
    graph = trace(model, x)
    old = {p.data_ptr() for m in (model, ema) for p in m.parameters() if p.shape[0] == 12}
    shrink(model, graph, [0, 15], optimizer, ema_models=[ema])
    gc.collect()
    alive = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and 12 in t.shape]
    assert len(old) == 8
    assert not old & {t.data_ptr() for t in alive}
