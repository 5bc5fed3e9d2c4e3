"""EMA models are cut at the same places, keep their own values, and are updated as the masked network's are."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

import earlycrop
from earlycrop import Pruner, prune, shrink, trace
from tests.networks import build
from tests.oracles import gone_of, kept, some_nodes, step, zeroed
from tests.toy import loss, vectors

pytestmark = pytest.mark.usefixtures("without_type_checks")

data = partial(vectors, seed=4)

AVERAGES: dict[str, dict[str, Any]] = {
    "ema": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.8)},
    "ema, one by one": {"avg_fn": swa_utils.get_ema_avg_fn(0.8)},
    "swa": {},
    "buffers": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.8), "use_buffers": True},
}


@pytest.mark.parametrize("average", list(AVERAGES))
@pytest.mark.parametrize("name", ["conv-norm", "residual", "lstm", "tied"])
def test_an_average_goes_on_entry_for_entry(name: str, average: str) -> None:
    model, example = build(name)
    graph = trace(model, example)
    remove = some_nodes(graph, 0.4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    ema = swa_utils.AveragedModel(model, **AVERAGES[average])
    for _ in range(3):
        model.train()(example)
        step(model, [optimizer], example)
        ema.update_parameters(model)
    masked = zeroed(model, graph, remove)
    other = copy.deepcopy(ema)
    shrink(model, graph, remove, optimizer, ema_models=[ema])
    with torch.no_grad():
        for p in (*model.parameters(), *masked.parameters()):
            p.mul_(0.7)
    ema.update_parameters(model)
    other.update_parameters(masked)
    gone, small = gone_of(graph, remove), ema.module.state_dict()
    assert int(ema.n_averaged) == 4
    # an entry may be in another lane of a vector than before the cut, and differ in its last bit
    for n, t in (*other.module.named_parameters(), *other.module.named_buffers()):
        torch.testing.assert_close(small[n], kept(t.detach(), gone.get(n, [])), rtol=1e-12, atol=1e-12)
    assert ema(example).shape == model(example).shape


def test_norms_of_an_average_are_updated() -> None:
    """``update_bn`` on the small average gives the statistics of the average whose removed channels are zero."""
    model, x = build("conv-norm")
    ema = swa_utils.AveragedModel(model)
    ema.update_parameters(model)
    graph = trace(model, x)
    other = zeroed(ema.module, graph, [0, 5])
    shrink(model, graph, [0, 5], ema_models=[ema])
    swa_utils.update_bn([x, x + 1], ema)
    swa_utils.update_bn([x, x + 1], other)
    stays = [i for i in range(12) if i not in (0, 5)]
    torch.testing.assert_close(ema.module.norm.running_var, other.norm.running_var[stays])
    torch.testing.assert_close(ema(x), other(x))


def test_several_copies_and_plain_ones() -> None:
    model, x = build("mlp")
    teacher, ema = copy.deepcopy(model).requires_grad_(False), swa_utils.AveragedModel(model)
    wrapped = nn.Module()
    wrapped.module = copy.deepcopy(model)  # as other libraries' averages hold it
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(2)
    graph = trace(model, x)
    masked = zeroed(teacher, graph, [1, 12])
    shrink(model, graph, [1, 12], ema_models=(teacher, ema, wrapped))
    torch.testing.assert_close(teacher(x), masked(x))
    assert [tuple(p.shape) for m in (teacher, ema, wrapped) for p in m.parameters()] == [
        tuple(p.shape) for p in model.parameters()
    ] * 3
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_a_pruner_takes_averages_with_it_and_goes_on_from_a_checkpoint(method: str, tmp_path: Any) -> None:
    def start(model: nn.Module, ema: nn.Module) -> tuple[Any, ...]:
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        return model, ema, optimizer, Pruner(model, optimizer, loss, method, 0.5, epochs=6, ema_models=[ema])

    def epochs(run: tuple[Any, ...], n: int) -> None:
        model, ema, optimizer, pruner = run
        for _ in range(n):
            for batch in data():
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
                ema.update_parameters(model)
            pruner.step(data())

    def fresh() -> tuple[nn.Module, nn.Module]:
        model = build("mlp", torch.float32)[0]
        return model, swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))

    run = start(*fresh())
    run[3].step(data())
    epochs(run, 4)
    model, ema, optimizer, pruner = run
    assert pruner.event is not None
    if method == "earlycrop-u":
        for p, q in zip(model.parameters(), ema.parameters(), strict=True):
            assert p.ndim == 1 or bool((q[p == 0] == 0).all())
    assert [p.shape for p in ema.parameters()] == [p.shape for p in model.parameters()]
    earlycrop.save(model, tmp_path / "model")
    earlycrop.save(ema, tmp_path / "ema")
    state = {"optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}
    earlycrop.save_state(state, tmp_path / "state")
    epochs(run, 2)

    state = earlycrop.load_state(tmp_path / "state")
    again = fresh()
    resumed = start(earlycrop.load(tmp_path / "model", again[0]), earlycrop.load(tmp_path / "ema", again[1]))
    resumed[2].load_state_dict(state["optimizer"])
    resumed[3].load_state_dict(state["pruner"])
    epochs(resumed, 2)
    assert int(resumed[1].n_averaged) == int(ema.n_averaged) == 18
    for a, b in zip(
        (*model.parameters(), *ema.parameters()), (*again[0].parameters(), *again[1].parameters()), strict=True
    ):
        assert torch.equal(a, b)


def test_prune_takes_averages_with_it() -> None:
    model = build("mlp", torch.float32)[0]
    ema = swa_utils.AveragedModel(model)
    prune(model, loss, data(), sparsity=0.5, rounds=3, ema_models=[ema])
    assert [p.shape for p in ema.parameters()] == [p.shape for p in model.parameters()]
    ema.update_parameters(model)
    torch.testing.assert_close(ema(data()[0][0]), model(data()[0][0]))


@pytest.mark.parametrize("structured", [True, False])
def test_another_models_average_is_refused_at_once(structured: bool) -> None:
    model = build("mlp", torch.float32)[0]
    other = swa_utils.AveragedModel(nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for call in (
        lambda: Pruner(model, optimizer, loss, epochs=6, ema_models=[other]),
        lambda: prune(model, loss, data(), structured=structured, ema_models=[other]),
    ):
        with pytest.raises(ValueError, match=r"ema_models\[0\] \(AveragedModel\) is no copy of the model"):
            call()
