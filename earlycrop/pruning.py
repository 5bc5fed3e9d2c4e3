"""One pruning, start to end: score, choose and remove, in as many rounds as the schedule has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from earlycrop._paths import path_weights
from earlycrop._watch import Reason
from earlycrop._wrappers import require_agreement, say_what_to_wrap, unwrapped
from earlycrop.budget import MEASURES, choose_nodes, choose_weights, limit
from earlycrop.criteria import CRITERIA, Criterion
from earlycrop.flow import Loss
from earlycrop.graph import Graph, Group
from earlycrop.masks import Masks
from earlycrop.schedule import halving
from earlycrop.surgeon import SurgeryError, shrink, uncertified
from earlycrop.trace import trace
from earlycrop.units import Gate, matrices, node_scores, unscored, weight_scores

GATES = ("auto", "rows", "columns")


@dataclass(frozen=True)
class Request:
    """What to prune: the sparsity of each round's end, in ``of``, by nodes or single weights, ranked by ``criterion``.

    gate: "rows" sums a node's score over the rows that produce it, in evaluation mode; "columns" over the columns that
    consume it, with batch statistics; "auto" takes rows for a network that has been trained and columns for one that
    has not.

    Raises:
        ValueError: a value is out of its range.
    """

    criterion: Criterion
    structured: bool
    targets: Sequence[float]
    of: str = "weights"
    gate: str = "auto"

    def __post_init__(self) -> None:
        for sparsity in self.targets:
            limit(1, sparsity)
        if self.of not in MEASURES:
            raise ValueError(f"there is no measure '{self.of}': a sparsity can be a share of {', '.join(MEASURES)}")
        if self.of != "weights" and not self.structured:
            raise ValueError(f"single weights have a sparsity of weights, not of {self.of}: take a structured method")
        if self.gate not in GATES:
            raise ValueError(f"there is no gate '{self.gate}': take one of {', '.join(GATES)}")


@dataclass(frozen=True)
class Event:
    """A pruning that took place.

    reason: why now. epoch: after how many epochs. of, asked, achieved: the sparsity in what was targeted. dense, left:
    the same in units (weights, nodes, MACs of a run on the first batch, or bytes). weight_sparsity, node_sparsity:
    shares of the network's before. rounds: how many. floors: layers whose last node or weight was kept though the
    ranking had it go. difference: the worst certificate of the cuts, None where nothing was cut. batches: how many the
    scores were computed on. seconds: what it took. masks: what holds removed weights at zero, after an unstructured
    pruning.
    """

    reason: str
    epoch: int
    of: str
    asked: float
    achieved: float
    dense: int
    left: int
    weight_sparsity: float
    node_sparsity: float
    rounds: int
    floors: tuple[str, ...]
    whole: tuple[str, ...]
    difference: float | None
    batches: int
    seconds: float
    masks: Masks | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """The event as plain numbers, strings and lists."""
        plain = asdict(replace(self, masks=None))
        del plain["masks"]
        return {**plain, "floors": list(self.floors), "whole": list(self.whole)}


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
    gate: str = "rows",
    copies: Sequence[nn.Module] = (),
) -> Event:
    """Prune ``model`` in place, now: cut its nodes (``structured``), or zero its weights and hold them there.

    ``loss(model, batch)`` gives a scalar; ``batches`` are training data, of which all are read. The target is met in
    ``rounds`` steps (:func:`earlycrop.schedule.halving`), with scores taken anew on what is left. ``gate``: see
    :class:`Request`. Give the ``optimizer``, or all of several, that is to go on with the pruned model, and ``copies``
    that average its weights. A compiled or wrapped model is pruned inside, and ``loss`` is given what is inside (see
    :func:`earlycrop.shrink`).

    Raises:
        ValueError: an argument is out of its range, or there is no batch.
        FlowError, TraceError, SurgeryError: scoring, tracing or cutting failed; what earlier rounds did stands.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, and is {rounds}")
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"there is no criterion '{criterion}': take one of {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    request = Request(criterion, structured, halving(sparsity, rounds), of, gate)
    return carry_out(request, model, loss, list(batches), optimizer, reason="asked for", epoch=0, copies=copies)


def carry_out(
    request: Request,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    reason: str,
    epoch: int,
    copies: Sequence[nn.Module] = (),
) -> Event:
    """Prune as requested; ``epoch`` says how long the model has been trained."""
    if not batches:
        raise ValueError("there is no batch to score on: give at least one batch of training data")
    start = perf_counter()
    carry = _cut_nodes if request.structured else _zero_weights
    found = carry(request, model, loss, batches, optimizer, copies)
    event = Event(
        reason=reason, epoch=epoch, of=request.of, asked=request.targets[-1],
        achieved=1 - found["left"] / found["dense"], rounds=len(request.targets), batches=len(batches),
        seconds=perf_counter() - start, **found,
    )  # fmt: skip
    if event.left > limit(event.dense, event.asked):
        held = ", ".join(event.floors + event.whole)
        warnings.warn(
            f"asked to remove {event.asked:.2%} of the {event.of}, and {event.achieved:.2%} could go: more would empty "
            f"a layer or fail its certificate ({held or 'see Graph.report()'})",
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
) -> dict[str, Any]:
    """Rounds of trace, score, choose and shrink. Layers whose cut cannot be certified stay whole."""
    wrapped, model = model, unwrapped(model)
    gate: Gate = "columns" if request.gate == "columns" else "rows"
    whole: dict[Group, Reason] = {}

    def traced() -> Graph:
        graph = trace(model, lambda m: loss(m, batches[0]))
        graph = graph.without(unscored(model, graph, request.criterion))
        return graph.without({i: whole[g] for g, ids in graph.groups.items() if g in whole for i in ids})

    graph = traced()
    if not graph.count:
        raise ValueError(f"no node of this model can be removed:\n{graph.report()}")
    dense = {of: graph.cost(of) for of in (request.of, "weights", "nodes")}
    floors: set[str] = set()
    difference = 0.0
    for done, sparsity in enumerate(request.targets):
        if done:
            graph = traced()
        scores = node_scores(model, graph, request.criterion, loss, batches, gate, batch_statistics=gate == "columns")
        while True:
            choice = choose_nodes(graph, scores, limit(dense[request.of], sparsity), request.of)
            remove = choice.removed.nonzero()[0].tolist()
            require_agreement(wrapped, [choice.removed])
            try:
                cut = shrink(model, graph, remove, optimizer, copies=copies)
                break
            except SurgeryError:
                failing = uncertified(model, graph, remove)
                if not failing:
                    raise
                found = {g: Reason("certificate", "", told) for g, told in failing.items()}
                reasons = {i: found[g] for g in found for i in graph.groups[g]}
                whole |= found
                scores, graph = scores[torch.from_numpy(~graph.mask(reasons))], graph.without(reasons)
        floors |= set(choice.floors)
        difference = max(difference, cut.difference or 0.0)
    left = {of: graph.cost(of, choice.removed) for of in dense}
    shares = {of: 1 - left[of] / dense[of] if dense[of] else 0.0 for of in dense}
    return {
        "dense": dense[request.of], "left": left[request.of], "floors": tuple(sorted(floors)), "difference": difference,
        "weight_sparsity": shares["weights"], "node_sparsity": shares["nodes"],
        "whole": tuple(sorted({tensor for group in whole for tensor, _ in group})),
    }  # fmt: skip


def _zero_weights(
    request: Request,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
) -> dict[str, Any]:
    """Rounds of score, choose and mask; what the event says of them."""
    wrapped, model = model, unwrapped(model)
    every = matrices(model)
    if not any(p.requires_grad for p in every.values()):
        raise ValueError("the model has no trained weight matrix: there is nothing to prune")
    dense = sum(p.numel() for p in every.values())
    fixed = sum(p.numel() for p in every.values() if not p.requires_grad)
    floors: set[str] = set()
    graph = trace(model, lambda m: loss(m, batches[0]))
    left, masks, alive, keep = dense, None, None, None
    for sparsity in request.targets:
        scores = weight_scores(model, request.criterion, loss, batches)
        keep = keep or path_weights(graph, scores)  # of the first round: what a later one would choose may be gone
        choice = choose_weights(scores, limit(dense, sparsity), keep, alive, fixed)
        floors |= set(choice.floors)
        left, alive = choice.left, {name: ~gone for name, gone in choice.removed.items()}
        require_agreement(wrapped, [gone.cpu().numpy() for gone in choice.removed.values()])
        if masks is not None:
            masks.release()
        masks = Masks(model, choice.removed, optimizer, copies)
    return {
        "dense": dense, "left": left, "floors": tuple(sorted(floors)), "whole": (), "difference": None,
        "weight_sparsity": 1 - left / dense, "node_sparsity": 0.0, "masks": masks,
    }  # fmt: skip
