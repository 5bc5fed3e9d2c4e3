"""Processor seconds of a trace, and of what torch-pruning does in its place, a row a network.

Torch-pruning builds its graph of dependencies, ``DependencyGraph().build_dependency``, in which a group is looked up
when it is asked for; its ``BasePruner`` looks all of them up at first, as a trace does. All are called in turn in one
process, on one thread, and medians count. A batch is one 224 x 224 image, in evaluation mode, with random weights; that
of the transformer is 16 tokens of width 128.

Needs torch-pruning (``pip install '.[bench]'``).
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.command_line import BenchmarkOptions, require_installed, require_known, run
from benchmarks.results import Results
from benchmarks.timing import in_turn
from earlycrop import trace
from earlycrop.utils.torchvision_compat import load_torchvision

TRANSFORMER = "transformer_12_layers"
MODELS = (
    "resnet18", "resnet50", "vgg16_bn", "densenet121", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large",
    "efficientnet_b0", "regnet_y_400mf", "mnasnet1_0", "convnext_tiny", TRANSFORMER,
)  # fmt: skip
FIGURES = ("trace_seconds", "peer_graph_seconds", "peer_seconds", "over_peer_graph", "over_peer", "repeats")
"""What is measured of a model. peer_graph: its graph of dependencies. peer: its pruner. over_: ours over the peer's."""


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to trace."""

    models: tuple[str, ...] = MODELS
    """torchvision's names, and transformer_12_layers."""
    tool: Literal["ours", "both"] = "both"
    """Whose seconds to measure."""
    repeats: int = 7
    """Traces of each network and tool that are timed, after one that is not."""


QUICK = Options(models=("squeezenet1_1",), repeats=1)


class Block(nn.Module):
    """A layer of a transformer, with projections of its own for queries, keys and values.

    Args:
        width: Of a token.
        heads: Of the attention.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.width_of_head = width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            p(y).unflatten(-1, (-1, self.width_of_head)).transpose(1, 2) for p in (self.query, self.key, self.value)
        )
        attended = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and its example."""
    torch.manual_seed(0)
    if name == TRANSFORMER:
        return nn.Sequential(*(Block(128) for _ in range(12)), nn.Linear(128, 1000)).eval(), torch.randn(1, 16, 128)
    return load_torchvision("torchvision.models").get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)


def make_peers(model: nn.Module, example: Tensor) -> list[Callable[[], Any]]:
    """Return torch-pruning's functions: one builds the graph of dependencies, the other one makes a pruner."""
    torch_pruning: Any = importlib.import_module("torch_pruning")
    last = [m for m in model.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    importance = torch_pruning.importance.RandomImportance()
    return [
        lambda: torch_pruning.DependencyGraph().build_dependency(model, example),
        lambda: torch_pruning.pruner.BasePruner(model, example, importance, pruning_ratio=0.4, ignored_layers=last),
    ]


def measure(name: str, options: Options) -> dict[str, Any]:
    """Return the row of a network."""
    model, example = build(name)
    peers = make_peers(model, example) if options.tool == "both" else []
    seconds = in_turn(lambda: trace(model, example), *peers, repeats=options.repeats, clock=time.process_time)
    row: dict[str, Any] = {"model": name, "repeats": options.repeats}
    row |= dict(zip(("trace_seconds", "peer_graph_seconds", "peer_seconds"), seconds, strict=False))
    if peers:
        row |= {"over_peer_graph": seconds[0] / seconds[1], "over_peer": seconds[0] / seconds[2]}
    return row


def main(options: Options) -> None:
    """Measure and print."""
    known = load_torchvision("torchvision.models").list_models(module=load_torchvision("torchvision.models"))
    require_known("--models", options.models, [*known, TRANSFORMER])
    if options.tool == "both":
        require_installed("torch_pruning", "torch-pruning", "measure ours alone with --tool ours")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    packages = ["torchvision", *(["torch-pruning"] if options.tool == "both" else [])]
    results = Results("trace_time", options, ["model"], FIGURES, packages)
    for name in options.models:
        results.add(measure(name, options))
    results.print()


if __name__ == "__main__":
    run("trace_time", main, Options(), QUICK, __doc__)
