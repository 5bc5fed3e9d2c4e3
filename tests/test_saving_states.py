"""Round trips of training states, and what a state cannot hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from tests.networks import build
from tests.toy import mlp


def test_a_training_state_comes_back_exactly(tmp_path: Path) -> None:
    model, example = build("conv-norm", torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.8, 0.99))
    model(example).mean().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "loss": 0.1 + 0.2, "inf": float("inf"),
        "names": ["a", "b"], "none": None, "flag": True, "nested": {"1": {2: "int key"}}, "shared": [example, example],
    }  # fmt: skip
    earlycrop.save_state(state, tmp_path / "deep" / "state.safetensors")
    back = earlycrop.load_state(tmp_path / "deep" / "state.safetensors")
    assert back["loss"] == state["loss"]
    assert back["nested"] == {"1": {2: "int key"}}
    assert (back["names"], back["none"], back["flag"], back["inf"]) == (["a", "b"], None, True, float("inf"))
    assert torch.equal(back["rng"], torch.get_rng_state())
    other = torch.optim.Adam(build("conv-norm", torch.float32)[0].parameters())
    other.load_state_dict(back["optimizer"])
    for a, b in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(TypeError, match="cannot hold a object"):
        earlycrop.save_state({"x": object()}, tmp_path / "bad.safetensors")
    assert not (tmp_path / "bad.safetensors").exists()


def test_tensors_keep_their_order_in_memory(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 5, 5)
    state = {
        "contiguous": images, "channels last": images.to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).t(), "part": torch.randn(6)[::2], "repeated": torch.randn(2, 3).expand(4, 2, 3),
        "nothing": torch.randn(3, 0), "number": torch.tensor(2.0),
    }  # fmt: skip
    back = earlycrop.load_state(earlycrop.save_state(state, tmp_path / "state"))
    assert all(torch.equal(t, back[name]) for name, t in state.items())
    dense = [name for name in state if name not in ("part", "repeated")]
    assert {name: back[name].stride() for name in dense} == {name: state[name].stride() for name in dense}


def test_a_fused_optimizer_goes_on_with_channels_last(tmp_path: Path) -> None:
    """Fused kernels walk through memory, whatever the strides of parameter and state are."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    def fused(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), fused=True)

    torch.manual_seed(0)
    images = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = fused(model)
    step(model, optimizer)
    copied = copy.deepcopy(model)
    earlycrop.save_state(optimizer.state_dict(), tmp_path / "state")
    resumed = fused(copied)
    resumed.load_state_dict(earlycrop.load_state(tmp_path / "state"))
    step(model, optimizer)
    step(copied, resumed)
    assert torch.equal(model.weight, copied.weight)


@pytest.mark.parametrize("key", [(1, 2), 2 + 1j])
def test_a_key_that_would_not_come_back_is_refused_when_saving(key: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a training state cannot have \(.*\) as a key: make it a number or a string"):
        earlycrop.save_state({"a": {key: 3}}, tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_type_that_a_file_cannot_hold_is_named(tmp_path: Path) -> None:
    table = torch.zeros(2, dtype=torch.uint8).view(torch.bits8)
    with pytest.raises(TypeError, match=r"a file cannot hold tensors of type torch.bits8: convert them first"):
        earlycrop.save_state({"table": table}, tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_path_with_a_nul_is_a_sentence(tmp_path: Path) -> None:
    for call in (
        lambda: earlycrop.save(mlp(), f"{tmp_path}/a\0b"),
        lambda: earlycrop.load(f"{tmp_path}/a\0b", mlp()),
        lambda: earlycrop.save_state({"epoch": 1}, f"{tmp_path}/a\0b"),
        lambda: earlycrop.load_state(f"{tmp_path}/a\0b"),
    ):
        with pytest.raises(earlycrop.SavingError, match=r"there is no file|has a NUL character"):
            call()
    assert not list(tmp_path.iterdir())
