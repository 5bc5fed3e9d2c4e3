"""What a pruning would remove now. The triggers that compare masks ask for it after every epoch."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.rounds.scores import score_nodes, score_weights
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.nodes import choose_nodes, node_bounds
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, select_prunable, weight_bounds


def candidate_mask(
    request: PruningRequest, context: PruningContext, graph: Graph, batches: list[Any]
) -> Bool[Tensor, "units"]:
    """Return which units a pruning to the last target would remove now, in one round.

    The units are the nodes of ``graph`` for a structured request, and the entries of all prunable matrices otherwise.
    """
    network, target = context.network, request.targets[-1]
    if request.structured:
        scores = score_nodes(request, context, graph, batches)
        allowed = max_remaining(graph.cost(request.of), target)
        bounds = node_bounds(graph, request.limits)
        return torch.from_numpy(choose_nodes(graph, scores, allowed, request.of, bounds).removed)
    prunable = select_prunable(network, graph, request.limits)
    weights = score_weights(request, context, batches, prunable)
    allowed = max_remaining(sum(scores.numel() for scores in weights.values()), target)
    limits = weight_bounds(network, request.limits, prunable)
    choice = choose_weights(weights, allowed, path_weights(graph, weights), bounds=limits)
    return torch.cat([removed.flatten() for removed in choice.removed.values()])
