"""Calls in inference mode and without gradients: what is made there is trained outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import Pruner, PrunerOptions, prune, shrink, trace
from tests.toy import loss, mlp, train_epoch, vectors


def test_tracing_in_inference_mode_and_without_gradients() -> None:
    model, x = mlp(), torch.randn(2, 6)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            assert trace(model, x).count == 32


def emptied() -> nn.Module:
    with torch.device("meta"):
        return mlp()


MADE: dict[str, Callable[[nn.Module, Any, Path], Any]] = {
    "prune": lambda model, batches, _: prune(model, loss, batches, sparsity=0.5),
    "shrink": lambda model, batches, _: shrink(model, trace(model, batches[0][0]), [0, 1]),
    "load": lambda model, _, folder: earlycrop.load(folder, model),
    "materialise": lambda model, *_: earlycrop.materialise(model),
}


@pytest.mark.parametrize("name", list(MADE))
def test_what_is_made_in_inference_mode_is_trained_outside(name: str, tmp_path: Path) -> None:
    model, batches = emptied() if name == "materialise" else mlp(), vectors()
    if name == "load":
        earlycrop.save(model, tmp_path)
    with torch.inference_mode():
        MADE[name](model, batches, tmp_path)
        assert torch.is_inference_mode_enabled()
    assert not any(p.is_inference() for p in model.parameters())
    train_epoch(model, torch.optim.SGD(model.parameters(), 0.1), batches)


def test_a_pruner_steps_in_inference_mode_and_without_gradients() -> None:
    outcomes = []
    for context in (nullcontext, torch.inference_mode, torch.no_grad):
        torch.manual_seed(0)
        model, batches = mlp(), vectors()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        pruner = Pruner(model, optimizer, loss, "taylor", 0.5, epochs=4, options=PrunerOptions(log_triggers=True))
        for _ in range(5):
            with context():
                before = torch.is_grad_enabled()
                pruner.step(batches)
                assert torch.is_grad_enabled() == before
            train_epoch(model, optimizer, batches)
        outcomes.append(dict(model.named_parameters()))
    assert outcomes[0]["0.weight"].shape != (16, 6)
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=0, atol=0)
    torch.testing.assert_close(outcomes[2], outcomes[0], rtol=0, atol=0)
