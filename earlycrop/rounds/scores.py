"""Score what is left of a network, as a request asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.scoring.memory import check_memory
from earlycrop.scoring.scores import node_scores, weight_scores
from earlycrop.utils.distributed import ProcessGroup, fail_together
from earlycrop.utils.errors import FlowError
from earlycrop.utils.types import Tensors

T = TypeVar("T")


def score_nodes(
    request: PruningRequest, context: PruningContext, graph: Graph, batches: list[Any], graph_bytes: int | None = None
) -> Tensor:
    """Return a score for each node of a graph. Ask for the memory first, if the size of the loss's graph is given."""
    gate, statistics = request.gate_position, request.uses_batch_statistics(context.network)

    def score(network: nn.Module, batches: Sequence[Any], group: ProcessGroup) -> Tensor:
        return node_scores(network, graph, request.criterion, context.loss, batches, gate, statistics, group)

    return _score_in_memory(score, context, batches, graph_bytes)


def score_weights(
    request: PruningRequest,
    context: PruningContext,
    batches: list[Any],
    prunable: Mapping[str, Tensor],
    graph_bytes: int | None = None,
) -> Tensors:
    """Return a score for each weight of the prunable matrices, as :func:`score_nodes` does for nodes."""
    statistics = request.uses_batch_statistics(context.network)

    def score(network: nn.Module, batches: Sequence[Any], group: ProcessGroup) -> Tensors:
        return weight_scores(network, request.criterion, context.loss, batches, statistics, group)

    scores = _score_in_memory(score, context, batches, graph_bytes)
    return {name: score for name, score in scores.items() if name in prunable}


def _score_in_memory(
    score: Callable[[nn.Module, Sequence[Any], ProcessGroup], T],
    context: PruningContext,
    batches: list[Any],
    graph_bytes: int | None,
) -> T:
    """Score, or raise NotEnoughMemoryError in all processes if one of them has too little."""
    if graph_bytes is not None:
        with fail_together(context.group):
            check_memory(score, context.network, batches, graph_bytes)
    return score(context.network, batches, context.group)


def check_some_score(scores: Iterable[Tensor]) -> None:
    """Raise FlowError where every score is zero: any selection would be arbitrary."""
    if not any(bool(score.any()) for score in scores):
        raise FlowError(
            "every score is zero, so nothing tells what to keep: either the loss is constant on these batches, or a "
            "layer of zeros (such as a head that starts at zero) keeps all others from having an effect. Train an "
            "epoch first, or give other batches or another criterion"
        )
