"""The sizes of a network before its first round and after its last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import ChannelLabels
from earlycrop.selection.constraints import Bounds
from earlycrop.surgery.masks import Masks


@dataclass
class DenseBaseline:
    """The sizes of a network before its first round. Targets and limits are shares of these.

    It is kept if a round fails, so that a repeat still counts from the dense network.

    Attributes:
        costs: Weights, nodes, MACs, and what the target is a share of.
        layers: How many outputs each layer had.
        bounds: The limits in numbers.
        coupling: Of the indices left by the last cut, those that had to be removed together; see
            :func:`earlycrop.tracing.trace.trace_batches`.
    """

    costs: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    bounds: Bounds | None = None
    coupling: dict[tuple[str, int], ChannelLabels] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as :func:`earlycrop.save_state` takes it."""
        coupling = [[*key, torch.from_numpy(classes)] for key, classes in self.coupling.items()]
        return {**asdict(replace(self, coupling={})), "coupling": coupling}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DenseBaseline:
        """Return the baseline of a ``state_dict()``."""
        bounds = state["bounds"] and Bounds(**state["bounds"])
        coupling = {(name, dim): classes.cpu().numpy() for name, dim, classes in state["coupling"]}
        return cls(dict(state["costs"]), dict(state["layers"]), bounds, coupling)

    def collapsed_layers(self, graph: Graph) -> int:
        """Return how many layers have a single output left, which a new trace does not count as a node."""
        return len(self.layers.keys() - {layer.name for layer in graph.layers})


@dataclass(frozen=True)
class PruningResult:
    """The result of all rounds: fields of :class:`earlycrop.Event`, and the limits in numbers (``bounds``)."""

    dense: int
    left: int
    costs: Mapping[str, tuple[int, int]]
    floors: tuple[str, ...]
    layers: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    bounds: Bounds
    uncertified: tuple[str, ...] = ()
    difference: float | None = None
    masks: Masks | None = None

    def sparsity(self, name: str) -> float:
        """Return the share of the weights, nodes or MACs that is gone."""
        before, after = self.costs[name]
        return 1 - after / before if before else 0.0
