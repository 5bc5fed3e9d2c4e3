"""Several processes with DistributedDataParallel: the cut, and what is learned, are those of one process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import earlycrop
from earlycrop import CRITERIA, Pruner, PrunerOptions, flow, trace
from earlycrop.scoring.derivatives import flow_by_parameter
from earlycrop.scoring.scores import node_scores
from earlycrop.surgery import shrink
from tests.pruner_arguments import with_options
from tests.toy import loss

PROCESSES = 2
METHODS = ("random-s", "snip", "crop-s", "taylor", "earlycrop-s", "earlycrop-u", "ltr", "gatedecorators")
MORE_METHODS = ("random-u", "grasp", "crop-u", "synflow", "magnitude-s")
"""Of a kind with one of the others each."""


def network(norm: type[nn.Module] = nn.Identity) -> nn.Module:
    """With a norm in evaluation mode, whose statistics are not those of each process's part of a batch."""
    torch.manual_seed(0)
    first, second = (nn.Conv2d(2, 12, 3), norm(12).eval()), (nn.Conv2d(12, 10, 3), norm(10).eval())
    layers = (*first, nn.Tanh(), *second, nn.Tanh(), nn.Flatten(), nn.Linear(40, 3))
    return nn.Sequential(*layers).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def batches(rank: int | None, count: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    """Of 8 examples, or this process's part of each."""
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        x, y = torch.randn(8, 2, 6, 6, generator=g).double(), torch.randint(0, 3, (8,), generator=g)
        yield (x, y) if rank is None else (x.chunk(PROCESSES)[rank], y.chunk(PROCESSES)[rank])


def trained(method: str, rank: int | None, **more: Any) -> tuple[dict[str, Tensor], list[Any]]:
    """What a training with a pruning makes of the network, and the events."""
    model = network(nn.BatchNorm2d if method == "gatedecorators" else nn.Identity)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    run: nn.Module = model if rank is None else DistributedDataParallel(model)
    torch.manual_seed(0 if rank is None else rank)  # what is drawn at random is the first process's
    pruner = Pruner(run, optimizer, loss, method, 0.5, **with_options(epochs=4, **more))
    events = []
    for epoch in range(-1, pruner.total_epochs):
        if epoch >= 0:
            for batch in batches(rank):
                optimizer.zero_grad()
                loss(run, batch).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the DistributedDataParallel around")
            if pruner.step(batches(rank)) is not None and rank is not None:
                run = DistributedDataParallel(model)
        events += pruner.events[len(events) :]
    return model.state_dict(), [(e.epoch, e.reason, e.left, e.layers) for e in events]


def terms(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two means over examples."""
    return loss(model, batch), 100 * model(batch[0]).square().mean()


def derivatives(model: nn.Module, rank: int | None, group: Any = None) -> dict[str, Any]:
    """g and Hg of one batch and of several, parameter by parameter, and the scores of nodes."""
    parts: dict[str, Tensor] = {}
    one, several = list(batches(rank, 1)), list(batches(rank))
    flow_by_parameter(
        model, loss, one, lambda _, n, g, hg: parts.update({n: parts.get(n, 0) + torch.stack([g, hg])}), group=group
    )
    graph = trace(model, lambda m: loss(m, one[0]))
    scores = {n: node_scores(model, graph, CRITERIA[n], loss, several, group=group) for n in ("crop", "crop-gate")}
    scores["terms"] = node_scores(model, graph, CRITERIA["crop"], terms, several, group=group)
    scores["terms of one batch"] = node_scores(model, graph, CRITERIA["crop"], terms, one, group=group)
    multiple = flow(model, loss, several, group=group)
    assert multiple.product is not None
    single = flow(model, loss, one, group=group)
    return {"parts": parts, "scores": scores, "g": multiple.gradient, "hg": multiple.product, "one": single.product}


def disagreeing(rank: int) -> list[str]:
    """What is said where the processes do not hold the same weights."""
    messages = []
    for structured in (True, False):
        model = DistributedDataParallel(network())
        with torch.no_grad():
            model.module[0].weight.mul_(torch.linspace(1 + rank, 2 - rank, 12).view(-1, 1, 1, 1))
        try:
            earlycrop.prune(model, loss, list(batches(rank)), "magnitude", 0.5, structured=structured)
        except ValueError as error:
            messages.append(str(error))
    try:
        ddp = DistributedDataParallel(network())
        earlycrop.prune(ddp, lambda m, b: {f"of {rank}": loss(m, b)}, list(batches(rank)), "crop", 0.5)
    except ValueError as error:
        messages.append(str(error))
    pruner = Pruner(model, torch.optim.SGD(model.parameters(), 0.1), loss, "earlycrop-u", 0.5, epochs=4, trigger=rank)
    try:
        pruner.step(batches(rank))
    except ValueError as error:
        messages.append(str(error))
    return messages


def failing(rank: int) -> list[tuple[str, str, int]]:
    """What is said, and how wide the first layer is then, where something fails in the second process alone."""
    reports = []

    def tried(scored: list[Any], certified: Any = shrink.compare_outputs) -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        pruner = Pruner(
            model, optimizer, loss, "crop-s", 0.5, epochs=4, options=PrunerOptions(group=distributed.group.WORLD)
        )
        kind, message = "", ""
        with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patched.setattr(shrink, "compare_outputs", certified if rank else shrink.compare_outputs)
            try:
                pruner.step(scored)
            except Exception as error:
                kind, message = type(error).__name__, str(error)
        reports.append((kind, message, model[0].out_channels))  # type: ignore[index]

    def raising(error: Exception) -> Callable[..., Any]:
        def certified(*_: Any) -> Any:
            raise error

        return certified

    local_batches = list(batches(rank))
    tried([] if rank else local_batches)
    tried([(x * float("nan"), y) for x, y in local_batches] if rank else local_batches)
    tried(local_batches, raising(RuntimeError("there is no more memory")))
    tried(local_batches, raising(earlycrop.SurgeryError("it differs by 1")))
    return reports


def _process(rank: int, folder: str, methods: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", PROCESSES)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    by_method = {method: trained(method, rank) for method in methods}
    by_method["shuffled"] = trained("magnitude-s", rank, shuffled=True)
    outcome = {
        "trained": by_method,
        "derivatives": derivatives(network(), rank, distributed.group.WORLD),
        "messages": disagreeing(rank),
        "failed": failing(rank),
    }
    torch.save(outcome, f"{folder}/{rank}")
    distributed.destroy_process_group()


def outcomes(folder: Path, methods: tuple[str, ...]) -> list[dict[str, Any]]:
    """What two processes have found."""
    multiprocessing.start_processes(_process, (str(folder), methods), nprocs=PROCESSES, start_method="spawn")
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return outcomes(tmp_path_factory.mktemp("processes"), METHODS)


@pytest.fixture(scope="module")
def more_results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return outcomes(tmp_path_factory.mktemp("processes"), MORE_METHODS)


def test_derivatives_and_scores_are_those_of_one_process(results: list[dict[str, Any]]) -> None:
    expected = derivatives(network(), None)
    for result in results:
        torch.testing.assert_close(result["derivatives"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "method", [*METHODS, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE_METHODS), "shuffled"]
)
def test_the_cut_and_what_is_learned_are_those_of_one_process(method: str, request: pytest.FixtureRequest) -> None:
    results = request.getfixturevalue("more_results" if method in MORE_METHODS else "results")
    more = {"shuffled": True} if method == "shuffled" else {}
    weights, events = trained("magnitude-s" if more else method, None, **more)
    first, second = (result["trained"][method] for result in results)
    assert first[1] == second[1] == events
    assert events
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    torch.testing.assert_close(first[0], weights, rtol=1e-6, atol=1e-8)


def test_a_disagreement_of_processes_is_reported(results: list[dict[str, Any]]) -> None:
    for result in results:
        nodes, weights, loss_terms, when = result["messages"]
        assert nodes.startswith("the processes chose to remove different nodes or weights: make sure that they")
        assert weights == nodes
        assert loss_terms == (
            "the processes that train this model disagree on the terms of the loss: process 0: of 0; process 1: of 1"
        )
        assert when == (
            "the processes that train this model disagree on whether to prune now: process 0: before training; "
            "process 1: nothing"
        )


def test_what_fails_in_one_process_fails_in_all_and_nothing_is_cut(results: list[dict[str, Any]]) -> None:
    first, second = (result["failed"] for result in results)
    other = "process 1, which trains this model too, has failed: "
    sentences = ("there is no batch to score on", "the loss is nan", "there is no more memory")
    kinds = (("ValueError", "ValueError"), ("FlowError", "FlowError"), ("ValueError", "RuntimeError"))
    for at_first, at_second, sentence, (first_kind, second_kind) in zip(first, second, sentences, kinds, strict=False):
        assert (at_first[0], at_second[0]) == (first_kind, second_kind)
        assert at_first[1].startswith(f"{other}{sentence}")
        assert at_second[1].startswith(sentence)
        assert at_first[2] == at_second[2] == 12
    assert first[3] == second[3] == ("", "", 12), "what cannot be certified in one stays whole in all"
