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
from earlycrop.tracing.trace import trace_batches
from earlycrop.utils.types import Loss
from earlycrop.utils.wrappers import check_unchanged


class MaskHistory:
    """The last few masks, and the largest share of entries in which two of them differ (normalized Hamming distance).

    Source: You et al. 2020, section 4.

    Args:
        size: The number of masks to compare.

    Raises:
        ValueError: ``size`` is below 2.
    """

    def __init__(self, size: int = 5) -> None:
        if size < 2:
            raise ValueError(f"masks must be at least 2, and is {size}: a single mask cannot be compared")
        self.size = size
        self.masks: list[Tensor] = []

    def update(self, mask: Tensor) -> float | None:
        """Add a mask, and drop the oldest one if there are too many.

        Args:
            mask: The mask.

        Returns:
            The largest distance between two masks, None for a single one.
        """
        self.masks = [*self.masks, mask.cpu()][-self.size :]
        return max((float((a != b).double().mean()) for a, b in combinations(self.masks, 2)), default=None)

    def state_dict(self) -> list[Tensor]:
        """Return the masks, as integers."""
        return [m.to(torch.uint8) for m in self.masks]

    def load_state_dict(self, state: list[Tensor]) -> None:
        """Load the masks from ``state_dict``.

        Args:
            state: The masks.
        """
        self.masks = [m.bool() for m in state]


class NodeMaskTracker:
    """Measures Early-Bird's mask distance of a model in training, whatever method will prune it.

    The masks are of nodes, to a sparsity in weights, by the scales of batch norms (without any, by the norm of the rows
    that produce a node).

    Args:
        sparsity: The share of the weights that the masks remove.
        limits: What the masks respect.
    """

    def __init__(self, sparsity: float, limits: Limits) -> None:
        self.sparsity, self.limits, self.history = sparsity, limits, MaskHistory()
        self._graph: Graph | None = None

    def forget(self) -> None:
        """Free the graph, and the batch that it was traced on."""
        self._graph = None

    def update(self, model: nn.Module, loss: Loss, batches: Iterable[Any]) -> tuple[float | None, Iterable[Any]]:
        """Compute the mask after another epoch and compare it with the last ones.

        The model is traced at the first call only, because it keeps its shape while masks are compared.

        Args:
            model: The model.
            loss: (model, batch) -> scalar loss.
            batches: Training data. The first batch is read at the first call.

        Returns:
            The distance, None for a single mask; and all of ``batches``, with the batch that was read.

        Raises:
            ValueError: There is no batch, or something else has changed the model.
            TraceError: The model cannot be traced.
        """
        criterion = CRITERIA["norm-scale"]
        if self._graph is None:
            rest = iter(batches)
            batch = next(rest, None)
            if batch is None:
                raise ValueError("there is no batch to trace the model on: give at least one batch of training data")
            graph = trace_batches(model, loss, [batch])
            self._graph = graph.freeze(unscorable_nodes(model, graph, criterion))
            batches = chain([batch], rest)
        graph = self._graph
        check_unchanged(dict(model.named_parameters()), graph.shapes)
        if not graph.count:
            return None, batches
        scores = node_scores(model, graph, criterion, loss, [])
        bounds = node_bounds(graph, self.limits)
        choice = choose_nodes(graph, scores, max_remaining(graph.cost("weights"), self.sparsity), "weights", bounds)
        return self.history.update(torch.from_numpy(choice.removed)), batches
