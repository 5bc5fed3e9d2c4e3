"""Algorithm 1 of the paper: score, select, remove and prove, in rounds.

Source: Rachwan et al. 2022, algorithm 1, lines 12 to 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.types import ChannelLabels, NodeMask, Reason
from earlycrop.scoring.scores import node_scores, norm_scale_sums, unscorable_nodes, weight_scores
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.constraints import Bounds
from earlycrop.selection.nodes import NodeChoice, choose_nodes, node_bounds, remaining_outputs
from earlycrop.selection.random_control import shuffle_nodes, shuffle_weights
from earlycrop.selection.step_time import StepTimer, choose_nodes_in_time
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import WeightChoice, choose_weights, remaining_weights, weight_bounds
from earlycrop.surgery.masks import Masks
from earlycrop.surgery.shrink import Cut, cut_in_all_processes, find_uncertified
from earlycrop.tracing.trace import trace, trace_after_cut
from earlycrop.utils.distributed import broadcast_from_rank0, check_same_removal, fail_together, merge_across_processes
from earlycrop.utils.errors import FlowError, SurgeryError
from earlycrop.utils.parameters import norm_scales, prunable_matrices, weight_matrices
from earlycrop.utils.types import Tensors

Select = Callable[[Graph, Tensor], NodeChoice]
"""(graph, scores) -> the nodes to remove in this round."""


@dataclass(frozen=True)
class PruningResult:
    """The result of all rounds: fields of :class:`earlycrop.Event`, and the limits in numbers (``bounds``)."""

    dense: int
    left: int
    costs: Mapping[str, tuple[int, int]]
    floors: tuple[str, ...]
    layers: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    bounds: Bounds
    uncertified: tuple[str, ...] = ()
    difference: float | None = None
    masks: Masks | None = None

    def sparsity(self, name: str) -> float:
        """Return the share of the weights, nodes or MACs that is gone."""
        before, after = self.costs[name]
        return 1 - after / before if before else 0.0


@dataclass
class DenseBaseline:
    """The sizes of a network before its first round. Targets and limits are shares of these.

    It is kept if a round fails, so that a repeat still counts from the dense network.

    Attributes:
        costs: Weights, nodes, MACs, and what the target is a share of.
        layers: How many outputs each layer had.
        bounds: The limits in numbers.
        coupling: Of the indices left by the last cut, those that had to be removed together; see
            :func:`earlycrop.tracing.trace.trace_after_cut`.
    """

    costs: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    bounds: Bounds | None = None
    coupling: dict[tuple[str, int], ChannelLabels] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as :func:`earlycrop.save_state` takes it."""
        return {
            "costs": dict(self.costs),
            "layers": dict(self.layers),
            "bounds": None if self.bounds is None else asdict(self.bounds),
            "coupling": [[*key, torch.from_numpy(classes)] for key, classes in self.coupling.items()],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DenseBaseline:
        """Return the baseline of a ``state_dict()``."""
        return cls(
            dict(state["costs"]),
            dict(state["layers"]),
            state["bounds"] and Bounds(**state["bounds"]),
            {(name, dim): classes.cpu().numpy() for name, dim, classes in state["coupling"]},
        )

    def collapsed_layers(self, graph: Graph) -> int:
        """Return how many layers have a single output left, which a new trace does not count as a node."""
        return len(self.layers.keys() - {layer.name for layer in graph.layers})


def cut_nodes(
    request: PruningRequest,
    context: PruningContext,
    batches: list[Any],
    baseline: DenseBaseline,
    effects: Tensors | None = None,
) -> PruningResult:
    """Cut nodes, in rounds of trace, score, select and shrink. Fill ``baseline`` where it is empty.

    Args:
        request: What to cut.
        context: The network, and what goes on with it.
        batches: Training data.
        baseline: What the network was before earlier prunings, or before earlier rounds of this one.
        effects: Accumulated |phi dL/dphi| of each batch norm scale phi. If given, nodes are scored by these, not by
            the criterion.

    Raises:
        ValueError: No node can be removed.
        FlowError, TraceError, SurgeryError: Scoring, tracing or cutting failed.
    """
    rounds = _NodeRounds(request, context, batches, baseline, effects)
    with fail_together(context.group):
        graph = rounds.trace()
        if not graph.count:
            raise ValueError(f"no node of this model can be removed:\n{graph.report()}")
    rounds.record_dense_sizes(graph)
    for number, sparsity in enumerate(request.targets):
        if number:
            with fail_together(context.group):
                graph = rounds.trace()
        scores = rounds.score(graph)
        if not number:
            _check_some_score([scores])
        graph, removed = rounds.remove(graph, scores, sparsity)
    return rounds.result(graph, removed)


@dataclass
class _NodeRounds:
    """One structured pruning: what its rounds have in common, and what they found."""

    request: PruningRequest
    context: PruningContext
    batches: list[Any]
    baseline: DenseBaseline
    effects: Tensors | None
    uncertified: dict[Group, Reason] = field(default_factory=dict)
    timer: StepTimer | None = None
    floors: set[str] = field(default_factory=set)
    difference: float = 0.0
    left: int = 0

    def trace(self) -> Graph:
        """Trace the network as it is now, and freeze what cannot be scored, or was not certified before."""
        network = self.context.network
        graph = trace_after_cut(network, lambda m: self.context.loss(m, self.batches[0]), self.baseline.coupling)
        graph = graph.freeze(unscorable_nodes(network, graph, self.request.criterion))
        return graph.freeze(
            {i: self.uncertified[g] for g, ids in graph.groups.items() if g in self.uncertified for i in ids}
        )

    def record_dense_sizes(self, graph: Graph) -> None:
        """Record the sizes of the network before the first round."""
        request, baseline = self.request, self.baseline
        self.bounds = baseline.bounds or node_bounds(graph, request.limits)
        costs = {name: graph.cost(name) for name in ("weights", "nodes", "macs")}
        if request.of == "time":
            self.timer = StepTimer(self.context.network, self.context.loss, self.batches[0], self.context.group)
            costs["time"] = self.timer.dense
        else:
            costs[request.of] = graph.cost(request.of)
        self.costs = {**costs, **baseline.costs}
        self.layers = baseline.layers or remaining_outputs(graph)

    def score(self, graph: Graph) -> Tensor:
        """Score the nodes that are left."""
        request, context = self.request, self.context
        if self.effects is not None:
            return norm_scale_sums(context.network, graph, self.effects)
        return node_scores(
            context.network,
            graph,
            request.criterion,
            context.loss,
            self.batches,
            request.gate_position,
            request.batch_statistics,
            context.group,
        )

    def remove(self, graph: Graph, scores: Tensor, sparsity: float) -> tuple[Graph, NodeMask]:
        """Select the nodes of this round and cut them. Return the graph that they were selected from, and the nodes."""
        graph, choice, cut = self._cut_certified(graph, scores, self._make_selector(graph, sparsity))
        baseline = self.baseline  # filled only now: until the first cut the network is what it was
        baseline.costs, baseline.layers, baseline.bounds = self.costs, self.layers, self.bounds
        baseline.coupling = graph.coupling_after(choice.removed)
        self.floors |= set(choice.floors)
        self.difference = max(self.difference, cut.difference or 0.0)
        self.left = choice.left
        return graph, choice.removed

    def _make_selector(self, graph: Graph, sparsity: float) -> Select:
        """Return what selects the nodes of a round that ends at this sparsity."""
        of, targets = self.request.of, self.request.targets
        bounds = self.bounds.part(sparsity / targets[-1])
        allowed = max_remaining(self.costs[of], sparsity)
        if of == "nodes":
            allowed -= self.baseline.collapsed_layers(graph)
        if self.timer is None:
            return lambda graph, scores: choose_nodes(graph, scores, allowed, of, bounds)
        timer = self.timer
        return lambda graph, scores: choose_nodes_in_time(graph, scores, allowed, timer.beside(graph), bounds)

    def _cut_certified(self, graph: Graph, scores: Tensor, select: Select) -> tuple[Graph, NodeChoice, Cut]:
        """Cut what is selected. Where layers fail their certificate, freeze them and select again."""
        context = self.context
        while True:
            choice = self._apply_random_control(graph, select(graph, scores))
            remove = choice.removed.nonzero()[0].tolist()
            try:
                cut = cut_in_all_processes(
                    context.network, graph, remove, context.optimizers, True, context.ema_models, context.group
                )
                return graph, choice, cut
            except SurgeryError:
                with fail_together(context.group):
                    failures = find_uncertified(context.network, graph, remove)
                failures = merge_across_processes(failures, context.group)  # each has another batch to prove it on
                if not failures:
                    raise
                reasons = {group: Reason("certificate", "", message) for group, message in failures.items()}
                frozen = {i: reasons[group] for group in reasons for i in graph.groups[group]}
                self.uncertified |= reasons
                # freezing drops these nodes, so drop their scores
                scores, graph = scores[torch.from_numpy(~graph.mask(frozen))], graph.freeze(frozen)

    def _apply_random_control(self, graph: Graph, choice: NodeChoice) -> NodeChoice:
        """Return the choice, or as many nodes of each layer at random where the request says so."""
        if not self.request.shuffled:
            return choice
        drawn = torch.from_numpy(shuffle_nodes(graph, choice.removed))
        return replace(choice, removed=broadcast_from_rank0(drawn, self.context.group).numpy())

    def result(self, graph: Graph, removed: NodeMask) -> PruningResult:
        """Return what the rounds did; ``graph``, ``removed``: those of the last one."""
        of = self.request.of
        left = {name: graph.cost(name, removed) for name in ("weights", "nodes", "macs")}
        left["nodes"] += self.baseline.collapsed_layers(graph)
        outputs = remaining_outputs(graph, removed)
        return PruningResult(
            dense=self.costs[of],
            left=left.get(of, self.left),
            costs={name: (self.costs[name], after) for name, after in left.items()},
            floors=tuple(sorted(self.floors)),
            layers={name: (count, outputs.get(name, 1)) for name, count in self.layers.items()},
            notes=_make_notes(self.request, self.context.network),
            bounds=self.bounds,
            uncertified=tuple(sorted({tensor for group in self.uncertified for tensor, _ in group})),
            difference=self.difference,
        )


def zero_weights(request: PruningRequest, context: PruningContext, batches: list[Any]) -> PruningResult:
    """Zero single weights and hold them at zero, in rounds of score, select and mask.

    Raises:
        ValueError: No weight can be removed.
        FlowError, TraceError: Scoring or tracing failed.
    """
    network = context.network
    matrices, prunable = weight_matrices(network), prunable_matrices(network)
    bounds = weight_bounds(network, request.limits)
    if not prunable:
        raise ValueError("the model has no trained weight matrix that can hold zeros: there is nothing to prune")
    dense = sum(p.numel() for p in matrices.values())
    fixed = dense - sum(p.numel() for p in prunable.values())
    floors: set[str] = set()
    with fail_together(context.group):
        graph = trace(network, lambda m: context.loss(m, batches[0]))
    alive, keep = None, None
    with ExitStack() as cleanup:  # if a round fails, nothing is held: its zeros may grow back
        for sparsity in request.targets:
            scores = weight_scores(
                network, request.criterion, context.loss, batches, request.batch_statistics, context.group
            )
            if keep is None:  # in the first round only: later rounds may have removed weights on these paths
                _check_some_score(scores.values())
                keep = path_weights(graph, scores)
            part = bounds.part(sparsity / request.targets[-1])
            choice = choose_weights(scores, max_remaining(dense, sparsity), keep, alive, fixed, part)
            if request.shuffled:
                choice = _shuffle_choice(choice, keep, alive, context)
            floors |= set(choice.floors)
            alive = {name: ~gone for name, gone in choice.removed.items()}
            check_same_removal([gone.cpu().numpy() for gone in choice.removed.values()], context.group)
            cleanup.close()
            masks = Masks(network, choice.removed, context.optimizers, context.ema_models)
            cleanup.callback(masks.release)
        cleanup.pop_all()
    unchanged = {name: (graph.cost(name), graph.cost(name)) for name in ("nodes", "macs")}
    return PruningResult(
        dense=dense,
        left=choice.left,
        costs={"weights": (dense, choice.left), **unchanged},
        floors=tuple(sorted(floors)),
        layers=remaining_weights(matrices, choice.removed),
        notes=(*_make_notes(request, network), *_notes_on_zeros(network)),
        bounds=bounds,
        masks=masks,
    )


def _shuffle_choice(
    choice: WeightChoice, keep: Mapping[str, Tensor], alive: Mapping[str, Tensor] | None, context: PruningContext
) -> WeightChoice:
    """Return as many weights of each matrix, at random, the same in all processes."""
    drawn = shuffle_weights(choice.removed, keep, alive)
    return replace(choice, removed={name: broadcast_from_rank0(gone, context.group) for name, gone in drawn.items()})


def _check_some_score(scores: Iterable[Tensor]) -> None:
    """Raise FlowError where every score is zero: any selection would be arbitrary."""
    if not any(bool(score.any()) for score in scores):
        raise FlowError(
            "every score is zero, so nothing tells what to keep: either the loss is constant on these batches, or a "
            "layer of zeros (such as a head that starts at zero) keeps all others from having an effect. Train an "
            "epoch first, or give other batches or another criterion"
        )


def _make_notes(request: PruningRequest, network: nn.Module) -> tuple[str, ...]:
    notes = []
    if request.criterion.norms and not norm_scales(network):
        notes.append("the network has no batch norm: the norm of the rows that produce a node replaced its scale")
    if request.shuffled:
        notes.append("random control: as many units of each layer as were selected were removed at random")
    return tuple(notes)


def _notes_on_zeros(network: nn.Module) -> tuple[str, ...]:
    """Return a note for each trained matrix that cannot hold zeros."""
    prunable = prunable_matrices(network)
    return tuple(
        f"'{name}' was not pruned: its parametrization does not turn a zero in it into a zero of the weight"
        for name, p in weight_matrices(network).items()
        if p.requires_grad and name not in prunable
    )
