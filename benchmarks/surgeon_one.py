"""One model and one tool of ``benchmarks.surgeon``, in a process of its own.

The figures are printed as JSON at each change, and the last line counts, whatever ends the process.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import resource
import signal
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from earlycrop import Graph, shrink, trace
from earlycrop.utils.torchvision_compat import load_torchvision

torch_pruning: Any = importlib.import_module("torch_pruning") if find_spec("torch_pruning") else None
SHARE = 0.4
"""Of the channels are cut."""
TINY = "tiny"
"""The model of the quick form."""


class Figures:
    """The figures so far, printed at each change.

    Args:
        timeout: Seconds after which the process ends, from :meth:`begin` on.
    """

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout
        self.values: dict[str, Any] = {"can": "no", "stage": "building"}

    def add(self, **values: Any) -> None:
        """Add or replace figures, and print all of them."""
        self.values |= values
        print(json.dumps(self.values), flush=True)

    def begin(self, model: nn.Module) -> None:
        """Count time and memory from now on: the model is built."""
        signal.alarm(self.timeout)
        self.add(parameters=size(model), resident_mb=resident_mb(), stage="trace")


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model with its constructor's weights, in evaluation mode, and an image for it."""
    torch.manual_seed(0)
    if name == TINY:
        return tiny(1000)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    side = 299 if name == "inception_v3" else 224
    model = load_torchvision("torchvision.models").get_model(name, weights=None, **options).eval()
    return model, torch.randn(1, 3, side, side)


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


def tiny(classes: int = 5) -> tuple[nn.Module, Tensor]:
    """A network that is traced and cut first, so that nothing is loaded while another one is timed."""
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, classes)
    return nn.Sequential(*layers).eval(), torch.randn(1, 3, 8, 8)


def size(model: nn.Module) -> int:
    """Entries of all parameters."""
    return sum(p.numel() for p in model.parameters())


def peak_mb() -> int:
    """Peak memory of the process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def resident_mb() -> int:
    """Memory of the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


def seconds(start: float) -> float:
    """Processor seconds since ``start``."""
    return round(time.process_time() - start, 6)


def random_nodes(graph: Graph) -> list[int]:
    """A share of the nodes at random, but not all of any dimension."""
    removed = np.random.default_rng(0).random(graph.count) < SHARE
    for slot in graph.axes:
        if (slot.nodes >= 0).all() and removed[slot.nodes].all():
            removed[slot.nodes[0]] = False
    return removed.nonzero()[0].tolist()


def measure_ours(name: str, figures: Figures) -> None:
    """Trace and cut with earlycrop, without and with the certificate."""
    warm_up, example = tiny()
    shrink(warm_up, graph := trace(warm_up, example), random_nodes(graph))
    model, example = build(name)
    figures.begin(model)
    start = time.process_time()
    graph = trace(model, example)
    figures.add(trace_seconds=seconds(start), stage="cut")
    remove = random_nodes(graph)
    start = time.process_time()
    shrink(model, graph, remove, certify=False)
    figures.add(cut_seconds=seconds(start), peak_mb=peak_mb(), parameters_left=size(model), stage="certificate")
    if not remove:
        figures.add(why="nothing can be removed")
        return
    del model
    signal.alarm(0)
    model, _ = build_alive(name)
    dense = output(model, example)
    signal.alarm(figures.timeout)
    start = time.process_time()
    cut = shrink(model, graph, remove)
    figures.add(certified_seconds=seconds(start), difference=cut.difference, can="yes")
    figures.add(effect=relative_difference(dense, output(model, example)))


def peer_pruner(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's, as in its README, with random choice in place of magnitudes."""
    last = [m for m in model.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    return torch_pruning.pruner.BasePruner(
        model, example, importance=torch_pruning.importance.RandomImportance(), pruning_ratio=SHARE, ignored_layers=last
    )


def measure_peer(name: str, figures: Figures) -> None:
    """Trace and cut with torch-pruning."""
    peer_pruner(*tiny()).step()
    model, example = build(name)
    figures.begin(model)
    start = time.process_time()
    pruner = peer_pruner(model, example)
    figures.add(trace_seconds=seconds(start), stage="cut")
    start = time.process_time()
    pruner.step()
    figures.add(
        cut_seconds=seconds(start), peak_mb=peak_mb(), parameters_left=size(model), stage="run of the small one"
    )
    if output(model, example).shape != (1, 1000):
        raise ValueError("the output has another shape")
    if size(model) == figures.values["parameters"]:
        figures.add(why="nothing was removed")
        return
    figures.add(can="yes", stage="comparison")
    del model, pruner
    difference, effect = peer_difference(name)
    figures.add(difference=difference, effect=effect)


def peer_difference(name: str) -> tuple[float, float]:
    """Its small network against the dense one with every removed entry at zero, and against the dense one.

    Which entries it keeps is read off a model whose parameters hold their own positions.
    """
    model, example = build_alive(name)
    dense = output(model, example)
    small = copy.deepcopy(model)
    pruner = peer_pruner(small, example)
    for p in small.parameters():
        p.data = torch.arange(p.numel(), dtype=torch.float64).view(p.shape)
    pruner.step()
    parameters = dict(model.named_parameters())
    for owner, module in small.named_modules():
        for attribute, p in module.named_parameters(prefix=owner, recurse=False):
            old = parameters[attribute].data
            kept = p.data.long()
            p.data = old.flatten()[kept]
            removed = torch.ones(old.numel(), dtype=torch.bool).index_fill_(0, kept.flatten(), False)
            old.view(-1)[removed] = 0
    after = output(small, example)
    return relative_difference(output(model, example), after), relative_difference(dense, after)


def output(model: nn.Module, example: Tensor) -> Tensor:
    """The model's output in float64."""
    with torch.no_grad():
        logits: Tensor = model(example)
        return logits.double()


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """The largest difference over the largest expected entry."""
    return float((expected - actual).abs().max() / expected.abs().max())


def parse() -> argparse.Namespace:
    """The model, the tool and the time-out. argparse takes less of the memory that is measured than tyro does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surgeon_one", description=__doc__)
    parser.add_argument("model", nargs="?", help="torchvision's name, or tiny")
    parser.add_argument("tool", nargs="?", choices=("ours", "peer"), default="ours")
    parser.add_argument("--timeout", type=int, default=300, help="seconds, building the model not counted")
    parser.add_argument("--quick", action="store_true", help="the tiny model, where none is named")
    options = parser.parse_args()
    options.model = options.model or (TINY if options.quick else None)
    names = load_torchvision("torchvision.models").list_models(module=load_torchvision("torchvision.models"))
    if options.model is None:
        parser.error("name a model, or give --quick")
    if options.model not in (TINY, *names):
        parser.error(f"torchvision has no classifier {options.model}")
    if options.timeout < 1:
        parser.error(f"--timeout must be at least 1, and is {options.timeout}")
    if options.tool == "peer" and torch_pruning is None:
        parser.error("torch-pruning is not installed: run pip install '.[bench]', or take ours")
    return options


def main(name: str, tool: str, timeout: int) -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    figures = Figures(timeout)
    try:
        {"ours": measure_ours, "peer": measure_peer}[tool](name, figures)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        figures.add(why=f"{type(error).__name__} in the {figures.values['stage']}: {first}"[:160])


if __name__ == "__main__":
    arguments = parse()
    main(arguments.model, arguments.tool, arguments.timeout)
