"""Round trips of models and training states, and files that are not what they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

import earlycrop
from earlycrop import Masks, SavingError, shrink, trace
from tests.networks import CASES, build
from tests.oracles import outputs, some_nodes
from tests.toy import loss, mlp, vectors


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", list(CASES))
def test_a_shrunk_network_loads_into_a_fresh_one(name: str, tmp_path: Path) -> None:
    model, example = build(name)
    graph = trace(model, example)
    shrink(model, graph, some_nodes(graph, 0.5, 0))
    earlycrop.save(model, tmp_path)
    fresh, _ = build(name, seed=7)
    assert earlycrop.load(tmp_path, fresh) is fresh
    for a, b in zip(outputs(model, example), outputs(fresh, example), strict=True):
        assert torch.equal(a, b)
    assert [t.shape for t in fresh.parameters()] == [t.shape for t in model.parameters()]
    assert [str(m) for m in fresh.modules()] == [str(m) for m in model.modules()]  # sizes and groups in attributes
    again = trace(fresh, example)
    assert again.count == trace(model, example).count
    earlycrop.save(fresh, tmp_path)  # over the old file


def test_what_was_loaded_can_be_trained(tmp_path: Path) -> None:
    model, example = build("tied")
    shrink(model, trace(model, example), [0])
    model.hidden.weight.requires_grad_(False)
    earlycrop.save(model, tmp_path)
    fresh, _ = build("tied")
    fresh.hidden.weight.requires_grad_(False)
    earlycrop.load(tmp_path, fresh)
    assert fresh.decoder.weight is fresh.embedding.weight
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in model.parameters()]
    fresh(example).mean().backward()
    assert fresh.embedding.weight.grad is not None


class Counting(nn.Module):
    """A parametrization with a buffer, which counts its runs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.runs += self.training
        return 1 * weight


def parametrized(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    counted = nn.Linear(6, 8, bias=False)
    register_parametrization(counted, "weight", Counting())
    return nn.Sequential(spectral_norm(nn.Linear(4, 6)), nn.ReLU(), counted, nn.ReLU(), nn.Linear(8, 2))


def test_parametrizations_are_not_run_by_a_cut_nor_by_saving_and_loading(tmp_path: Path) -> None:
    model, x = parametrized(0).train(), torch.randn(3, 4)
    graph = trace(model, x)
    before = fresh_state(model)
    assert shrink(model, graph, [1, 2]).weights_after < graph.cost("weights")
    assert (model[2].in_features, model[2].out_features) == (6, 6)
    earlycrop.save(model, tmp_path)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    fresh = earlycrop.load(tmp_path, parametrized(1).train())
    torch.testing.assert_close(fresh.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert (fresh[2].in_features, fresh[2].out_features) == (6, 6)


def test_zeros_come_back_as_zeros(tmp_path: Path) -> None:
    model, _ = build("mlp")
    masks = Masks(model, {"0.weight": torch.rand(10, 6) < 0.7})
    earlycrop.save(model, tmp_path)
    fresh = earlycrop.load(tmp_path, build("mlp", seed=3)[0])
    assert torch.equal(Masks.of_zeros(fresh).removed["0.weight"], masks.removed["0.weight"])


def fresh_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def test_another_model_is_refused_and_left_alone(tmp_path: Path) -> None:
    model, _ = build("mlp")
    earlycrop.save(model, tmp_path)
    others = {
        "'0.bias' is": nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)),
        "the model has no '4": nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8)),
        "the file has no": nn.Sequential(*build("mlp")[0], nn.Linear(3, 3)),
    }
    for sentence, other in others.items():
        before = fresh_state(other)
        with pytest.raises(SavingError, match=f"of another kind of model: .*{sentence}"):
            earlycrop.load(tmp_path, other)
        assert all(torch.equal(before[n], t) for n, t in other.state_dict().items())


@pytest.mark.parametrize("cut", [False, True])
def test_sizes_that_no_cut_can_have_made_are_refused(cut: bool, tmp_path: Path) -> None:
    model = mlp(6, 16, 12, 10)
    if cut:
        prune_half(model)
    earlycrop.save(model, tmp_path)
    for widths in ((6, 16, 12, 20), (6, 16, 12, 4), (6, 20, 12, 10), (6, 16, 14, 10), (8, 16, 12, 10)):
        other = mlp(*widths)
        before = fresh_state(other)
        with pytest.raises(SavingError, match=r"is of another kind of model: '.*' is .* in the file.* in the model"):
            earlycrop.load(tmp_path, other)
        torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)
    fresh = earlycrop.load(tmp_path, mlp(6, 16, 12, 10))
    torch.testing.assert_close(fresh.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_model_that_was_cut_twice_or_loaded_is_saved_with_its_first_sizes(tmp_path: Path) -> None:
    model = mlp(6, 16, 12, 3)
    for name in ("once", "twice"):
        prune_half(model)
        earlycrop.save(model, tmp_path / name)
    loaded = earlycrop.load(tmp_path / "once", mlp(6, 16, 12, 3))
    earlycrop.save(loaded, tmp_path / "again")
    same, smaller = (earlycrop.load(tmp_path / name, mlp(6, 16, 12, 3)) for name in ("again", "twice"))
    torch.testing.assert_close(same.state_dict(), loaded.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(smaller.state_dict(), model.state_dict(), rtol=0, atol=0)
    earlycrop.load(tmp_path / "twice", loaded)  # which was cut less
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(SavingError, match=r"'0.bias' is \(4,\) in the file, \(16,\) before it was cut, and"):
        earlycrop.load(tmp_path / "twice", mlp(6, 14, 12, 3))


def prune_half(model: nn.Module) -> None:
    graph = trace(model, torch.randn(2, 6))
    shrink(model, graph, range(0, graph.count, 2))


def test_broken_and_foreign_files_are_named(tmp_path: Path) -> None:
    model, _ = build("mlp")
    with pytest.raises(SavingError, match="there is no file"):
        earlycrop.load(tmp_path, model)
    file = earlycrop.save(model, tmp_path)
    content = file.read_bytes()
    for broken in (b"", content[:100], content[:-1], b"\x00" * 200):
        file.write_bytes(broken)
        with pytest.raises(SavingError, match=r"model\.safetensors is broken"):
            earlycrop.load(tmp_path, model)
        assert file.read_bytes() == broken
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(SavingError, match="was not written by earlycrop"):
        earlycrop.load(tmp_path, model)
    earlycrop.save(model, tmp_path)
    with pytest.raises(SavingError, match="holds a model and no training state"):
        earlycrop.load_state(file)


SAVES = """
import sys
import torch
import earlycrop
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
for folder in sys.argv[1:]:
    earlycrop.save(model, folder)
    earlycrop.save_state({"step": 1, "mean": torch.zeros(2)}, folder + "/state.safetensors")
"""


def test_the_same_model_is_the_same_file_and_others_may_read_it(tmp_path: Path) -> None:
    """Whichever process writes it. safetensors itself orders its metadata at random, and keeps others out."""
    folders = [tmp_path / str(i) for i in range(4)]
    umask = os.umask(0o022)
    try:
        for two in (folders[:2], folders[2:]):
            subprocess.run([sys.executable, "-c", SAVES, *map(str, two)], check=True)
    finally:
        os.umask(umask)
    for name in ("model.safetensors", "state.safetensors"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
        assert {(folder / name).stat().st_mode & 0o777 for folder in folders} == {0o644}


def test_files_with_two_entries_are_still_read(tmp_path: Path) -> None:
    model = mlp()
    earlycrop.save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        (header,) = file.metadata().values()
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "earlycrop 1", "plan": header})
    fresh = earlycrop.load(tmp_path, mlp())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "earlycrop 1"})
    with pytest.raises(SavingError, match="is broken"):
        earlycrop.load(tmp_path, mlp())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("mlp")
    file = earlycrop.save(model, tmp_path)
    before = file.read_bytes()

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("earlycrop.saving.files.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        earlycrop.save(model, tmp_path)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
def test_complex_tensors_come_back_exactly(kind: torch.dtype, tmp_path: Path) -> None:
    model, fresh = nn.Linear(3, 2, dtype=kind), nn.Linear(3, 2, dtype=kind)
    earlycrop.save(model, tmp_path)
    earlycrop.load(tmp_path, fresh)
    assert torch.equal(model.weight, fresh.weight)
    assert fresh.weight.dtype == kind
    earlycrop.save_state({"x": model.weight}, tmp_path / "state")
    assert torch.equal(earlycrop.load_state(tmp_path / "state")["x"], model.weight)


def test_a_lazy_module_is_run_first(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))

    message = "'0.weight' has no shape yet: run the model on one batch first"
    with pytest.raises(ValueError, match=message):
        earlycrop.save(model(), tmp_path)
    run = model()
    run(torch.zeros(1, 3))
    earlycrop.save(run, tmp_path)
    with pytest.raises(ValueError, match=message):
        earlycrop.load(tmp_path, model())


def test_an_optimizer_made_before_loading_trains_the_loaded_model(tmp_path: Any) -> None:
    small = mlp()
    shrink(small, trace(small, torch.randn(2, 6)), [0, 20])
    earlycrop.save(small, tmp_path)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    earlycrop.load(tmp_path, model)
    before = model[0].weight.detach().clone()
    loss(model, vectors()[0]).backward()
    optimizer.step()
    assert model[0].weight.shape == (15, 6)
    assert not torch.equal(model[0].weight, before)
