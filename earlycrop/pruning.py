"""One pruning, start to end: score, choose and remove, in as many rounds as the schedule has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop._paths import path_weights
from earlycrop._processes import Peers, of_the_first, require_agreement, require_same
from earlycrop._timing import Clock, choose_nodes_in_time
from earlycrop._watch import Reason
from earlycrop._wrappers import group_of, say_what_to_wrap, unwrapped
from earlycrop.budget import (
    Choice,
    choose_nodes,
    choose_weights,
    limit,
    node_bounds,
    outputs_left,
    weight_bounds,
    weights_left,
)
from earlycrop.criteria import CRITERIA, Criterion
from earlycrop.event import Event, Request
from earlycrop.flow import Loss, Tensors
from earlycrop.graph import Graph, Group
from earlycrop.limits import NO_LIMITS, Bounds, Limits
from earlycrop.masks import Masks
from earlycrop.materialising import require_values
from earlycrop.schedule import halving
from earlycrop.shuffle import shuffled_nodes, shuffled_weights
from earlycrop.surgeon import SurgeryError, shrink, uncertified
from earlycrop.trace import trace
from earlycrop.units import matrices, node_scores, node_sums, norm_scales, unscored, weight_scores

Choose = Callable[[Graph, Tensor, int, Bounds], Choice]
"""(graph, scores, how much may be left, bounds) -> which nodes go."""
CERTIFIED = "whether the certificate of a cut holds"


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
    copies: Sequence[nn.Module] = (),
    limits: Limits = NO_LIMITS,
    statistics: str = "auto",
) -> Event:
    """Prune ``model`` in place, now: cut its nodes (``structured``), or zero its weights and hold them there.

    ``loss(model, batch)`` gives a scalar; ``batches`` are training data, of which all are read. The target is met in
    ``rounds`` steps (:func:`earlycrop.schedule.halving`), with scores taken anew on what is left. ``of="time"``
    measures a training step on the first batch between cuts: up to 9 times a round, each time until it is known to 1 %,
    but no longer than 10 s, or 9 steps of the dense model and of a cut one where those take longer. ``gate`` and
    ``statistics``: see :class:`earlycrop.event.Request`. Give the ``optimizer``, or all of several, that is to go on
    with the pruned model, and ``copies`` that average its weights. ``limits``: floors, ceilings, layers to leave alone,
    multiples; where they do not allow the target, what they allow goes, with a warning. A compiled or wrapped model is
    pruned inside, and ``loss`` is given what is inside (see :func:`earlycrop.shrink`). Under DistributedDataParallel
    each process gives batches of its own, as many, and all make the same cut: what is differentiated is averaged.

    Raises:
        ValueError: an argument is out of its range, there is no batch, or processes would remove different things.
        FlowError, TraceError, SurgeryError: scoring, tracing or cutting failed; what earlier rounds did stands.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, and is {rounds}")
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"there is no criterion '{criterion}': take one of {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    request = Request(criterion, structured, halving(sparsity, rounds), of, gate, limits, statistics=statistics)
    return carry_out(request, model, loss, list(batches), optimizer, "asked for", 0, copies, group=group_of(model))


def carry_out(
    request: Request,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    reason: str,
    epoch: int,
    copies: Sequence[nn.Module] = (),
    effects: Tensors | None = None,
    dense: Mapping[str, int] | None = None,
    group: Peers = None,
) -> Event:
    """Prune as requested; ``epoch`` says how long the model has been trained. ``group``: the processes that train it.

    Of nodes: ``effects`` of batch norm scales may stand in the place of the criterion's, and ``dense`` is what the
    network cost (weights, nodes and ``request.of``) before earlier prunings.
    """
    if not batches:
        raise ValueError("there is no batch to score on: give at least one batch of training data")
    require_values(model)
    start = perf_counter()
    if request.structured:
        found = _cut_nodes(request, model, loss, batches, optimizer, copies, effects, dense, group)
    else:
        found = _zero_weights(request, model, loss, batches, optimizer, copies, group)
    bounds: Bounds = found.pop("bounds")
    event = Event(
        reason=reason, epoch=epoch, of=request.of, asked=request.targets[-1],
        achieved=1 - found["left"] / found["dense"], rounds=len(request.targets), batches=len(batches),
        seconds=perf_counter() - start, limits=request.limits, **found,
    )  # fmt: skip
    if event.left > limit(event.dense, event.asked):
        held = ", ".join(event.floors + event.whole)
        warnings.warn(
            f"asked to remove {event.asked:.2%} of the {event.of}, and {event.achieved:.2%} could go: more would empty "
            f"a layer, break a limit or fail its certificate ({held or 'see Graph.report()'})",
            stacklevel=3,
        )
    if above := [
        f"{n} keeps {k}, not {bounds.most[n]}" for n, (_, k) in event.layers.items() if k > bounds.most.get(n, k)
    ]:
        warnings.warn(
            f"ceilings were not reached: {', '.join(above)}; what is frozen, uncertified or fills a multiple stays",
            stacklevel=3,
        )
    if request.structured:
        say_what_to_wrap(model, stacklevel=3)
    return event


def _cut_nodes(
    request: Request,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
    effects: Tensors | None,
    before_all: Mapping[str, int] | None,
    group: Peers,
) -> dict[str, Any]:
    """Rounds of trace, score, choose and shrink. Layers whose cut cannot be certified stay whole."""
    model = unwrapped(model)
    whole: dict[Group, Reason] = {}

    def traced() -> Graph:
        graph = trace(model, lambda m: loss(m, batches[0]))
        graph = graph.without(unscored(model, graph, request.criterion))
        return graph.without({i: whole[g] for g, ids in graph.groups.items() if g in whole for i in ids})

    graph = traced()
    if not graph.count:
        raise ValueError(f"no node of this model can be removed:\n{graph.report()}")
    bounds = node_bounds(graph, request.limits)
    dense = {of: graph.cost(of) for of in ("weights", "nodes")}
    dense[request.of], choose = _measured(request.of, model, loss, batches[0], graph, group)
    dense.update(before_all or {})
    before = outputs_left(graph)
    floors: set[str] = set()
    difference = 0.0
    for done, sparsity in enumerate(request.targets):
        if done:
            graph = traced()
        allowed, within = limit(dense[request.of], sparsity), bounds.part(sparsity / request.targets[-1])
        if effects is not None:
            scores = node_sums(model, graph, effects)
        else:
            scores = node_scores(model, graph, request.criterion, loss, batches, request.where, request.of_batch, group)
        while True:
            choice = choose(graph, scores, allowed, within)
            if request.shuffled:
                drawn = torch.from_numpy(shuffled_nodes(graph, choice.removed))
                choice = replace(choice, removed=of_the_first(drawn, group).numpy())
            remove = choice.removed.nonzero()[0].tolist()
            require_agreement([choice.removed], group)
            try:
                cut = shrink(model, graph, remove, optimizer, copies=copies)
                require_same("yes", group, CERTIFIED)
                break
            except SurgeryError:
                require_same("no", group, CERTIFIED)
                failing = uncertified(model, graph, remove)
                if not failing:
                    raise
                found = {g: Reason("certificate", "", told) for g, told in failing.items()}
                reasons = {i: found[g] for g in found for i in graph.groups[g]}
                whole |= found
                scores, graph = scores[torch.from_numpy(~graph.mask(reasons))], graph.without(reasons)
        floors |= set(choice.floors)
        difference = max(difference, cut.difference or 0.0)
    left = {of: graph.cost(of, choice.removed) for of in ("weights", "nodes")}
    shares = {of: 1 - left[of] / dense[of] if dense[of] else 0.0 for of in left}
    after = outputs_left(graph, choice.removed)
    return {
        "dense": dense[request.of], "left": choice.left, "floors": tuple(sorted(floors)), "difference": difference,
        "weight_sparsity": shares["weights"], "node_sparsity": shares["nodes"], "bounds": bounds,
        "whole": tuple(sorted({tensor for group in whole for tensor, _ in group})),
        "layers": {name: (n, after.get(name, 1)) for name, n in before.items()},  # a single output is not traced
        "notes": _notes(request, model),
    }  # fmt: skip


def _measured(of: str, model: nn.Module, loss: Loss, batch: Any, graph: Graph, group: Peers) -> tuple[int, Choose]:
    """What the network as it is now costs in ``of``, and what chooses the nodes for a target in it."""
    if of != "time":
        return graph.cost(of), lambda graph, scores, allowed, within: choose_nodes(graph, scores, allowed, of, within)
    clock = Clock(model, loss, batch, group)
    return clock.dense, lambda graph, scores, allowed, within: choose_nodes_in_time(
        graph, scores, allowed, clock.beside(graph), within
    )


def _zero_weights(
    request: Request,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
    group: Peers,
) -> dict[str, Any]:
    """Rounds of score, choose and mask; what the event says of them."""
    model = unwrapped(model)
    every, bounds = matrices(model), weight_bounds(model, request.limits)
    if not any(p.requires_grad for p in every.values()):
        raise ValueError("the model has no trained weight matrix: there is nothing to prune")
    dense = sum(p.numel() for p in every.values())
    fixed = sum(p.numel() for p in every.values() if not p.requires_grad)
    floors: set[str] = set()
    graph = trace(model, lambda m: loss(m, batches[0]))
    left, masks, alive, keep = dense, None, None, None
    for sparsity in request.targets:
        scores = weight_scores(model, request.criterion, loss, batches, request.of_batch, group)
        keep = keep or path_weights(graph, scores)  # of the first round: what a later one would choose may be gone
        within = bounds.part(sparsity / request.targets[-1])
        choice = choose_weights(scores, limit(dense, sparsity), keep, alive, fixed, within)
        if request.shuffled:
            drawn = shuffled_weights(choice.removed, keep, alive)
            choice = replace(choice, removed={name: of_the_first(gone, group) for name, gone in drawn.items()})
        floors |= set(choice.floors)
        left, alive = choice.left, {name: ~gone for name, gone in choice.removed.items()}
        require_agreement([gone.cpu().numpy() for gone in choice.removed.values()], group)
        if masks is not None:
            masks.release()
        masks = Masks(model, choice.removed, optimizer, copies)
    return {
        "dense": dense, "left": left, "floors": tuple(sorted(floors)), "whole": (), "difference": None,
        "weight_sparsity": 1 - left / dense, "node_sparsity": 0.0, "masks": masks, "bounds": bounds,
        "layers": weights_left(every, choice.removed), "notes": _notes(request, model),
    }  # fmt: skip


def would_remove(
    request: Request, model: nn.Module, graph: Graph, loss: Loss, batches: list[Any], group: Peers = None
) -> Bool[Tensor, "units"]:
    """The units that a pruning at the last target would remove now, in one round: nodes of ``graph``, or weights."""
    if request.structured:
        scores = node_scores(model, graph, request.criterion, loss, batches, request.where, request.of_batch, group)
        allowed = limit(graph.cost(request.of), request.targets[-1])
        return torch.from_numpy(
            choose_nodes(graph, scores, allowed, request.of, node_bounds(graph, request.limits)).removed
        )
    weights = weight_scores(model, request.criterion, loss, batches, request.of_batch, group)
    every = matrices(model)
    fixed = sum(p.numel() for p in every.values() if not p.requires_grad)
    allowed = limit(sum(p.numel() for p in every.values()), request.targets[-1])
    bounds = weight_bounds(model, request.limits)
    choice = choose_weights(weights, allowed, path_weights(graph, weights), None, fixed, bounds)
    return torch.cat([gone.flatten() for gone in choice.removed.values()])


def _notes(request: Request, model: nn.Module) -> tuple[str, ...]:
    notes = []
    if request.criterion.norms and not norm_scales(model):
        notes.append("the network has no batch norm: the norm of the rows that produce a node stood for its scale")
    if request.shuffled:
        notes.append("a control: as many as were chosen went of each layer, at random")
    return tuple(notes)
