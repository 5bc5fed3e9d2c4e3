"""The step after a cut equals the masked dense network's, for every optimizer of torch; LBFGS with state is refused.

The Adafactor of transformers is one more: its means over rows and columns lack a dimension of the parameter.

The masked dense network here: what a cut removes is zero in parameters, in every gradient and in the optimizer's state.
"""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop import SurgeryError, shrink, trace
from earlycrop.graph.graph import Graph
from earlycrop.utils.torchvision_compat import load_torchvision
from tests.networks import build
from tests.oracles import gone_of, kept, some_nodes, step, with_zeros, zeroed

pytestmark = pytest.mark.usefixtures("without_type_checks")

SLOW = pytest.mark.slow
KINDS: dict[str, type[Optimizer]] = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}
KINDS["transformers.Adafactor"] = load_torchvision("transformers.optimization").Adafactor
FLAGS = (
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "maximize",
    "amsgrad",
    "centered",
    "decoupled_weight_decay",
)
NEEDED: dict[str, dict[str, Any]] = {
    "Adafactor": {"d": 1e3},  # its clipping would hide how its steps compare: out of reach
    "transformers.Adafactor": {"clip_threshold": 1e3},
    # its scaling leaves decay out; and each of its iterations in bfloat16 multiplies the rounding of the one before
    "Muon": {"weight_decay": 0.0, "ns_steps": 1},
    "LBFGS": {"lr": 0.1, "max_iter": 3},
}


class Sparse(nn.Module):
    """An embedding whose gradient is sparse, in front of a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6, sparse=True)
        self.hidden, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(self.embedding(x)).tanh())


class Narrow(nn.Module):
    """A cut that changes the only row of one weight, and the only column of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.out = nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(self.first(x).tanh()).tanh())


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Each optimizer as it comes, with each flag that it knows and that runs on this device, and with momentum."""
    pairs: list[tuple[str, dict[str, Any]]] = []
    for name, kind in KINDS.items():
        known = inspect.signature(kind).parameters
        asked: list[dict[str, Any]] = [{}, *({flag: True} for flag in FLAGS if flag in known)]
        if "momentum" in known and name != "Muon":
            asked.append({"momentum": 0.9, "weight_decay": 0.01})
        pairs += [(name, NEEDED.get(name, {}) | options) for options in asked if not options or runs(kind, options)]
    return pairs


def runs(kind: type[Optimizer], options: dict[str, Any]) -> bool:
    weight = nn.Parameter(torch.ones(2, 2))
    try:
        optimizer = kind([weight], **options)
        weight.grad = torch.ones(2, 2)
        optimizer.step(lambda: torch.zeros(()))
    except (RuntimeError, AssertionError):  # torch's own word that it needs another device, or graph
        return False
    return True


VARIANTS = variants()
NETWORKS = {
    "SparseAdam": ["sparse"],
    "Adafactor": ["conv-norm", "lstm", "narrow"],
    "transformers.Adafactor": ["conv-norm", "lstm", "narrow"],
}
RUNS = [
    pytest.param(network, name, options, marks=SLOW if network == "lstm" and options != NEEDED.get(name, {}) else [])
    for name, options in VARIANTS
    for network in NETWORKS.get(name, ["conv-norm", "lstm"])
]
"""Of an LSTM, which takes longest, every optimizer as it comes is quick, and its other variants are slow."""


def optimizers_of(name: str, options: dict[str, Any], model: nn.Module) -> list[Optimizer]:
    """The optimizer for what it can train, in two groups where it may have them, and SGD for the rest."""
    if name == "Muon":
        trainable = [p for p in model.parameters() if p.ndim == 2]
    elif name == "SparseAdam":
        trainable = [model.embedding.weight]
    else:
        trainable = list(model.parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in trainable)]
    groups: Any = (
        trainable
        if name == "LBFGS" or len(trainable) < 2
        else [{"params": trainable[:2], "lr": 0.02}, {"params": trainable[2:]}]
    )
    first = KINDS[name](groups, **options)
    return [first, torch.optim.SGD(rest, 0.1, momentum=0.9)] if rest else [first]


@cache
def case(kind: str) -> tuple[nn.Module, Any, Graph, list[int]]:
    if kind == "sparse":
        torch.manual_seed(0)
        model: nn.Module = Sparse().double()
        example: Any = torch.randint(0, 9, (3, 5))
    elif kind == "narrow":
        torch.manual_seed(0)
        model, example = Narrow().double(), torch.randn(5, 1, dtype=torch.float64)
    else:
        model, example = build(kind)
    graph = trace(model, example)
    return model, example, graph, some_nodes(graph, 0.4, 1)


def factor(name: str, small: Tensor, dense: Tensor) -> float:
    """How much longer an optimizer's step is on a smaller tensor, by its own formula."""
    if "Adafactor" in name:  # step proportional to the root mean square of the entries, of which zeros were a part
        return (dense.numel() / small.numel()) ** 0.5
    if name == "Muon" and small.ndim == 2:
        ratio = [max(1.0, t.shape[0] / t.shape[1]) for t in (small, dense)]
        return (ratio[0] / ratio[1]) ** 0.5
    return 1.0


def masked_state(key: str, value: Tensor, parameter: Tensor, gone: list[tuple[int, Tensor]]) -> Tensor:
    """A state entry with zeros for what a cut removes, along the dimensions that it shares with the parameter."""
    if value.ndim == parameter.ndim - 1 and key.endswith(("_row", "_col")):
        missing = -1 if key.endswith("_row") else -2
        return with_zeros(value.unsqueeze(missing), gone).squeeze(missing)
    return with_zeros(value, gone)


@pytest.mark.parametrize(("network", "name", "options"), RUNS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_the_step_after_a_cut_is_that_of_the_masked_network(network: str, name: str, options: dict[str, Any]) -> None:
    made, example, graph, remove = case(network)
    gone = gone_of(graph, remove)
    model = copy.deepcopy(made)
    optimizers = optimizers_of(name, options, model)
    for _ in range(3):
        step(model, optimizers, example)
    if name == "LBFGS":
        with pytest.raises(SurgeryError, match=r"LBFGS keeps the curvature of all parameters at once"):
            shrink(model, graph, remove, optimizers)
        optimizers[0].state.clear()
    masked = zeroed(model, graph, remove)
    others = optimizers_of(name, options, masked)
    for o, other in zip(optimizers, others, strict=True):
        other.load_state_dict(copy.deepcopy(o.state_dict()))
        for n, p in masked.named_parameters():
            for key, value in other.state.get(p, {}).items():
                if n in gone and isinstance(value, Tensor) and value.numel() > 1:
                    other.state[p][key] = masked_state(key, value, p, gone[n])
    shrink(model, graph, remove, optimizers)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    assert {id(p) for o in optimizers for p in o.state} <= {id(p) for p in parameters}
    step(model, optimizers, example)
    step(masked, others, example, gone)
    allowed = 0.03 if name == "Muon" else 1e-8  # Muon computes in bfloat16
    for n, p in masked.named_parameters():
        small = model.get_parameter(n).detach()
        moved = (kept(p.detach(), gone.get(n, [])) - before[n]) * factor(name, small, p)
        assert float(moved.abs().max()) > 1e-6
        assert float((small - before[n] - moved).norm() / moved.norm()) < allowed


def test_every_optimizer_of_torch_is_among_them() -> None:
    assert {name for name, _ in VARIANTS} == set(KINDS) >= {"SGD", "AdamW", "Adafactor", "Muon", "LBFGS", "SparseAdam"}
    assert ("Adam", {"fused": True}) in VARIANTS
    assert sum("foreach" in options for _, options in VARIANTS) >= 10
