"""How far the mask that a pruning would make changes from epoch to epoch (Early-Bird tickets: You et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.scoring.criteria import CRITERIA
from earlycrop.scoring.scores import node_scores, unscorable_nodes
from earlycrop.selection.constraints import Limits
from earlycrop.selection.nodes import choose_nodes, node_bounds
from earlycrop.selection.targets import max_remaining
from earlycrop.tracing.trace import trace
from earlycrop.utils.modules import parameters_by_name
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import check_unchanged


class MaskHistory:
    """The last few masks, and the largest share of entries in which two of them differ (normalised Hamming distance).

    Source: You et al. 2020, section 4: of 5 masks.

    Raises:
        ValueError: ``masks`` is below 2.
    """

    def __init__(self, masks: int = 5) -> None:
        if masks < 2:
            raise ValueError(f"masks must be at least 2, and is {masks}: one has nothing to differ from")
        self.masks = masks
        self.last: list[Tensor] = []

    def update(self, mask: Tensor) -> float | None:
        """Take up another mask; the largest distance among the last ones, None for a single one."""
        self.last = [*self.last, mask.cpu()][-self.masks :]
        return max((float((a != b).double().mean()) for a, b in combinations(self.last, 2)), default=None)

    def state_dict(self) -> list[Tensor]:
        return [m.to(torch.uint8) for m in self.last]

    def load_state_dict(self, state: list[Tensor]) -> None:
        self.last = [m.bool() for m in state]


class NodeMaskTracker:
    """Early-Bird's mask distance of a model in training, whatever will prune it: of the nodes that go, to a sparsity in
    weights, by the scales of batch norms (where there are none, by the norm of the rows that produce a node).
    """

    def __init__(self, sparsity: float, limits: Limits) -> None:
        self.sparsity, self.limits, self.history = sparsity, limits, MaskHistory()
        self._graph: Graph | None = None

    def forget(self) -> None:
        """Let go of the graph, and the batch that it was traced on: no other mask will be compared."""
        self._graph = None

    def update(self, model: nn.Module, loss: Loss, batches: Iterable[Any]) -> tuple[float | None, Iterable[Any]]:
        """The distance after another epoch, None without two masks; and what is to be read in the place of ``batches``.

        The model is traced on the first of them, once: it keeps its shape while masks are compared.

        Raises:
            ValueError: there is no batch, or something else has changed the model. TraceError: the model cannot be
            traced.
        """
        criterion = CRITERIA["norm-scale"]
        if self._graph is None:
            rest = iter(batches)
            batch = next(rest, None)
            if batch is None:
                raise ValueError("there is no batch to trace the model on: give at least one batch of training data")
            graph = trace(model, lambda m: loss(m, batch))
            self._graph = graph.freeze(unscorable_nodes(model, graph, criterion))
            batches = chain([batch], rest)
        graph = self._graph
        check_unchanged(parameters_by_name(model), graph.shapes)
        if not graph.count:
            return None, batches
        scores = node_scores(model, graph, criterion, loss, [])
        bounds = node_bounds(graph, self.limits)
        chosen = choose_nodes(graph, scores, max_remaining(graph.cost("weights"), self.sparsity), "weights", bounds)
        return self.history.update(torch.from_numpy(chosen.removed)), batches
