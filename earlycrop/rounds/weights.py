"""Algorithm 1 of the paper for single weights: score, select and mask, in rounds.

Source: Rachwan et al. 2022, algorithm 1, lines 12 to 17.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.rounds.notes import list_left_alone, make_notes
from earlycrop.rounds.scores import check_some_score, score_weights
from earlycrop.rounds.sizes import PruningResult
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.random_control import shuffle_weights
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, remaining_weights, select_prunable, weight_bounds
from earlycrop.surgery.masks import Masks
from earlycrop.tracing.trace import trace_batches
from earlycrop.utils.distributed import check_same_removal, fail_together
from earlycrop.utils.parameters import weight_matrices


def zero_weights(
    request: PruningRequest, context: PruningContext, batches: list[Any], unused: frozenset[str] = frozenset()
) -> PruningResult:
    """Zero single weights and hold them at zero, in rounds of score, select and mask.

    Args:
        request: What to remove.
        context: The network, and what goes on with it.
        batches: Training data.
        unused: The parameters that the loss does not depend on, which stay.

    Raises:
        ValueError: No weight can be removed.
        FlowError, TraceError: Scoring or tracing failed.
    """
    network, matrices = context.network, weight_matrices(context.network)
    floors: set[str] = set()
    with fail_together(context.group):
        graph = trace_batches(network, context.loss, batches)
        prunable = select_prunable(network, graph, request.limits, unused)
        bounds = weight_bounds(network, request.limits, prunable)
    dense, total = (sum(p.numel() for p in group.values()) for group in (prunable, matrices))
    alive, keep = None, None
    with ExitStack() as cleanup:  # if a round fails, nothing is held: its zeros may grow back
        for number, sparsity in enumerate(request.targets):
            scores = score_weights(request, context, request.batches_of_round(number, batches), prunable)
            if keep is None:  # in the first round only: later rounds may have removed weights on these paths
                check_some_score(scores.values())
                keep = path_weights(graph, scores)
            part = bounds.part(sparsity / request.targets[-1])
            choice = choose_weights(scores, max_remaining(dense, sparsity), keep, alive, bounds=part)
            if request.shuffled:
                choice = replace(choice, removed=shuffle_weights(choice.removed, keep, alive, context.group))
            floors |= set(choice.floors)
            alive = {name: ~gone for name, gone in choice.removed.items()}
            check_same_removal([gone.cpu().numpy() for gone in choice.removed.values()], context.group)
            cleanup.close()
            masks = Masks(network, choice.removed, context.optimizers, context.ema_models)
            cleanup.callback(masks.release)
        cleanup.pop_all()
    layers = remaining_weights(matrices, choice.removed)
    unchanged = {name: (graph.cost(name), graph.cost(name)) for name in ("nodes", "macs")}
    return PruningResult(
        dense=dense,
        left=choice.left,
        costs={"weights": (total, total - dense + choice.left), **unchanged},
        floors=tuple(sorted(floors)),
        layers=layers,
        notes=(*make_notes(request, network, layers), *list_left_alone(matrices, prunable)),
        bounds=bounds,
        masks=masks,
    )
