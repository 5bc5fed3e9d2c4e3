"""Algorithm 1 of the paper for nodes: trace, score, select, cut and prove, in rounds.

Source: Rachwan et al. 2022, algorithm 1, lines 12 to 17.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from earlycrop.context import PruningContext
from earlycrop.events import PruningRequest
from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group
from earlycrop.graph.summary import summarize
from earlycrop.graph.types import Reason
from earlycrop.rounds.notes import list_uncalled, make_notes
from earlycrop.rounds.scores import check_some_score, score_nodes
from earlycrop.rounds.sizes import DenseBaseline, PruningResult
from earlycrop.scoring.scores import norm_scale_sums, unscorable_nodes
from earlycrop.scoring.used_parameters import LossRun
from earlycrop.selection.nodes import NodeChoice, choose_nodes, node_bounds, remaining_outputs
from earlycrop.selection.random_control import shuffle_nodes
from earlycrop.selection.step_time import StepTimer, choose_nodes_in_time
from earlycrop.selection.targets import max_remaining
from earlycrop.surgery.shrink import Cut, find_uncertified, shrink
from earlycrop.tracing.trace import trace_batches
from earlycrop.utils.distributed import fail_together, merge_across_processes
from earlycrop.utils.errors import SurgeryError
from earlycrop.utils.types import Tensors


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
        loss_run: Which parameters the loss does not depend on, and the size of its graph. Nodes without any other
            parameter stay.
    """

    request: PruningRequest
    context: PruningContext
    batches: list[Any]
    baseline: DenseBaseline
    effects: Tensors | None = None
    loss_run: LossRun = field(default_factory=LossRun)
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
                    error = ValueError(f"no node of this model can be removed: {_main_reason(graph)}")
                    error.add_note(f"\n{graph.report()}")
                    raise error
            if not number:
                self._record_dense_sizes(graph)
            scores = self._score(graph, self.request.batches_of_round(number, self.batches))
            if not number:
                check_some_score([scores])
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
        graph = graph.freeze(unscorable_nodes(network, graph, self.request.criterion, self.loss_run.unused))
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

    def _score(self, graph: Graph, batches: list[Any]) -> Tensor:
        """Score the nodes that are left."""
        if self.effects is not None:
            return norm_scale_sums(self.context.network, graph, self.effects)
        return score_nodes(self.request, self.context, graph, batches, self.loss_run.graph_bytes)

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
            notes=(*make_notes(self.request, self.context.network, {}), *list_uncalled(graph)),
            bounds=self.bounds,
            uncertified=tuple(sorted({tensor for group in self.uncertified for tensor, _ in group})),
            difference=self.difference,
        )


def _main_reason(graph: Graph) -> str:
    """Return why most outputs of a network without nodes stay."""
    regions = summarize(graph).frozen
    return max(regions, key=lambda region: region.outputs).reason if regions else "no two layers follow each other"
