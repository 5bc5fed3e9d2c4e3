"""Score what is left of a network, as a request asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.scoring.scores import node_scores, weight_scores
from earlycrop.utils.errors import FlowError
from earlycrop.utils.types import Tensors


def score_nodes(request: PruningRequest, context: PruningContext, graph: Graph, batches: list[Any]) -> Tensor:
    """Return a score for each node of a graph."""
    gate, statistics = request.gate_position, request.uses_batch_statistics(context.network)
    return node_scores(
        context.network, graph, request.criterion, context.loss, batches, gate, statistics, context.group
    )


def score_weights(
    request: PruningRequest, context: PruningContext, batches: list[Any], prunable: Mapping[str, Tensor]
) -> Tensors:
    """Return a score for each weight of the prunable matrices."""
    statistics = request.uses_batch_statistics(context.network)
    scores = weight_scores(context.network, request.criterion, context.loss, batches, statistics, context.group)
    return {name: score for name, score in scores.items() if name in prunable}


def check_some_score(scores: Iterable[Tensor]) -> None:
    """Raise FlowError where every score is zero: any selection would be arbitrary."""
    if not any(bool(score.any()) for score in scores):
        raise FlowError(
            "every score is zero, so nothing tells what to keep: either the loss is constant on these batches, or a "
            "layer of zeros (such as a head that starts at zero) keeps all others from having an effect. Train an "
            "epoch first, or give other batches or another criterion"
        )
