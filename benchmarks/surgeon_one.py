"""One model and one tool of ``benchmarks.surgeon``, in a process of its own: ``python -m benchmarks.surgeon_one``."""

from __future__ import annotations

import copy
import json
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from earlycrop import Graph, shrink, trace
from tasks._torchvision import load

SHARE = 0.4
"""Of the channels are cut."""


class Told:
    """The figures so far. They are printed at each change, and the last line counts, whatever ends the process."""

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout
        self.figures: dict[str, Any] = {"can": "no", "stage": "building"}

    def __call__(self, **figures: Any) -> None:
        self.figures |= figures
        print(json.dumps(self.figures), flush=True)

    def begin(self, model: nn.Module) -> None:
        """The model is built: from here on time and memory count."""
        signal.alarm(self.timeout)
        self(parameters=size(model), resident_mb=resident_mb(), stage="trace")


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    model = load("torchvision.models").get_model(name, weights=None, **options).eval()
    return model, torch.randn(1, 3, size, size)


def build_alive(name: str) -> tuple[nn.Module, Tensor]:
    """The network with weights for which its output depends on all its layers, as the constructors' often do not: last
    layers and scales of branches that start at zero, signals that fade in batch norms without statistics.
    """
    model, example = build(name)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() == max(p.shape):
                p.add_(0.1 * torch.randn_like(p))
            elif not p.any():
                p.add_(0.02 * torch.randn_like(p))
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the average over all batches, of which there is one
            m.train()
        if norms:
            model(torch.randn(2, *example.shape[1:]))
    return model.eval(), example


def tiny() -> tuple[nn.Module, Tensor]:
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    return nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


def seconds(start: float) -> float:
    return round(time.process_time() - start, 3)


def ours(name: str, told: Told) -> None:
    def chosen(graph: Graph) -> list[int]:
        """A share of the nodes at random, but not all of any dimension."""
        gone = np.random.default_rng(0).random(graph.count) < SHARE
        for slot in graph.axes:
            if (slot.nodes >= 0).all() and gone[slot.nodes].all():
                gone[slot.nodes[0]] = False
        return gone.nonzero()[0].tolist()

    warm, example = tiny()
    shrink(warm, graph := trace(warm, example), chosen(graph))
    model, example = build(name)
    told.begin(model)
    start = time.process_time()
    graph = trace(model, example)
    told(trace_seconds=seconds(start), stage="cut")
    remove = chosen(graph)
    start = time.process_time()
    shrink(model, graph, remove, certify=False)
    told(cut_seconds=seconds(start), peak_mb=peak_mb(), parameters_left=size(model), stage="certificate")
    if not remove:
        told(why="nothing can be removed")
        return
    del model
    signal.alarm(0)
    model, _ = build_alive(name)
    dense = output(model, example)
    signal.alarm(told.timeout)
    start = time.process_time()
    cut = shrink(model, graph, remove)
    told(certified_seconds=seconds(start), difference=cut.difference, can="yes")
    told(effect=apart(dense, output(model, example)))


def pruner(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's, as in its README, with random choice in place of magnitudes."""
    last = [m for m in model.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    return torch_pruning.pruner.BasePruner(
        model, example, importance=torch_pruning.importance.RandomImportance(), pruning_ratio=SHARE, ignored_layers=last
    )


def peer(name: str, told: Told) -> None:
    pruner(*tiny()).step()
    model, example = build(name)
    told.begin(model)
    start = time.process_time()
    tool = pruner(model, example)
    told(trace_seconds=seconds(start), stage="cut")
    start = time.process_time()
    tool.step()
    told(cut_seconds=seconds(start), peak_mb=peak_mb(), parameters_left=size(model), stage="run of the small one")
    assert output(model, example).shape == (1, 1000), "the output has another shape"
    if size(model) == told.figures["parameters"]:
        told(why="nothing was removed")
        return
    told(can="yes", stage="comparison")
    del model, tool
    difference, effect = peer_difference(name)
    told(difference=difference, effect=effect)


def peer_difference(name: str) -> tuple[float, float]:
    """Its small network against the dense one with every removed entry at zero, and against the dense one.

    Which entries it keeps is read off a model whose parameters hold their own positions.
    """
    model, example = build_alive(name)
    dense = output(model, example)
    small = copy.deepcopy(model)
    tool = pruner(small, example)
    for p in small.parameters():
        p.data = torch.arange(p.numel(), dtype=torch.float64).view(p.shape)
    tool.step()
    given = dict(model.named_parameters())
    for owner, module in small.named_modules():
        for attribute, p in module.named_parameters(prefix=owner, recurse=False):
            old = given[attribute].data
            kept = p.data.long()
            p.data = old.flatten()[kept]
            gone = torch.ones(old.numel(), dtype=torch.bool).index_fill_(0, kept.flatten(), False)
            old.view(-1)[gone] = 0
    got = output(small, example)
    return apart(output(model, example), got), apart(dense, got)


def output(model: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(example)
        return found.double()


def apart(expected: Tensor, got: Tensor) -> float:
    return float((expected - got).abs().max() / expected.abs().max())


def one(name: str, tool: str, timeout: int) -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    told = Told(timeout)
    try:
        {"ours": ours, "peer": peer}[tool](name, told)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        told(why=f"{type(error).__name__} in the {told.figures['stage']}: {first}"[:160])


if __name__ == "__main__":
    one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
