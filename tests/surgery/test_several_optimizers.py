"""Several optimizers for one model: cut together, held to masks, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import earlycrop
from earlycrop import Masks, Pruner, prune, shrink, trace
from tests.toy import loss, tanh_mlp


def pair(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [torch.optim.Muon(matrices, 0.02), torch.optim.AdamW([p for p in model.parameters() if p.ndim != 2], 0.01)]


def data() -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(3, 16, 6, generator=g, dtype=torch.float64)
    return [(batch, batch[:, :3].argmax(1)) for batch in x]


def epoch(model: nn.Module, optimizers: list[Optimizer]) -> None:
    for batch in data():
        model.zero_grad()
        loss(model, batch).backward()
        for o in optimizers:
            o.step()


@pytest.mark.parametrize("structured", [True, False])
def test_prune_takes_several_optimizers(structured: bool) -> None:
    model = tanh_mlp()
    optimizers = pair(model)
    epoch(model, optimizers)
    event = prune(model, loss, data(), sparsity=0.5, structured=structured, optimizer=optimizers)
    zeros = {n: p.detach() == 0 for n, p in model.named_parameters()}
    assert sum(int(z.sum()) for z in zeros.values()) == (0 if structured else event.dense - event.left)
    for _ in range(2):
        epoch(model, optimizers)
    identities = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    assert identities == {id(p) for p in model.parameters()}
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

    uninterrupted = start(tanh_mlp())
    uninterrupted[2].step(data())
    epochs(*uninterrupted, 4)
    assert uninterrupted[2].event is not None
    earlycrop.save(uninterrupted[0], tmp_path)
    state = {"optimizers": [o.state_dict() for o in uninterrupted[1]], "pruner": uninterrupted[2].state_dict()}
    earlycrop.save_state(state, tmp_path / "state")
    epochs(*uninterrupted, 2)

    state = earlycrop.load_state(tmp_path / "state")
    resumed = start(earlycrop.load(tmp_path, tanh_mlp()))
    for o, optimizer_state in zip(resumed[1], state["optimizers"], strict=True):
        o.load_state_dict(optimizer_state)
    resumed[2].load_state_dict(state["pruner"])
    epochs(*resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted[0].parameters(), resumed[0].parameters(), strict=True))


def test_one_of_several_optimizers_that_is_another_models_is_refused() -> None:
    model, x = tanh_mlp(), torch.randn(5, 6, dtype=torch.float64)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(tanh_mlp().parameters(), 0.1)]
    for call in (
        lambda: shrink(model, trace(model, x), [0], optimizers),
        lambda: Pruner(model, optimizers, loss, epochs=6),
        lambda: Masks.of_zeros(model, optimizers),
        lambda: prune(model, loss, data(), optimizer=optimizers),
    ):
        with pytest.raises(ValueError, match="the optimizer holds none of the model's parameters"):
            call()
