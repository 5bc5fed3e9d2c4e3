"""Algorithm 1 of the paper: score, select, remove and prove, in rounds.

Source: Rachwan et al. 2022, algorithm 1, lines 12 to 17.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.summary import summarize
from earlycrop.graph.types import ChannelLabels, Reason
from earlycrop.scoring.scores import node_scores, norm_scale_sums, unscorable_nodes, weight_scores
from earlycrop.selection.connectivity import path_weights
from earlycrop.selection.constraints import Bounds
from earlycrop.selection.nodes import NodeChoice, choose_nodes, node_bounds, remaining_outputs
from earlycrop.selection.random_control import shuffle_nodes, shuffle_weights
from earlycrop.selection.step_time import StepTimer, choose_nodes_in_time
from earlycrop.selection.targets import max_remaining
from earlycrop.selection.weights import choose_weights, remaining_weights, select_prunable, weight_bounds
from earlycrop.surgery.masks import Masks
from earlycrop.surgery.shrink import Cut, find_uncertified, shrink
from earlycrop.tracing.trace import trace_batches
from earlycrop.utils.distributed import check_same_removal, fail_together, merge_across_processes
from earlycrop.utils.errors import FlowError, SurgeryError
from earlycrop.utils.parameters import norm_scales, prunable_matrices, weight_matrices
from earlycrop.utils.types import Tensors

FEW = 0.02
"""A layer that is left with a smaller share of its weights is named in the event and in a warning."""


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
            :func:`earlycrop.tracing.trace.trace_batches`.
    """

    costs: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    bounds: Bounds | None = None
    coupling: dict[tuple[str, int], ChannelLabels] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as :func:`earlycrop.save_state` takes it."""
        coupling = [[*key, torch.from_numpy(classes)] for key, classes in self.coupling.items()]
        return {**asdict(replace(self, coupling={})), "coupling": coupling}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DenseBaseline:
        """Return the baseline of a ``state_dict()``."""
        bounds = state["bounds"] and Bounds(**state["bounds"])
        coupling = {(name, dim): classes.cpu().numpy() for name, dim, classes in state["coupling"]}
        return cls(dict(state["costs"]), dict(state["layers"]), bounds, coupling)

    def collapsed_layers(self, graph: Graph) -> int:
        """Return how many layers have a single output left, which a new trace does not count as a node."""
        return len(self.layers.keys() - {layer.name for layer in graph.layers})


@dataclass
class NodeRounds:
    """One structured pruning: rounds of trace, score, select and shrink.

    Args:
        request: What to cut.
        context: The network, and what goes on with it.
        batches: Training data.
        baseline: What the network was before earlier prunings, or before earlier rounds of this one. It is filled where
            it is empty.
        effects: Accumulated |phi dL/dphi| of each batch norm scale phi. If given, nodes are scored by these, not by
            the criterion.
        unused: The parameters that the loss does not depend on. Nodes without any other stay.
    """

    request: PruningRequest
    context: PruningContext
    batches: list[Any]
    baseline: DenseBaseline
    effects: Tensors | None = None
    unused: frozenset[str] = frozenset()
    uncertified: dict[Group, Reason] = field(default_factory=dict)
    timer: StepTimer | None = None
    floors: set[str] = field(default_factory=set)
    difference: float = 0.0

    def run(self) -> PruningResult:
        """Cut nodes until the target is met.

        Returns:
            What was cut.

        Raises:
            ValueError: No node can be removed.
            FlowError, TraceError, SurgeryError: Scoring, tracing or cutting failed.
        """
        for number, sparsity in enumerate(self.request.targets):
            with fail_together(self.context.group):
                graph = self._trace()
                if not number and not graph.count:
                    raise ValueError(f"no node of this model can be removed: {_main_reason(graph)}\n\n{graph.report()}")
            if not number:
                self._record_dense_sizes(graph)
            scores = self._score(graph)
            if not number:
                _check_some_score([scores])
            graph, choice, cut = self._cut_certified(graph, scores, sparsity)
            baseline = self.baseline  # filled only now: until the first cut the network is what it was
            baseline.costs, baseline.layers, baseline.bounds = self.costs, self.layers, self.bounds
            baseline.coupling = graph.coupling_after(choice.removed)
            self.floors |= set(choice.floors)
            self.difference = max(self.difference, cut.difference or 0.0)
        return self._make_result(graph, choice)

    def _trace(self) -> Graph:
        """Trace the network as it is now, and freeze what cannot be scored, or was not certified before."""
        network = self.context.network
        graph = trace_batches(network, self.context.loss, self.batches, self.baseline.coupling)
        graph = graph.freeze(unscorable_nodes(network, graph, self.request.criterion, self.unused))
        return graph.freeze(
            {i: self.uncertified[g] for g, ids in graph.groups.items() if g in self.uncertified for i in ids}
        )

    def _record_dense_sizes(self, graph: Graph) -> None:
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

    def _score(self, graph: Graph) -> Tensor:
        """Score the nodes that are left."""
        if self.effects is not None:
            return norm_scale_sums(self.context.network, graph, self.effects)
        return _score_nodes(self.request, self.context, graph, self.batches)

    def _select(self, graph: Graph, scores: Tensor, sparsity: float) -> NodeChoice:
        """Select the nodes of a round that ends at this sparsity."""
        request = self.request
        bounds = self.bounds.part(sparsity / request.targets[-1])
        allowed = max_remaining(self.costs[request.of], sparsity)
        if request.of == "nodes":
            allowed -= self.baseline.collapsed_layers(graph)
        if self.timer is None:
            choice = choose_nodes(graph, scores, allowed, request.of, bounds)
        else:
            choice = choose_nodes_in_time(graph, scores, allowed, self.timer, bounds)
        if request.shuffled:
            choice = replace(choice, removed=shuffle_nodes(graph, choice.removed, self.context.group))
        return choice

    def _cut_certified(self, graph: Graph, scores: Tensor, sparsity: float) -> tuple[Graph, NodeChoice, Cut]:
        """Cut what is selected. Where layers fail their certificate, freeze them and select again."""
        context = self.context
        while True:
            choice = self._select(graph, scores, sparsity)
            remove = choice.removed.nonzero()[0].tolist()
            try:
                optimizers, averages = context.optimizers, context.ema_models
                cut = shrink(context.network, graph, remove, optimizers, True, averages, context.group)
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

    def _make_result(self, graph: Graph, choice: NodeChoice) -> PruningResult:
        """Return what the rounds did; ``graph``, ``choice``: those of the last one."""
        of = self.request.of
        left = {name: graph.cost(name, choice.removed) for name in ("weights", "nodes", "macs")}
        left["nodes"] += self.baseline.collapsed_layers(graph)
        outputs = remaining_outputs(graph, choice.removed)
        return PruningResult(
            dense=self.costs[of],
            left=left.get(of, choice.left),
            costs={name: (self.costs[name], after) for name, after in left.items()},
            floors=tuple(sorted(self.floors)),
            layers={name: (count, outputs.get(name, 1)) for name, count in self.layers.items()},
            notes=(*_make_notes(self.request, self.context.network, {}), *_list_uncalled(graph)),
            bounds=self.bounds,
            uncertified=tuple(sorted({tensor for group in self.uncertified for tensor, _ in group})),
            difference=self.difference,
        )


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
        for sparsity in request.targets:
            scores = _score_weights(request, context, batches, prunable)
            if keep is None:  # in the first round only: later rounds may have removed weights on these paths
                _check_some_score(scores.values())
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
        notes=(*_make_notes(request, network, layers), *_list_left_alone(matrices, prunable)),
        bounds=bounds,
        masks=masks,
    )


def candidate_mask(
    request: PruningRequest, context: PruningContext, graph: Graph, batches: list[Any]
) -> Bool[Tensor, "units"]:
    """Return which units a pruning to the last target would remove now, in one round.

    The units are the nodes of ``graph`` for a structured request, and the entries of all prunable matrices otherwise.
    """
    network, target = context.network, request.targets[-1]
    if request.structured:
        scores = _score_nodes(request, context, graph, batches)
        allowed = max_remaining(graph.cost(request.of), target)
        bounds = node_bounds(graph, request.limits)
        return torch.from_numpy(choose_nodes(graph, scores, allowed, request.of, bounds).removed)
    prunable = select_prunable(network, graph, request.limits)
    weights, limits = (
        _score_weights(request, context, batches, prunable),
        weight_bounds(network, request.limits, prunable),
    )
    dense = sum(scores.numel() for scores in weights.values())
    choice = choose_weights(weights, max_remaining(dense, target), path_weights(graph, weights), bounds=limits)
    return torch.cat([removed.flatten() for removed in choice.removed.values()])


def _score_nodes(request: PruningRequest, context: PruningContext, graph: Graph, batches: list[Any]) -> Tensor:
    gate, statistics = request.gate_position, request.uses_batch_statistics(context.network)
    return node_scores(
        context.network, graph, request.criterion, context.loss, batches, gate, statistics, context.group
    )


def _score_weights(
    request: PruningRequest, context: PruningContext, batches: list[Any], prunable: Mapping[str, Tensor]
) -> Tensors:
    statistics = request.uses_batch_statistics(context.network)
    scores = weight_scores(context.network, request.criterion, context.loss, batches, statistics, context.group)
    return {name: score for name, score in scores.items() if name in prunable}


def _main_reason(graph: Graph) -> str:
    """Return why most outputs of a network without nodes stay."""
    regions = summarize(graph).frozen
    return max(regions, key=lambda region: region.outputs).reason if regions else "no two layers follow each other"


def _check_some_score(scores: Iterable[Tensor]) -> None:
    """Raise FlowError where every score is zero: any selection would be arbitrary."""
    if not any(bool(score.any()) for score in scores):
        raise FlowError(
            "every score is zero, so nothing tells what to keep: either the loss is constant on these batches, or a "
            "layer of zeros (such as a head that starts at zero) keeps all others from having an effect. Train an "
            "epoch first, or give other batches or another criterion"
        )


def _list_left_alone(matrices: Mapping[str, Tensor], prunable: Mapping[str, Tensor]) -> list[str]:
    """Return a note on the weights that the target does not count."""
    rest = [name for name in matrices if name not in prunable]
    if not rest:
        return []
    count, total = (sum(matrices[name].numel() for name in names) for names in (rest, matrices))
    return [
        f"the target counts the trained weights of products; {count:,} of {total:,} weights ({count / total:.0%}) are "
        f"others and stay: {', '.join(rest)}"
    ]


def _list_uncalled(graph: Graph) -> list[str]:
    """Return a note on the layers that no scoring batch has run."""
    if not graph.uncalled:
        return []
    return [f"what these layers may use was kept, as no batch runs them: {', '.join(graph.uncalled)}"]


def list_nearly_empty(layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say which layers are left with hardly any weights; ``layers``: the weights of each before and after."""
    return [
        f"{name} keeps {after:,} of its {before:,} weights, less than {FEW:.0%}"
        for name, (before, after) in layers.items()
        if after < FEW * before
    ]


def _make_notes(request: PruningRequest, network: nn.Module, weights: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Return what a reader must know: what replaced a score, what was random, what is nearly gone, what holds no zeros.

    ``weights``: those of each layer before and after, where single weights were removed.
    """
    notes = list_nearly_empty(weights)
    if request.criterion.norms and not norm_scales(network):
        notes.append("the network has no batch norm: the norm of the rows that produce a node replaced its scale")
    if request.shuffled:
        notes.append("random control: as many units of each layer as were selected were removed at random")
    if not request.structured:
        prunable = prunable_matrices(network)
        notes += [
            f"'{name}' was not pruned: its parametrization does not turn a zero in it into a zero of the weight"
            for name, p in weight_matrices(network).items()
            if p.requires_grad and name not in prunable
        ]
    return tuple(notes)
