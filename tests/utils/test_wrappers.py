"""Compiled and wrapped models: the network inside is cut, and a warning says which wrappers to make again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import earlycrop
from earlycrop import Masks, Pruner, prune, shrink, trace
from earlycrop.measure import macs
from tests.networks import build
from tests.toy import loss, vectors

data = partial(vectors, seed=1)


@pytest.fixture
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def gradients(model: nn.Module, run: nn.Module, x: Any) -> list[Tensor]:
    model.zero_grad()
    run(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]


COMPILED = {("lstm", "around", "eager"), ("lstm", "in place", "eager"), ("lstm", "a part", "eager")}
COMPILED.add(("conv-norm", "around", "aot_eager"))


@pytest.mark.parametrize(
    ("name", "how", "backend"),
    [
        pytest.param(*case, marks=[] if case in COMPILED else pytest.mark.slow)
        for case in product(("conv-norm", "lstm"), ("around", "in place", "a part"), ("eager", "aot_eager", "inductor"))
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_a_compiled_model_recompiles_automatically(name: str, how: str, backend: str) -> None:
    """It is compiled anew where a size has changed: outputs and gradients are the small network's, with no warning."""
    torch.compiler.reset()
    model, x = build(name, torch.float32)
    compiled = model
    if how == "around":
        compiled = torch.compile(model, backend=backend)  # type: ignore[assignment]
    elif how == "in place":
        model.compile(backend=backend)
    else:
        part = "norm" if name == "conv-norm" else "decoder"
        setattr(model, part, torch.compile(getattr(model, part), backend=backend))
    optimizer = torch.optim.Adam(model.parameters())
    gradients(model, compiled, x)
    optimizer.step()
    graph = trace(compiled, x)
    assert graph.count == (12 if name == "conv-norm" else 13)
    plain = copy.deepcopy(model)
    cut = shrink(compiled, graph, [0, 3, 7], optimizer)
    assert cut.difference is not None
    shrink(plain, graph, [0, 3, 7])
    compiled.train()
    plain.train()
    if how == "a part":
        part = "norm" if name == "conv-norm" else "decoder"
        setattr(plain, part, getattr(plain, part)._orig_mod)
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(model, compiled, x), gradients(plain, plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    compiled.eval()
    plain.eval()
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structured", [True, False])
def test_compiled_models_are_pruned_saved_and_loaded(structured: bool, tmp_path: Path) -> None:
    torch.compiler.reset()
    model = build("mlp", torch.float32)[0]
    compiled = torch.compile(model, backend="eager")
    compiled(data()[0][0])
    optimizer = torch.optim.Adam(compiled.parameters(), 0.01)
    method = "crop-s" if structured else "crop-u"
    pruner = Pruner(compiled, optimizer, loss, method, 0.5, epochs=4)
    event = pruner.step(data())
    assert event is not None
    weights = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert weights == event.left
    loss(compiled, data()[0]).backward()
    optimizer.step()
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1) == weights
    assert macs(compiled, data()[0][0]) == macs(model, data()[0][0])
    earlycrop.save(compiled, tmp_path)
    for fresh in (build("mlp", torch.float32)[0], torch.compile(build("mlp", torch.float32)[0], backend="eager")):
        loaded = earlycrop.load(tmp_path, fresh)
        assert loaded is fresh
        torch.testing.assert_close(loaded(data()[0][0]), model(data()[0][0]))
    masks = Masks.of_zeros(compiled)
    assert set(masks.removed) == {"0.weight", "2.weight", "4.weight"}


@pytest.mark.usefixtures("group")
def test_what_synchronises_gradients_must_be_wrapped_again() -> None:
    """As the warning says."""
    network, x = build("mlp", torch.float32)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(network.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    graph = trace(model, x)
    with pytest.warns(UserWarning, match="wrap what is inside again") as warned:
        shrink(model, graph, [0, 12], optimizer)
    assert len(warned) == 1
    model = DistributedDataParallel(model.module)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert model.module is network


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore:the DistributedDataParallel around")
def test_torch_fails_where_nothing_was_wrapped_again() -> None:
    """Should this pass one day, the warning can go."""
    network, x = build("mlp", torch.float32)
    ddp = DistributedDataParallel(network)
    shrink(ddp, trace(ddp, x), [0, 12])
    ddp(x).square().sum().backward()
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        ddp(x)


@pytest.mark.usefixtures("group")
def test_wrappers_in_wrappers() -> None:
    model, x = build("mlp", torch.float32)
    compiled = torch.compile(DistributedDataParallel(torch.compile(model, backend="eager")), backend="eager")
    with pytest.warns(UserWarning, match="wrap what is inside again"):
        shrink(compiled, trace(compiled, x), [0])
    assert model[0].out_features == 9


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("structured", [True, False])
def test_a_wrapped_model_is_pruned_inside(structured: bool, tmp_path: Path) -> None:
    """Once is enough to say what to wrap, however many rounds; masks need nothing."""
    model = build("mlp", torch.float32)[0]
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(ddp, optimizer, loss, "cropit-s" if structured else "cropit-u", 0.5, epochs=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        event = pruner.step(data())
    assert event is not None
    assert event.rounds == 5
    assert [str(w.message).partition(" around")[0] for w in caught] == ["the DistributedDataParallel"] * structured
    if structured:
        ddp = DistributedDataParallel(ddp.module)
    for batch in data():
        ddp.zero_grad()
        loss(ddp, batch).backward()
        optimizer.step()
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1) == event.left
    earlycrop.save(ddp, tmp_path)
    fresh = earlycrop.load(tmp_path, build("mlp", torch.float32)[0])
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("wrap", [DataParallel, AveragedModel])
def test_wrappers_that_hold_nothing_from_before(wrap: Any) -> None:
    model, x = build("conv-norm", torch.float32)
    wrapped = wrap(model)
    shrink(wrapped, trace(wrapped, x), [0, 5])
    assert wrapped.module.conv.out_channels == 10
    assert wrapped(x).shape == (4, 5)
    with pytest.warns(UserWarning, match="asked to remove"):
        prune(wrapped, lambda m, b: m(b).square().mean(), [x], sparsity=0.99)


@pytest.mark.usefixtures("group")
def test_sharded_models_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model, x = build("mlp", torch.float32)
    graph = trace(model, x)
    sharded = fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    for call in (
        lambda: trace(sharded, x),
        lambda: shrink(sharded, graph, [0]),
        lambda: prune(sharded, loss, data()),
        lambda: Pruner(sharded, torch.optim.SGD(sharded.parameters(), 0.1), loss, epochs=4),
        lambda: Masks(sharded, {}),
    ):
        with pytest.raises(
            ValueError, match=r"'0.weight' is sharded over processes \(a DTensor\): prune the model bef"
        ):
            call()
    older = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.warns(UserWarning, match="FSDP is switching"):
        older = FullyShardedDataParallel(older, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="sharded by FullyShardedDataParallel: prune the model before wrapping it"):
        trace(older, x)


def _process(rank: int, folder: str) -> None:
    """Train, cut, wrap again and train, on data of this process's own."""
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = build("mlp", torch.float32)[0]
    model_of: dict[str, nn.Module] = {"model": DistributedDataParallel(model)}
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def train() -> None:
        for batch in data(seed=10 + rank):
            optimizer.zero_grad()
            loss(model_of["model"], batch).backward()
            optimizer.step()

    train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the DistributedDataParallel around")
        prune(model_of["model"], loss, data(seed=10 + rank), sparsity=0.5, optimizer=optimizer)
    model_of["model"] = DistributedDataParallel(model)
    train()
    torch.save({"model": model.state_dict()}, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_stay_the_same(tmp_path: Path) -> None:
    multiprocessing.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}") for rank in (0, 1))
    for a, b in zip(first["model"].values(), second["model"].values(), strict=True):
        assert torch.equal(a, b)
    assert first["model"]["0.weight"].shape[0] < 10


@pytest.mark.usefixtures("group")
def test_each_of_several_cuts_says_what_to_wrap() -> None:
    """The pruner holds the network inside from the first one on, and the loop's wrapper is another each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pruner = Pruner(DistributedDataParallel(model), optimizer, loss, "gatedecorators", 0.5, epochs=8, rounds=2)
    cuts = 0
    for epoch in range(9):
        if epoch:
            optimizer.zero_grad()
            loss(model, data()[0]).backward()
            optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            event = pruner.step(data())
        cuts += event is not None
        assert sum("wrap what is inside again" in str(w.message) for w in caught) == (event is not None)
    assert cuts == 2
