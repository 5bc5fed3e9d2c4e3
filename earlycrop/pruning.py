"""One pruning, start to end: score, choose and remove, in as many rounds as the schedule has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.events import Event, PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.rounds import DenseBaseline, cut_nodes, zero_weights
from earlycrop.scoring.criteria import CRITERIA, Criterion
from earlycrop.scoring.scores import node_scores, weight_scores
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.constraints import NO_LIMITS, Bounds, Limits
from earlycrop.selection.nodes import choose_nodes, node_bounds
from earlycrop.selection.schedules import halving
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, weight_bounds
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.distributed import ProcessGroup, fail_together
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.parameters import weight_matrices
from earlycrop.utils.types import Loss, Tensors
from earlycrop.utils.validation import (
    as_modules,
    as_optimizers,
    check_network,
    check_positive_int,
    check_sparsity,
    check_type,
)
from earlycrop.utils.wrappers import process_group_of, warn_rewrap


def prune(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    criterion: str | Criterion = "crop",
    sparsity: float = 0.9,
    of: str = "weights",
    structured: bool = True,
    rounds: int = 1,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    gate: str = "auto",
    copies: nn.Module | Sequence[nn.Module] = (),
    limits: Limits = NO_LIMITS,
    statistics: str = "auto",
) -> Event:
    """Prune ``model`` in place, now: cut its nodes (``structured``), or zero its weights and hold them there.

    ``loss(model, batch)`` gives a scalar; ``batches`` are training data, of which all are read. The target is met in
    ``rounds`` steps (:func:`earlycrop.selection.schedules.halving`), with scores taken anew on what is left.
    ``of="time"`` measures a training step on the first batch between cuts: up to 9 times a round, each time until it is
    known to 1 %, but no longer than 10 s, or 9 steps of the dense model and of a cut one where those take longer.
    ``gate`` and ``statistics``: see :class:`earlycrop.events.PruningRequest`. Give the ``optimizer``, or all of
    several, that is to go on with the pruned model, and ``copies`` that average its weights. ``limits``: floors,
    ceilings, layers to leave alone, multiples; where they do not allow the target, what they allow goes, with a
    warning. A compiled or wrapped model is pruned inside, and ``loss`` is given what is inside (see
    :func:`earlycrop.shrink`). Under DistributedDataParallel each process gives batches of its own, as many, and all
    make the same cut: what is differentiated is averaged.

    Raises:
        TypeError: an argument is of another kind than it should be. ValueError: one is out of its range, there is no
        batch, the first has no examples, or processes would remove different things.
        FlowError, TraceError, SurgeryError: scoring, tracing or cutting failed; nodes that went in earlier rounds are
        gone, and weights are zero, but not held there.
    """
    check_network(model)
    sparsity, rounds, copies = check_sparsity(sparsity), check_positive_int("rounds", rounds), as_modules(copies)
    as_optimizers(optimizer)
    check_type("the loss", loss, Callable, "give a function of (model, batch) that returns a scalar")
    check_type("limits", limits, Limits, "write earlycrop.Limits(floors=...)")
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"there is no criterion '{criterion}': take one of {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    check_type("the criterion", criterion, Criterion, f"give a Criterion, or one of {', '.join(CRITERIA)}")
    request = PruningRequest(criterion, structured, halving(sparsity, rounds), of, gate, limits, statistics=statistics)
    with outside_inference_mode():
        return run_pruning(
            request, model, loss, list(batches), optimizer, "asked for", 0, copies, group=process_group_of(model)
        )


def run_pruning(
    request: PruningRequest,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    reason: str,
    epoch: int,
    copies: Sequence[nn.Module] = (),
    effects: Tensors | None = None,
    before: DenseBaseline | None = None,
    group: ProcessGroup = None,
) -> Event:
    """Prune as requested; ``epoch`` says how long the model has been trained. ``group``: the processes that train it.

    Of nodes: ``effects`` of batch norm scales may stand in the place of the criterion's, and ``before`` is what the
    network was before earlier prunings, or before this one, if it is taken up again after an error.
    """
    with fail_together(group):
        if not batches:
            raise ValueError("there is no batch to score on: give at least one batch of training data")
        if _is_empty(batches[0]):
            raise ValueError("the first batch has no examples, and nothing can be scored or proven on it: leave it out")
        check_materialised(model)
    start = perf_counter()
    if request.structured:
        found = cut_nodes(request, model, loss, batches, optimizer, copies, effects, before or DenseBaseline(), group)
    else:
        found = zero_weights(request, model, loss, batches, optimizer, copies, group)
    bounds: Bounds = found.pop("bounds")
    event = Event(
        reason=reason, epoch=epoch, of=request.of, asked=request.targets[-1],
        achieved=1 - found["left"] / found["dense"], rounds=len(request.targets), batches=len(batches),
        seconds=perf_counter() - start, limits=request.limits, **found,
    )  # fmt: skip
    if event.left > max_remaining(event.dense, event.asked):
        held = ", ".join(event.floors + event.whole)
        warnings.warn(
            f"asked to remove {event.asked:.2%} of the {event.of}, and {event.achieved:.2%} could go: more would empty "
            f"a layer, break a limit or fail its certificate ({held or 'see Graph.report()'})",
            stacklevel=3,
        )
    if above := [
        f"{name} keeps {count}, not {bounds.max_kept[name]}"
        for name, (_, count) in event.layers.items()
        if count > bounds.max_kept.get(name, count)
    ]:
        warnings.warn(
            f"ceilings were not reached: {', '.join(above)}; what is frozen, uncertified or fills a multiple stays",
            stacklevel=3,
        )
    if request.structured:
        warn_rewrap(model, stacklevel=3)
    return event


def _is_empty(batch: Any) -> bool:
    """Whether the batch has tensors, and none of them has an entry."""
    found = collect_tensors(dict(batch) if isinstance(batch, Mapping) else batch)
    return bool(found) and not any(t.numel() for t in found)


def candidate_mask(
    request: PruningRequest, model: nn.Module, graph: Graph, loss: Loss, batches: list[Any], group: ProcessGroup = None
) -> Bool[Tensor, "units"]:
    """The units that a pruning at the last target would remove now, in one round: nodes of ``graph``, or weights."""
    if request.structured:
        scores = node_scores(model, graph, request.criterion, loss, batches, request.where, request.of_batch, group)
        allowed = max_remaining(graph.cost(request.of), request.targets[-1])
        return torch.from_numpy(
            choose_nodes(graph, scores, allowed, request.of, node_bounds(graph, request.limits)).removed
        )
    weights = weight_scores(model, request.criterion, loss, batches, request.of_batch, group)
    dense = sum(p.numel() for p in weight_matrices(model).values())
    fixed = dense - sum(s.numel() for s in weights.values())
    allowed = max_remaining(dense, request.targets[-1])
    bounds = weight_bounds(model, request.limits)
    choice = choose_weights(weights, allowed, path_weights(graph, weights), None, fixed, bounds)
    return torch.cat([gone.flatten() for gone in choice.removed.values()])
