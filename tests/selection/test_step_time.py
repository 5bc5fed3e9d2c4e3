"""A target in step time: the choice was measured to fit, in few measurements, on copies. Speed is not tested."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import Limits, prune, trace
from earlycrop.graph.graph import Graph
from earlycrop.graph.types import NodeMask
from earlycrop.selection import step_time
from earlycrop.selection.nodes import choose_nodes, remaining_outputs
from earlycrop.selection.step_time import MAX_PROBES, TOLERANCE, StepTimer, choose_nodes_in_time
from earlycrop.selection.targets import max_remaining
from tests.networks import build, graph_of
from tests.toy import loss

Cost = Callable[[Graph, NodeMask], int]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of a tenth of a second."""
    monkeypatch.setattr(step_time, "SECONDS", 0.1)


def network() -> nn.Module:
    """Wide enough that a fraction of it is faster whatever the machine does; with noise and statistics of its own."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1024, 1024), nn.ReLU(),
        nn.Linear(1024, 8),
    )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(256, 64), torch.randint(0, 8, (256,))


def by_macs(graph: Graph, removed: NodeMask) -> int:
    return 1000 + 10 * graph.cost("macs", removed)


def in_steps(graph: Graph, removed: NodeMask) -> int:
    """Odd numbers of nodes take longer than one more would: time need not fall with every node."""
    left = int((~removed).sum())
    return 10_000 * (left + 3 * (left % 2))


class FakeTimer(StepTimer):
    """Takes the step's time from a function of the removed nodes."""

    def __init__(self, time: Callable[[NodeMask], int], dense: int) -> None:
        self.time, self.dense = time, dense

    def left(self, graph: Graph, removed: NodeMask) -> int:
        return self.time(removed)


@pytest.mark.parametrize("cost", [by_macs, in_steps])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ["mlp", "residual", "lstm", "heads"])
def test_what_is_chosen_fits_and_is_found_in_few_measurements(name: str, sparsity: float, cost: Cost) -> None:
    graph = graph_of(name)
    torch.manual_seed(1)
    scores = torch.rand(graph.count)
    dense = cost(graph, np.zeros(graph.count, bool))
    asked: list[int] = []

    def left(removed: NodeMask) -> int:
        asked.append(cost(graph, removed))
        return asked[-1]

    chosen = choose_nodes_in_time(graph, scores, max_remaining(dense, sparsity), FakeTimer(left, dense))
    assert chosen.left == cost(graph, chosen.removed)
    assert chosen.left in asked
    assert len(asked) <= MAX_PROBES
    if chosen.left > max_remaining(dense, sparsity):
        largest_cut = choose_nodes(graph, scores, 0, "macs").removed
        assert chosen.removed.tolist() == largest_cut.tolist(), "more could go"
        assert chosen.floors
    elif cost is by_macs and chosen.left < max_remaining(dense, sparsity) - TOLERANCE * dense:
        # no cut between this one and the next smaller of the ranking that fits
        order = scores.argsort().tolist()
        back = chosen.removed.copy()
        back[[i for i in order if chosen.removed[i]][-1]] = False
        within = TOLERANCE * graph.cost("macs")
        gap = graph.cost("macs", back) - graph.cost("macs", chosen.removed)
        assert cost(graph, back) > max_remaining(dense, sparsity) or gap <= within


def test_limits_hold_for_a_time() -> None:
    graph = trace(*build("mlp"))
    dense = graph.cost("macs")
    limits = Limits(floors={"0": 7}, ceilings={"2": 6}, multiple=2)
    timer = FakeTimer(lambda removed: graph.cost("macs", removed), dense)
    for allowed in (1, dense // 3, dense // 2, dense):
        chosen = choose_nodes_in_time(graph, torch.rand(18), allowed, timer, limits)
        left = remaining_outputs(graph, chosen.removed)
        assert left["0"] in (8, 10)
        assert left["2"] in (2, 4, 6)
        assert chosen.left <= allowed or (left["0"], left["2"]) == (8, 2)


@pytest.mark.parametrize("rounds", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_model_is_cut_to_a_share_of_its_time(rounds: int) -> None:
    model, data = network(), batch()
    example = data[0]
    before = trace(model, example).cost("macs")
    event = prune(model, loss, [data], "magnitude", 0.4, of="time", rounds=rounds, limits=Limits(multiple=8))
    assert event.of == "time"
    assert 0 < event.left <= max_remaining(event.dense, 0.4)
    assert event.achieved == 1 - event.left / event.dense >= 0.4
    assert trace(model, example).cost("macs") < before
    assert model[0].out_features % 8 == model[4].out_features % 8 == 0
    assert event.node_sparsity > 0
    assert event.weight_sparsity > 0


def test_a_time_that_cannot_be_reached_is_reported() -> None:
    model = network()
    with pytest.warns(
        UserWarning, match=r"asked to remove 99.99% of the time, and .*could be removed.* \(layers 0, 4\)"
    ):
        event = prune(model, loss, [batch()], "magnitude", 0.9999, of="time", limits=Limits(floors={"*": 4}))
    assert (model[0].out_features, model[4].out_features) == (4, 4)
    assert event.left > max_remaining(event.dense, 0.9999)


def test_measuring_touches_nothing() -> None:
    model, data = network(), batch()
    model.eval()
    model[0].train()
    loss(model, data).backward()
    graph = trace(model, data[0])
    before = copy.deepcopy(dict(model.state_dict(keep_vars=True)))
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    torch.manual_seed(5)
    np.random.seed(5)
    drawn = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    with torch.no_grad():
        clock = StepTimer(model, loss, data)
        assert clock.left(graph, graph.mask(range(0, graph.count, 2))) > 0
    assert (torch.rand(1).item(), np.random.rand()) == drawn
    assert [m.training for m in model][:3] == [True, False, False]
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    now = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))


def _process(rank: int, folder: str) -> None:
    """Cut to half the time, with a batch of this process's own size to measure."""
    torch.set_num_threads(1)
    step_time.SECONDS = 0.1
    distributed.init_process_group("gloo", store=distributed.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    model = network()
    x, y = batch()

    def slower(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if model.training:
            batch = (batch[0][: 64 * (rank + 1)], batch[1][: 64 * (rank + 1)])
        return loss(model, batch)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the DistributedDataParallel around")
        event = prune(DistributedDataParallel(model), slower, [(x, y)], "magnitude", 0.5, of="time")
    torch.save({"model": model.state_dict(), "left": event.left, "dense": event.dense}, f"{folder}/{rank}")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_choose_alike_by_the_slowest(tmp_path: Path) -> None:
    multiprocessing.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}") for rank in (0, 1))
    assert (first["left"], first["dense"]) == (second["left"], second["dense"])
    assert first["left"] <= max_remaining(first["dense"], 0.5)
    for a, b in zip(first["model"].values(), second["model"].values(), strict=True):
        assert torch.equal(a, b)
    assert first["model"]["0.weight"].shape[0] < 1024


def test_a_step_that_cannot_be_timed_is_refused() -> None:
    """Batch norm takes no single sample in training mode, in which nothing is traced or scored."""
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match=r"the training step cannot be timed .*more than 1 value per channel"):
        prune(model, loss, [(x[:1], y[:1])], "magnitude", 0.5, of="time")
    assert model[0].out_features == 1024


def test_a_measurement_goes_on_until_it_is_sure() -> None:
    """Against the spread of the ratio of two medians over many samples; bursts in a tenth of the steps hardly count."""
    draw = np.random.default_rng(0)
    samples = np.exp(draw.normal(0, 0.1, (2000, 2, 51)))
    ratios = np.median(samples[:, 0], 1) / np.median(samples[:, 1], 1)
    errors = [step_time._relative_error(sample.tolist()) for sample in samples]
    assert np.median(errors) == pytest.approx(np.log(ratios).std(), rel=0.1)
    samples[:, :, :5] *= 10
    assert np.median([step_time._relative_error(sample.tolist()) for sample in samples]) < 1.4 * np.median(errors)


def test_time_is_measured_and_not_counted() -> None:
    graph = trace(*build("mlp"))
    with pytest.raises(ValueError, match="'time' cannot be counted on a graph: use 'weights', "):
        choose_nodes(graph, torch.rand(graph.count), 1, "time")
