"""The scores of single weights and of nodes: the effects that a criterion gives to entries, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.types import Reason, layer_of
from earlycrop.scoring.criteria import Criterion, Gate, first_order
from earlycrop.scoring.derivatives import Derivatives, flow_by_parameter, flows
from earlycrop.scoring.effects import TermEffects, effect_of, effects_of, effects_to_scores
from earlycrop.scoring.gates import GatedAxis, find_gated_axes, find_norm_axes, spread_to_entries, sum_by_node
from earlycrop.scoring.loss_terms import TOTAL
from earlycrop.scoring.synflow import synaptic_flow
from earlycrop.scoring.temperature import TemperedLogits
from earlycrop.utils.distributed import ProcessGroup, broadcast_from_rank0
from earlycrop.utils.errors import FlowError
from earlycrop.utils.parameters import norm_scales, prunable_matrices
from earlycrop.utils.types import Loss, Tensors

NODES = "the nodes"


def weight_scores(
    model: nn.Module,
    criterion: Criterion,
    loss: Loss,
    batches: Iterable[Any],
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> Tensors:
    """Score each entry of the weight matrices that can be pruned.

    Args:
        model: The network.
        criterion: What the score is computed with.
        loss: (model, batch) -> scalar loss, or its terms.
        batches: Training data.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones.
        group: The processes that score together, see :func:`earlycrop.scoring.derivatives.flow`.

    Returns:
        The scores, by parameter name.

    Raises:
        ValueError: There is no batch, and the criterion needs one.
        FlowError: A score is not finite; or see :func:`earlycrop.scoring.derivatives.flow`.
    """
    matrices = {name: p.detach() for name, p in prunable_matrices(model).items()}
    effect = criterion.effect
    if effect is None:
        return {name: broadcast_from_rank0(torch.rand(p.shape, device=p.device), group) for name, p in matrices.items()}
    source = _Source(model, criterion, _with_temperature(loss, criterion), batch_statistics, group)

    def compute_effects(batches: Iterable[Any]) -> list[TermEffects]:
        return [
            TermEffects(term, derivatives.gradient_flow, effects_of(criterion, effect, matrices, derivatives))
            for term, derivatives in source.derivatives(batches, sum_units=lambda effects: effects).items()
        ]

    return effects_to_scores(criterion, compute_effects, batches)


def node_scores(
    model: nn.Module,
    graph: Graph,
    criterion: Criterion,
    loss: Loss,
    batches: Iterable[Any],
    gate: Gate | None = None,
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> Float[Tensor, "nodes"]:
    """Score each node: the sum of the effects of the entries that its gate multiplies.

    Source: Rachwan et al. 2022, section 4.1, with ``gate="rows"``.

    Args:
        model: The network.
        graph: The network's graph.
        criterion: What the score is computed with. One of batch norms' scales sums over these scales.
        loss: (model, batch) -> scalar loss, or its terms.
        batches: Training data.
        gate: Where gates are put, see :func:`earlycrop.scoring.gates.find_gated_axes`. The default is the criterion's.
        batch_statistics: Whether batch norms use the batch's statistics instead of the running ones. Normalizing by the
            batch cancels a gate on the rows before it.
        group: The processes that score together, see :func:`earlycrop.scoring.derivatives.flow`.

    Returns:
        One score for each node of the graph, in float64 on the CPU.

    Raises:
        ValueError: There is no batch, and the criterion needs one.
        FlowError: A score is not finite, or a parameter has a gradient that the trace did not use; or see
            :func:`earlycrop.scoring.derivatives.flow`.
    """
    if criterion.effect is None:
        return broadcast_from_rank0(torch.rand(graph.count, dtype=torch.float64, device="cpu"), group)
    axes = _find_scored_axes(model, graph, criterion, gate or criterion.gate)
    source = _Source(model, criterion, _with_temperature(loss, criterion), batch_statistics, group)

    def compute_sums(batches: Iterable[Any]) -> list[TermEffects]:
        return _sum_effects(source, graph, axes, batches)

    scores = effects_to_scores(criterion, compute_sums, batches)[NODES]
    return _rank_in_groups(graph, scores) if criterion.local else scores


def norm_scale_sums(model: nn.Module, graph: Graph, effects: Tensors) -> Float[Tensor, "nodes"]:
    """Sum the given effects of batch norm scales for each node.

    Args:
        model: The network.
        graph: The network's graph.
        effects: The effect of each entry of the batch norms' scales, by parameter name.

    Returns:
        One sum for each node, in float64 on the CPU.
    """
    return sum_by_node(graph, find_norm_axes(graph, norm_scales(model)), effects)


def unscorable_nodes(
    model: nn.Module, graph: Graph, criterion: Criterion, unused: Collection[str] = ()
) -> dict[int, Reason]:
    """Find the nodes that a criterion cannot score.

    These are nodes without any trained parameter, or with none that the loss depends on. If the criterion compares the
    scales of batch norms, and the network has any, they are the nodes without a batch norm.

    Args:
        model: The network.
        graph: The network's graph.
        criterion: The criterion to score with.
        unused: The parameters that the loss does not depend on.

    Returns:
        The reason, by node.
    """
    if criterion.norms and (scales := norm_scales(model)):
        scored = {i for _, nodes in find_norm_axes(graph, scales) for i in nodes.tolist()}
        reason = Reason("batch norm", "", "no batch norm follows it, and only the scales of those are compared")
    elif criterion.order == 0:
        return {}
    else:
        trained = _trained(model).difference(unused)
        scored = {i for _, nodes in find_gated_axes(graph, "rows", trained, ()) for i in nodes.tolist()}
        why = "the loss depends on none of its trained parameters" if unused else "none of its parameters is trained"
        reason = Reason(f"{criterion.order}. derivative", "", f"{why}, so it has no score")
    return {i: reason for i in range(graph.count) if i not in scored}


def _find_scored_axes(model: nn.Module, graph: Graph, criterion: Criterion, gate: Gate) -> list[GatedAxis]:
    """Find the entries that count for each node's score."""
    scales = norm_scales(model)
    if criterion.norms and scales:
        return find_norm_axes(graph, scales)
    scored = {name for name, _ in model.named_parameters()} if criterion.order == 0 else _trained(model)
    return find_gated_axes(graph, gate, scored, scales)


@dataclass(frozen=True)
class _Source:
    """What the derivatives that a criterion needs are computed from."""

    model: nn.Module
    criterion: Criterion
    loss: Loss
    batch_statistics: bool
    group: ProcessGroup

    def derivatives(self, batches: Iterable[Any], sum_units: Callable[[Tensors], Tensors]) -> dict[str, Derivatives]:
        """Compute g and, if needed, Hv of each term of the loss, or of their sum.

        ``sum_units`` replaces the w g of each entry by the sum of its unit, g(c).
        """
        criterion = self.criterion
        if criterion.order == 0:
            return {TOTAL: Derivatives({}, None)}
        if criterion.data_free:
            return {TOTAL: synaptic_flow(self.model, self.loss, batches)}
        if criterion.matrices_only:
            return self._differentiate_matrices(list(batches))
        if criterion.direction == "gradient":
            return self._differentiate(batches, criterion.order == 2, None)
        batches = list(batches)
        directions = {}
        for term, derivatives in self._differentiate(batches, False, None).items():
            weights = {name: p.detach() for name, p in self.model.named_parameters() if name in derivatives.gradient}
            gates = sum_units(effects_of(criterion, first_order, weights, derivatives))
            directions[term] = {name: w * gates[name] for name, w in weights.items()}
        return self._differentiate(batches, True, directions)

    def _differentiate_matrices(self, batches: list[Any]) -> dict[str, Derivatives]:
        """Compute g, with zeros in place of those of vectors, and the product of H and this g."""
        directions = {
            term: {name: g if g.ndim > 1 else torch.zeros_like(g) for name, g in derivatives.gradient.items()}
            for term, derivatives in self._differentiate(batches, False, None).items()
        }
        if self.criterion.order < 2:
            return {term: Derivatives(direction, None) for term, direction in directions.items()}
        products = self._differentiate(batches, True, directions)
        return {term: Derivatives(direction, products[term].product) for term, direction in directions.items()}

    def _differentiate(
        self, batches: Iterable[Any], second: bool, directions: Mapping[str, Tensors] | None
    ) -> dict[str, Derivatives]:
        by_term, statistics = self.criterion.by_term, self.batch_statistics
        return flows(self.model, self.loss, batches, by_term, second, directions, statistics, self.group)


def _sum_effects(source: _Source, graph: Graph, axes: list[GatedAxis], batches: Iterable[Any]) -> list[TermEffects]:
    """Compute the effects of all entries on each term of the loss, and sum them by node."""
    model, criterion = source.model, source.criterion
    effect = criterion.node_effect or criterion.effect
    assert effect is not None
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
    unused = _unused_parameters(graph)
    streams = criterion.additive and criterion.order == 2 and criterion.direction == "gradient"
    if not streams or criterion.matrices_only:
        derivatives = source.derivatives(
            batches, sum_units=lambda effects: spread_to_entries(sum_by_node(graph, axes, effects), axes, effects)
        )
        for d in derivatives.values():
            for name in unused & d.gradient.keys():
                _check_unused(name, d.gradient[name])
        return [
            TermEffects(
                term, d.gradient_flow, {NODES: sum_by_node(graph, axes, effects_of(criterion, effect, parameters, d))}
            )
            for term, d in derivatives.items()
        ]
    sums: Tensors = {}

    def add(term: str, name: str, g: Tensor, hg: Tensor) -> None:  # a part at a time: Hg is never stored as a whole
        if name in unused:
            _check_unused(name, g)
        part = sum_by_node(graph, axes, {name: effect_of(criterion, effect, parameters[name], g, hg)})
        sums[term] = sums[term].add_(part) if term in sums else part

    gradient_flows = flow_by_parameter(
        model, source.loss, batches, add, criterion.by_term, source.batch_statistics, source.group
    )
    return [TermEffects(term, gradient_flows[term], {NODES: total}) for term, total in sums.items()]


def _unused_parameters(graph: Graph) -> set[str]:
    """Return the parameters that no run of the trace used.

    Those of layers that were never called are left out: what such a layer may use is not cut.
    """
    return {name for name in graph.unused if layer_of(name) not in graph.uncalled}


def _check_unused(name: str, gradient: Tensor) -> None:
    if bool(gradient.any()):
        raise FlowError(
            f"'{name}' has a gradient, but was not used when the model was traced on the same batches: it could keep "
            "its size where others are cut. Let the forward and the loss use the same layers each time in evaluation "
            "mode"
        )


def _rank_in_groups(graph: Graph, scores: Tensor) -> Tensor:
    """Replace each score by the share of its group of coupled layers that does not score higher; ties by index."""
    ranks = torch.zeros_like(scores)
    for group in graph.groups.values():
        nodes = torch.tensor(group, device=scores.device)
        order = torch.argsort(scores[nodes], stable=True)
        ranks[nodes[order]] = torch.arange(1, len(group) + 1, dtype=ranks.dtype, device=ranks.device) / len(group)
    return ranks


def _with_temperature(loss: Loss, criterion: Criterion) -> Loss:
    """Return the loss at the criterion's temperature."""
    if criterion.temperature == 1:
        return loss

    def tempered(model: nn.Module, batch: Any) -> Any:
        with TemperedLogits(criterion.temperature):
            return loss(model, batch)

    return tempered


def _trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}
