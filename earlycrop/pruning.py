"""One pruning, now: :func:`prune`, and what a :class:`earlycrop.Pruner` does when it is time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from earlycrop.context import PruningContext
from earlycrop.events import Event, GateName, PruningRequest
from earlycrop.rounds.memory_format import choose_memory_format
from earlycrop.rounds.nodes import NodeRounds
from earlycrop.rounds.notes import list_nearly_empty
from earlycrop.rounds.sizes import DenseBaseline, PruningResult
from earlycrop.rounds.weights import zero_weights
from earlycrop.scoring.criteria import CRITERIA, Criterion, CriterionName, Statistics
from earlycrop.scoring.used_parameters import LossRun, run_loss
from earlycrop.selection.constraints import NO_LIMITS, Limits
from earlycrop.selection.schedules import halving
from earlycrop.selection.targets import Measure, max_remaining
from earlycrop.utils.caller import warn
from earlycrop.utils.contexts import outside_inference_mode
from earlycrop.utils.distributed import fail_together
from earlycrop.utils.materialise import check_materialised
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.types import Loss, Tensors
from earlycrop.utils.validation import (
    check_batches,
    check_loss,
    check_positive_int,
    check_sparsity,
    check_type,
    look_up,
)


def prune(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    criterion: CriterionName | Criterion = "crop",
    sparsity: float = 0.9,
    of: Measure = "weights",
    structured: bool = True,
    rounds: int = 1,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    gate: GateName = "auto",
    ema_models: nn.Module | Sequence[nn.Module] = (),
    limits: Limits = NO_LIMITS,
    statistics: Statistics = "auto",
) -> Event:
    """Prune a model in place, now.

    Structured pruning cuts nodes (neurons, channels, attention heads) out of the model. Unstructured pruning sets
    single weights to zero and holds them there.

    Args:
        model: The model to prune. If it is compiled or wrapped (``DistributedDataParallel``, ...), the network inside
            is pruned.
        loss: A function ``(network, batch) -> scalar`` that calls the network it is given. It may return the terms of
            the loss instead, as a tuple or a dict of scalars, of which the training loss is the sum. Of a dict with the
            key ``"loss"``, that entry alone counts.
        batches: Training data to compute the scores on. All batches are read.
        criterion: A name in ``CRITERIA``, or a :class:`Criterion`.
        sparsity: The share of ``of`` to remove, above 0 and below 1.
        of: What the sparsity is a share of. ``"time"`` is that of a training step on the first batch.
        structured: Whether to cut nodes, or to zero single weights.
        rounds: In how many rounds the target is reached; see :func:`earlycrop.selection.schedules.halving`. Scores are
            computed anew in each round.
        optimizer: The optimizer, or all optimizers, that train the model. They continue with the pruned parameters.
        gate: Where the gate of a node stands; see :class:`earlycrop.events.PruningRequest`.
        ema_models: Averages of the model's weights, which are pruned at the same places.
        limits: Floors, ceilings, layers to leave alone, multiples. If they do not permit the target, as much as they
            permit is removed, and a warning says so.
        statistics: What batch norms use while scores are computed; see :class:`earlycrop.events.PruningRequest`.

    Returns:
        What was removed, and at what cost.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of its range, there is no batch, the first batch has no examples, the
            loss fails on it, no node can be removed, or the processes would remove different things.
        NotEnoughMemoryError: Scoring needs more memory than is free. Nothing was changed.
        FlowError, TraceError, SurgeryError: Scoring, tracing or cutting failed. Nodes that were cut in earlier rounds
            are gone. Weights that were zeroed in earlier rounds are zero, but are not held at zero.

    Notes:
        Under ``DistributedDataParallel`` each process calls this with the same number of batches, each its own.
        Derivatives are averaged, and all processes make the same cut.

        A target in time is measured between cuts, up to 9 times a round. Each measurement ends when the time is known
        to 1 %, or after 10 s or 9 steps, whichever is longer.
    """
    sparsity, rounds = check_sparsity(sparsity), check_positive_int("rounds", rounds)
    check_type("structured", structured, bool, "give True to cut nodes, or False to zero single weights")
    check_loss(loss)
    check_type("limits", limits, Limits, "write earlycrop.Limits(floors=...)")
    batches = check_batches(batches)
    context = PruningContext.create(model, optimizer, loss, ema_models)
    limits.check_layers(context.network)
    if context.optimizers:
        context.warn_of_untrained()
    ranking = look_up("criterion", criterion, CRITERIA, Criterion)
    targets = halving(sparsity, rounds)
    request = PruningRequest(ranking, structured, targets, of, gate, limits, statistics=statistics)
    with outside_inference_mode():
        return run_pruning(request, context, list(batches), "asked for", 0)


def run_pruning(
    request: PruningRequest,
    context: PruningContext,
    batches: list[Any],
    reason: str,
    epoch: int,
    baseline: DenseBaseline | None = None,
    effects: Tensors | None = None,
) -> Event:
    """Prune as requested, and warn of what could not be done.

    Args:
        request: What to prune.
        context: The network, and what goes on with it.
        batches: Training data to compute the scores on.
        reason: Why the network is pruned now.
        epoch: For how many epochs it was trained.
        baseline: What the network was before earlier prunings, or before this one if it is repeated after an error.
        effects: Accumulated |phi dL/dphi| of each batch norm scale phi. If given, nodes are scored by these, not by
            the criterion.
    """
    with fail_together(context.group):
        _check_batches(batches)
        check_materialised(context.network)
    start = perf_counter()
    loss_run = LossRun() if effects is not None else _run_loss(request, context, batches)
    if request.structured:
        result = NodeRounds(request, context, batches, baseline or DenseBaseline(), effects, loss_run).run()
    else:
        result = zero_weights(request, context, batches, loss_run)
    event = Event(
        reason=reason,
        epoch=epoch,
        of=request.of,
        asked=request.targets[-1],
        achieved=1 - result.left / result.dense,
        weight_sparsity=result.sparsity("weights"),
        node_sparsity=result.sparsity("nodes"),
        rounds=len(request.targets),
        batches=len(batches),
        seconds=perf_counter() - start,
        limits=request.limits,
        **{name: value for name, value in vars(result).items() if name != "bounds"},
    )
    if (
        request.structured
        and request.memory_format == "fastest"
        and (note := choose_memory_format(context, batches[0]))
    ):
        event = replace(event, notes=(*event.notes, note))
    _warn_missed_target(event)
    _warn_missed_ceilings(result)
    if not request.structured and (nearly_empty := list_nearly_empty(event.layers)):
        more = f"; and {len(nearly_empty) - 1} more, see the notes of the event" if len(nearly_empty) > 1 else ""
        advice = 'lower the sparsity, or give floors, for instance Limits(floors={"*": 0.05})'
        warn(f"hardly anything is left of some layers ({nearly_empty[0]}{more}): {advice}")
    if request.structured and context.rewrap_warning is not None:
        warn(context.rewrap_warning)
    return event


def _check_batches(batches: list[Any]) -> None:
    """Raise ValueError where there is no batch, or the first has tensors and none of them has an entry."""
    if not batches:
        raise ValueError("there is no batch to score on: give at least one batch of training data")
    tensors = collect_tensors(dict(batches[0]) if isinstance(batches[0], Mapping) else batches[0])
    if tensors and not any(t.numel() for t in tensors):
        raise ValueError("the first batch has no examples, and nothing can be scored or proven on it: leave it out")


def _run_loss(request: PruningRequest, context: PruningContext, batches: list[Any]) -> LossRun:
    """Find the parameters that the scored loss does not depend on. Raise ValueError if the loss does not run."""
    network, statistics = context.network, request.uses_batch_statistics(context.network)
    scores_loss = request.criterion.order > 0 and not request.criterion.data_free
    scored = batches if scores_loss else batches[:1]
    loss_run = run_loss(network, context.loss, scored, statistics, context.group)
    return loss_run if scores_loss else LossRun()


def _warn_missed_target(event: Event) -> None:
    if event.left > max_remaining(event.dense, event.asked):
        names = event.floors + event.uncertified
        layers = f"layers {', '.join(names)}" if names else "see Graph.report()"
        warn(
            f"asked to remove {event.asked:.2%} of the {event.of}, and {event.achieved:.2%} could be removed: more "
            f"would empty a layer, break a limit or fail its certificate ({layers})",
        )


def _warn_missed_ceilings(result: PruningResult) -> None:
    ceilings = result.bounds.max_kept
    missed = [
        f"layer {name} keeps {left}, not {ceilings[name]}"
        for name, (_, left) in result.layers.items()
        if left > ceilings.get(name, left)
    ]
    if missed:
        warn(
            f"ceilings were not reached: {', '.join(missed)}. Channels that are frozen, uncertified, or needed for a "
            "multiple stay",
        )
