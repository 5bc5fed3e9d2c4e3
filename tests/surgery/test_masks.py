"""Removed weights are zero after every step of any optimizer; the rest is trained as if they had never been there."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Limits, Masks, prune
from tests.toy import Forwarding, loss, mlp, vectors

OPTIMIZERS: dict[str, Any] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "Adagrad": {"lr_decay": 0.1},
    "Adadelta": {},
    "ASGD": {},
    "RMSprop": {"momentum": 0.5},
    "Rprop": {},
    "Adafactor": {},
    "Muon": {"lr": 0.1},  # orthogonalises the gradient: it moves weights whose gradient is zero
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))


def removed_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.rand_like(p) < 0.5 for n, p in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: float | None = None) -> list[float]:
    norms = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        x = torch.randn(5, 6)
        (model(x) - x[:, :4]).square().mean().backward()
        if clip is not None:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
    return norms


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_stay_at_zero(name: str) -> None:
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    train(model, optimizer, 3)  # momentum is there before the weights go
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    kept_before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        train(model, optimizer, 1)
        for n, p in model.named_parameters():
            assert bool((p[removed[n]] == 0).all())
            assert bool((p.grad[removed[n]] == 0).all())  # type: ignore[index]
    assert any(not torch.equal(p[~removed[n]], kept_before[n][~removed[n]]) for n, p in model.named_parameters())


def test_weights_stay_at_zero_under_a_wrapper_that_takes_no_hooks() -> None:
    model = network()
    optimizer = Forwarding(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 3)
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    for p in optimizer.state:
        optimizer.state[p]["momentum_buffer"].fill_(1)
    train(model, optimizer, 1)
    assert all(bool((p[removed[n]] == 0).all()) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_the_rest_is_trained_as_if_the_removed_had_never_been_there(name: str) -> None:
    """Against a network whose forward multiplies by the mask, with clipping, from a fresh optimizer."""
    model, other = network(), network()
    removed = removed_of(model)
    masks = Masks(model, removed, optimizer := getattr(torch.optim, name)(model.parameters(), lr=0.05))
    assert masks.removed.keys() == removed.keys()
    for i in (0, 2):
        nn.utils.parametrize.register_parametrization(other[i], "weight", Times(~removed[f"{i}.weight"]))
    reference = getattr(torch.optim, name)(other.parameters(), lr=0.05)
    norms = train(model, optimizer, 5, clip=0.1)
    assert norms == pytest.approx(train(other, reference, 5, clip=0.1))
    for i in (0, 2):
        torch.testing.assert_close(model[i].weight, other[i].weight)


class Times(nn.Module):
    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, w: Tensor) -> Tensor:
        return w * self.keep


def test_sparse_gradients_of_an_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Flatten(), nn.Linear(24, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ids = torch.randint(0, 10, (6, 3))

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        return m(batch).square().mean()

    include = Limits(include=["0"])
    event = prune(model, loss, [ids], "crop", 0.5, structured=False, optimizer=optimizer, limits=include)
    assert model[0].sparse
    assert event.masks is not None
    gone, before = event.masks.removed["0.weight"], model[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss(model, ids).backward()
        assert model[0].weight.grad.is_sparse  # type: ignore[union-attr]
        optimizer.step()
    assert bool((model[0].weight[gone] == 0).all())
    assert not torch.equal(model[0].weight, before)


def test_under_a_gradient_scaler() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    removed = removed_of(model)
    Masks(model, removed, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = model(torch.randn(5, 6)).float().square().mean()
        if step == 2:
            value = value * float("inf")  # this step is skipped, and the weights must be zero all the same
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        for n, p in model.named_parameters():
            assert bool((p[removed[n]] == 0).all())
            assert bool(p.isfinite().all())


def test_gradients_at_hand_are_masked_and_hooks_are_released() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(5, 6)).sum().backward()
    removed = removed_of(model)
    masks = Masks(model, removed, optimizer)
    assert all(bool((p.grad[removed[n]] == 0).all()) for n, p in model.named_parameters())  # type: ignore[index]
    masks.release()
    train(model, optimizer, 1)
    assert any(bool((p[removed[n]] != 0).any()) for n, p in model.named_parameters())


def test_masks_of_zeros_hold_a_loaded_network() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0
    optimizer = torch.optim.AdamW(model.parameters())
    masks = Masks.of_zeros(model, optimizer)
    train(model, optimizer, 2)
    assert int(masks.removed["0.weight"].sum()) == 6
    assert bool((model[0].weight[2] == 0).all())
    assert bool((model[0].weight[3] != 0).all())


def test_a_deep_copy_is_held_by_masks_of_its_own() -> None:
    model = network()
    removed = removed_of(model)
    Masks(model, removed)
    for masked in (False, True):
        other = copy.deepcopy(model)
        optimizer = torch.optim.SGD(other.parameters(), 0.1)
        if masked:
            Masks.of_zeros(other, optimizer)
        train(other, optimizer, 2)
        assert all(bool((p[removed[n]] == 0).all()) for n, p in other.named_parameters()) == masked


def test_a_mask_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask of 'nothing' fits no parameter"):
        Masks(network(), {"nothing": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the mask of '0.weight' fits no parameter"):
        Masks(network(), {"0.weight": torch.zeros(2, 2, dtype=torch.bool)})


@pytest.mark.parametrize("part", ["", "0"])
def test_parameters_that_are_loaded_in_the_place_of_others_are_held(part: str) -> None:
    model = network()
    removed = removed_of(model)
    masks = Masks(model, removed, torch.optim.SGD(model.parameters(), 0.1))
    dense = {n: torch.randn_like(t) for n, t in model.state_dict().items() if n.startswith(part)}
    loaded = model.get_submodule(part)
    loaded.load_state_dict({n.removeprefix(f"{part}."): t for n, t in dense.items()}, assign=True)
    assert model[0].weight is not masks._optimizers[0].param_groups[0]["params"][0]
    for steps in (0, 3):
        train(model, torch.optim.AdamW(model.parameters(), weight_decay=0.1), steps)
        assert all(bool((p[removed[n]] == 0).all()) for n, p in model.named_parameters())
    masks.release()
    loaded.load_state_dict(loaded.state_dict(), assign=True)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 1)
    assert bool((model[0].weight[removed["0.weight"]] != 0).any())


def test_a_loaded_state_is_masked_at_once_and_a_copy_s_is_not() -> None:
    model = network()
    removed = removed_of(model)
    masks = Masks(model, removed)
    dense = {n: torch.randn_like(t) for n, t in model.state_dict().items()}
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for m, masked in ((model, True), (other, False)):
        m.load_state_dict(dense)
        assert all(bool((p[removed[n]] == 0).all()) for n, p in m.named_parameters()) == masked
    model[0].weight = nn.Parameter(torch.ones(8, 6))  # by hand: nobody is told
    masks.hold()
    assert torch.equal(model[0].weight == 0, removed["0.weight"])


def test_tied_weights_that_come_apart_are_both_held() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    removed = {"0.weight": torch.rand(6, 6) < 0.5}
    masks = Masks(model, removed)
    model.load_state_dict({f"{i}.weight": torch.randn(6, 6) for i in range(2)}, assign=True)
    assert masks.removed.keys() == removed.keys()
    model(torch.randn(2, 6)).sum().backward()
    for layer in model:
        assert bool((layer.weight[removed["0.weight"]] == 0).all())
        assert bool((layer.weight.grad[removed["0.weight"]] == 0).all())


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float8_e5m2, torch.complex64, torch.complex128])
def test_weights_of_any_width_are_zeroed_exactly(kind: torch.dtype) -> None:
    model = nn.Module()
    values = torch.tensor([[1.0, -2.0], [0.5, -0.0]]).to(kind)
    model.weight = nn.Parameter(values.clone(), requires_grad=False)
    removed = torch.tensor([[True, False], [False, True]])
    Masks(model, {"weight": removed})
    expected = torch.tensor([[0.0, -2.0], [0.5, 0.0]]).to(kind)
    assert torch.equal(model.weight.to(torch.complex128), expected.to(torch.complex128))


def test_whole_numbers_are_no_weights_that_are_gone() -> None:
    """Quantised weights, say: zero is a value of theirs as any other."""
    model = network()
    model.table = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with torch.no_grad():
        model[0].weight[2] = 0
    removed = Masks.of_zeros(model).removed
    assert removed.keys() == {"0.weight", "2.weight"}
    assert int(removed["0.weight"].sum()) == 6


def test_a_weight_that_is_parametrized_later_stays_held() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masks = Masks(model, {"0.weight": torch.rand(8, 4) < 0.5, "1.weight": torch.rand(2, 8) < 0.5}, optimizer)
    nn.utils.parametrize.register_parametrization(model[0], "weight", Doubled())
    masks.hold()
    original = model[0].parametrizations.weight.original
    for p in (original, model[1].weight):
        optimizer.state[p]["momentum_buffer"] = torch.ones_like(p)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert not original[masks.removed["0.weight"]].any()
    assert not model[1].weight[masks.removed["1.weight"]].any()


def test_masks_are_not_lost_by_a_cut() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    event = prune(model, loss, vectors(), sparsity=0.5, structured=False, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"'0.weight' has hooks that a cut would lose .*: release them first"):
        prune(model, loss, vectors(), sparsity=0.3, optimizer=optimizer)
    assert event.masks is not None
    event.masks.release()
    model[0].weight.decay = False  # type: ignore[attr-defined]
    prune(model, loss, vectors(), sparsity=0.3, optimizer=optimizer)
    assert model[0].weight.decay is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_hold_after_the_model_was_converted(dtype: torch.dtype) -> None:
    model = mlp()
    prune(model, loss, vectors(), sparsity=0.5, structured=False)
    gone = {n: p.detach() == 0 for n, p in model.named_parameters() if p.ndim > 1}
    model.to(dtype)
    x, y = vectors()[0]
    loss(model, (x.to(dtype), y)).backward()
    for n, mask in gone.items():
        assert bool((model.get_parameter(n).grad[mask] == 0).all())  # type: ignore[index]


def test_masks_of_zeros_with_a_frozen_matrix() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0] = 0
    model[0].weight.requires_grad_(False)
    assert int(Masks.of_zeros(model).removed["0.weight"].sum()) == 6
