"""The rounds of a pruning: of each, the scores of what is left, what goes by them, and its removal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.types import ChannelLabels, Reason
from earlycrop.scoring.scores import node_scores, norm_scale_sums, unscorable_nodes, weight_scores
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.constraints import Bounds
from earlycrop.selection.nodes import NodeChoice, choose_nodes, node_bounds, remaining_outputs
from earlycrop.selection.random_control import shuffle_nodes, shuffle_weights
from earlycrop.selection.step_time import StepTimer, choose_nodes_in_time
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, remaining_weights, weight_bounds
from earlycrop.surgery.masks import Masks
from earlycrop.surgery.shrink import Cut, cut_in_all_processes, find_uncertified
from earlycrop.tracing.trace import trace, trace_after_cut
from earlycrop.utils.distributed import (
    ProcessGroup,
    broadcast_from_rank0,
    check_same_removal,
    fail_together,
    merge_across_processes,
)
from earlycrop.utils.errors import FlowError, SurgeryError
from earlycrop.utils.parameters import norm_scales, prunable_matrices, weight_matrices
from earlycrop.utils.types import Loss, Tensors
from earlycrop.utils.wrappers import unwrap

Choose = Callable[[int, Bounds, Graph, Tensor], NodeChoice]
"""(how much may be left, bounds, graph, scores) -> which nodes go."""
HOLDS_NO_ZEROS = "stays whole: a zero in it is none in the weight that its parametrization makes of it"


@dataclass
class DenseBaseline:
    """What a network was before its first round of nodes was cut: what targets and limits are shares of. It outlives a
    round that fails, as the nodes of the rounds before it are gone.
    """

    dense: dict[str, int] = field(default_factory=dict)
    """What it cost in weights, nodes and what the target is of."""
    layers: dict[str, int] = field(default_factory=dict)
    """How many outputs each layer had."""
    bounds: Bounds | None = None
    coupling: dict[tuple[str, int], ChannelLabels] = field(default_factory=dict)
    """What could only go together at the last cut, of what that left; see
    :func:`earlycrop.tracing.trace.trace_after_cut`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, as :func:`earlycrop.save_state` takes it."""
        return {
            "dense": dict(self.dense), "layers": dict(self.layers),
            "bounds": None if self.bounds is None else asdict(self.bounds),
            "coupling": [[*key, torch.from_numpy(classes)] for key, classes in self.coupling.items()],
        }  # fmt: skip

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> DenseBaseline:
        """From a ``state_dict``; an earlier version's has the costs alone, or nothing."""
        bounds = state.get("bounds")
        return cls(
            dict(state.get("dense") or {}), dict(state.get("layers") or {}), bounds and Bounds(**bounds),
            {(name, dim): classes.cpu().numpy() for name, dim, classes in state.get("coupling") or []},
        )  # fmt: skip

    def single(self, graph: Graph) -> int:
        """How many layers have come down to a single output, which has no place among the nodes of a new trace."""
        return len(self.layers.keys() - {layer.name for layer in graph.layers})


def cut_nodes(
    request: PruningRequest,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
    effects: Tensors | None,
    before: DenseBaseline,
    group: ProcessGroup,
) -> dict[str, Any]:
    """Rounds of trace, score, choose and shrink. Layers whose cut cannot be certified stay whole. ``before`` is filled
    where it is empty.
    """
    model = unwrap(model)
    whole: dict[Group, Reason] = {}

    def traced() -> Graph:
        graph = trace_after_cut(model, lambda m: loss(m, batches[0]), before.coupling)
        graph = graph.freeze(unscorable_nodes(model, graph, request.criterion))
        return graph.freeze({i: whole[g] for g, ids in graph.groups.items() if g in whole for i in ids})

    with fail_together(group):
        graph = traced()
        if not graph.count:
            raise ValueError(f"no node of this model can be removed:\n{graph.report()}")
    bounds = before.bounds or node_bounds(graph, request.limits)
    cost, choose = _cost_and_chooser(request.of, model, loss, batches[0], graph, group)
    dense = {**{of: graph.cost(of) for of in ("weights", "nodes")}, request.of: cost, **before.dense}
    layers = before.layers or remaining_outputs(graph)
    floors: set[str] = set()
    difference = 0.0
    for done, sparsity in enumerate(request.targets):
        if done:
            with fail_together(group):
                graph = traced()
        single = before.single(graph)
        allowed, within = max_remaining(dense[request.of], sparsity), bounds.part(sparsity / request.targets[-1])
        allowed -= single if request.of == "nodes" else 0
        if effects is not None:
            scores = norm_scale_sums(model, graph, effects)
        else:
            scores = node_scores(model, graph, request.criterion, loss, batches, request.where, request.of_batch, group)
        if not done:
            _check_some_score([scores])
        chosen = partial(choose, allowed, within)
        graph, choice, cut, failing = _cut_certified(request, model, graph, scores, chosen, optimizer, copies, group)
        whole |= failing
        before.dense, before.layers, before.bounds = dense, layers, bounds  # only now: until then it is what it was
        before.coupling = graph.coupling_after(choice.removed)
        floors |= set(choice.floors)
        difference = max(difference, cut.difference or 0.0)
    left = {"weights": graph.cost("weights", choice.removed), "nodes": graph.cost("nodes", choice.removed) + single}
    shares = {of: 1 - left[of] / dense[of] if dense[of] else 0.0 for of in left}
    after = remaining_outputs(graph, choice.removed)
    return {
        "dense": dense[request.of], "left": left.get(request.of, choice.left), "difference": difference,
        "floors": tuple(sorted(floors)),
        "weight_sparsity": shares["weights"], "node_sparsity": shares["nodes"], "bounds": bounds,
        "whole": tuple(sorted({tensor for group in whole for tensor, _ in group})),
        "layers": {name: (n, after.get(name, 1)) for name, n in layers.items()},
        "notes": _notes(request, model),
    }  # fmt: skip


def _cut_certified(
    request: PruningRequest,
    model: nn.Module,
    graph: Graph,
    scores: Tensor,
    choose: Callable[[Graph, Tensor], NodeChoice],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
    group: ProcessGroup,
) -> tuple[Graph, NodeChoice, Cut, dict[Group, Reason]]:
    """Cut what is chosen, anew without the layers whose cut fails its certificate: the graph that was chosen from at
    last, the choice, the cut, and the groups that failed.
    """
    whole: dict[Group, Reason] = {}
    while True:
        choice = choose(graph, scores)
        if request.shuffled:
            drawn = torch.from_numpy(shuffle_nodes(graph, choice.removed))
            choice = replace(choice, removed=broadcast_from_rank0(drawn, group).numpy())
        remove = choice.removed.nonzero()[0].tolist()
        try:
            cut = cut_in_all_processes(model, graph, remove, optimizer, True, copies, group)
            return graph, choice, cut, whole
        except SurgeryError:
            with fail_together(group):
                own = find_uncertified(model, graph, remove)
            failing = merge_across_processes(own, group)  # each has another batch to prove it on
            if not failing:
                raise
            found = {g: Reason("certificate", "", told) for g, told in failing.items()}
            reasons = {i: found[g] for g in found for i in graph.groups[g]}
            whole |= found
            scores, graph = scores[torch.from_numpy(~graph.mask(reasons))], graph.freeze(reasons)


def _cost_and_chooser(
    of: str, model: nn.Module, loss: Loss, batch: Any, graph: Graph, group: ProcessGroup
) -> tuple[int, Choose]:
    """What the network as it is now costs in ``of``, and what chooses the nodes for a target in it."""
    if of != "time":
        return graph.cost(of), lambda allowed, within, graph, scores: choose_nodes(graph, scores, allowed, of, within)
    clock = StepTimer(model, loss, batch, group)
    return clock.dense, lambda allowed, within, graph, scores: choose_nodes_in_time(
        graph, scores, allowed, clock.beside(graph), within
    )


def zero_weights(
    request: PruningRequest,
    model: nn.Module,
    loss: Loss,
    batches: list[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None,
    copies: Sequence[nn.Module],
    group: ProcessGroup,
) -> dict[str, Any]:
    """Rounds of score, choose and mask; what the event says of them."""
    model = unwrap(model)
    every, free, bounds = weight_matrices(model), prunable_matrices(model), weight_bounds(model, request.limits)
    if not free:
        raise ValueError("the model has no trained weight matrix that can hold zeros: there is nothing to prune")
    whole = [f"'{n}' {HOLDS_NO_ZEROS}" for n, p in every.items() if p.requires_grad and n not in free]
    dense = sum(p.numel() for p in every.values())
    fixed = dense - sum(p.numel() for p in free.values())
    floors: set[str] = set()
    with fail_together(group):
        graph = trace(model, lambda m: loss(m, batches[0]))
    left, alive, keep = dense, None, None
    with ExitStack() as held:  # of a round that fails nothing is held: its zeros may grow back
        for sparsity in request.targets:
            scores = weight_scores(model, request.criterion, loss, batches, request.of_batch, group)
            if keep is None:  # of the first round: what a later one would choose may be gone
                _check_some_score(scores.values())
                keep = path_weights(graph, scores)
            within = bounds.part(sparsity / request.targets[-1])
            choice = choose_weights(scores, max_remaining(dense, sparsity), keep, alive, fixed, within)
            if request.shuffled:
                drawn = shuffle_weights(choice.removed, keep, alive)
                choice = replace(
                    choice, removed={name: broadcast_from_rank0(gone, group) for name, gone in drawn.items()}
                )
            floors |= set(choice.floors)
            left, alive = choice.left, {name: ~gone for name, gone in choice.removed.items()}
            check_same_removal([gone.cpu().numpy() for gone in choice.removed.values()], group)
            held.close()
            masks = Masks(model, choice.removed, optimizer, copies)
            held.callback(masks.release)
        held.pop_all()
    return {
        "dense": dense, "left": left, "floors": tuple(sorted(floors)), "whole": (), "difference": None,
        "weight_sparsity": 1 - left / dense, "node_sparsity": 0.0, "masks": masks, "bounds": bounds,
        "layers": remaining_weights(every, choice.removed), "notes": (*_notes(request, model), *whole),
    }  # fmt: skip


def _check_some_score(scores: Iterable[Tensor]) -> None:
    """Raise FlowError where every score is zero: whatever went, it would be by chance."""
    if not any(bool(each.any()) for each in scores):
        raise FlowError(
            "every score is zero, so nothing tells what to keep: either the loss is constant on these batches, or a "
            "layer of zeros (such as a head that starts at zero) keeps all others from having an effect. Train an "
            "epoch first, or give other batches or another criterion"
        )


def _notes(request: PruningRequest, model: nn.Module) -> tuple[str, ...]:
    notes = []
    if request.criterion.norms and not norm_scales(model):
        notes.append("the network has no batch norm: the norm of the rows that produce a node stood for its scale")
    if request.shuffled:
        notes.append("a control: as many as were chosen went of each layer, at random")
    return tuple(notes)
