"""What can be removed, single weights or nodes, and the score of each: a criterion summed over the entries that it
owns.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import Reason, Role
from earlycrop.scoring.criteria import Criterion, Effect, Gate, snip
from earlycrop.scoring.derivatives import Derivatives, flow, flow_by_parameter, memoryless_zeros
from earlycrop.scoring.synflow import synaptic_flow
from earlycrop.utils.distributed import ProcessGroup, broadcast_from_rank0
from earlycrop.utils.errors import FlowError
from earlycrop.utils.parameters import norm_scales, prunable_matrices
from earlycrop.utils.types import Loss, Tensors


def weight_scores(
    model: nn.Module,
    criterion: Criterion,
    loss: Loss,
    batches: Iterable[Any],
    batch_statistics: bool = False,
    group: ProcessGroup = None,
) -> Tensors:
    """A score for each entry of each weight matrix that can lose some; gates stand on single weights. ``group``:
    processes that score together, see :func:`earlycrop.scoring.derivatives.flow`.

    Raises:
        ValueError: no batch where one is needed. FlowError: see :func:`earlycrop.scoring.derivatives.flow`.
    """
    trained = {name: p.detach() for name, p in prunable_matrices(model).items()}
    if criterion.effect is None:
        return {name: broadcast_from_rank0(torch.rand(p.shape, device=p.device), group) for name, p in trained.items()}

    def effects(read: Iterable[Any]) -> Tensors:
        derivatives = _derivatives(model, criterion, loss, read, batch_statistics, lambda wg: wg, group)
        return {name: _real_effect(criterion, effect, p, *_entry(derivatives, name, p)) for name, p in trained.items()}

    effect = criterion.effect
    if not criterion.per_batch:
        return {name: _to_scores(e, criterion, name) for name, e in effects(batches).items()}
    total = {name: torch.zeros_like(p.abs()) for name, p in trained.items()}
    for batch in batches:
        for name, e in effects([batch]).items():
            total[name] += e.square()
    return {name: _to_scores(t, criterion, name) for name, t in total.items()}


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
    """A score for each node: the sum of its entries' effects, in float64 on the CPU.

    ``gate`` is the criterion's own unless it is given. ``gate="rows"`` sums over the rows and biases that produce the
    node, the paper's definition. ``gate="norms"`` sums over scale and shift of its batch norms, where it has one, which
    are a gate after the norm. ``gate="columns"`` sums over the columns that consume it. A node without a column is
    scored by its rows; one without a row, or with several in one parameter (an LSTM unit's gates, an attention head),
    by its columns, since a gate on those rows is no gate on the node. ``batch_statistics``: batch norm uses the batch's
    own (mind that it divides a gate on rows before it out). A criterion of batch norm scales sums over those instead.
    ``group``: processes that score together, see :func:`earlycrop.scoring.derivatives.flow`.

    Raises:
        ValueError: no batch where one is needed. FlowError: see :func:`earlycrop.scoring.derivatives.flow`.
    """
    if criterion.effect is None:
        return broadcast_from_rank0(torch.rand(graph.count, dtype=torch.float64), group)
    gate = gate or criterion.gate
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    scored = parameters if criterion.order == 0 else _trained(model)
    scales = norm_scales(model) if criterion.norms else []
    chosen = _norm_axes(graph, scales) if scales else _gated_axes(graph, gate, scored, norm_scales(model))

    def spread(effects: Tensors) -> Tensors:
        """Each entry's node's sum."""
        sums = _sum_by_node(graph, chosen, effects)
        spread_ = {name: torch.zeros_like(t) for name, t in effects.items()}
        for slot, nodes in chosen:
            t = spread_.get(slot.tensor)
            if t is not None:
                own = torch.where(nodes >= 0, sums[nodes.clamp(min=0)], 0).to(t)
                t += own.reshape([-1 if d == slot.dim else 1 for d in range(t.ndim)])
        return spread_

    effect = criterion.node_effect or criterion.effect

    def sums(read: Iterable[Any]) -> Tensor:
        if criterion.order == 2 and criterion.along == "gradient":  # a parameter at a time: Hg need not be held whole
            total = torch.zeros(graph.count, dtype=torch.float64)

            def add(name: str, g: Tensor, hg: Tensor) -> None:
                total.add_(
                    _sum_by_node(graph, chosen, {name: _real_effect(criterion, effect, parameters[name], g, hg)})
                )

            flow_by_parameter(
                model, loss, read, add, in_parts=criterion.additive, batch_statistics=batch_statistics, group=group
            )
            return total
        derivatives = _derivatives(model, criterion, loss, read, batch_statistics, spread, group)
        numbers = ((name, p) for name, p in parameters.items() if p.is_floating_point() or p.is_complex())
        effects = {name: _real_effect(criterion, effect, p, *_entry(derivatives, name, p)) for name, p in numbers}
        return _sum_by_node(graph, chosen, effects)

    if criterion.per_batch:
        read = list(batches)
        total = torch.zeros(graph.count, dtype=torch.float64)
        for batch in read:
            total += sums([batch]).square()
    else:
        total = sums(batches)
    scores = _to_scores(total, criterion, "the nodes")
    return _ranks(graph, scores) if criterion.local else scores


def norm_scale_sums(model: nn.Module, graph: Graph, effects: Tensors) -> Float[Tensor, "nodes"]:
    """For each node, the sum of the given effects of its batch norm scales."""
    return _sum_by_node(graph, _norm_axes(graph, norm_scales(model)), effects)


def _norm_axes(graph: Graph, tensors: Container[str]) -> list[tuple[TensorAxis, Tensor]]:
    return [(s, torch.from_numpy(s.nodes)) for s in graph.axes if s.tensor in tensors]


def _ranks(graph: Graph, scores: Tensor) -> Tensor:
    """Of each node, how large a share of its group of coupled layers has lower scores; ties by index."""
    ranks = torch.zeros_like(scores)
    for ids in graph.groups.values():
        index = torch.tensor(ids)
        order = torch.argsort(scores[index], stable=True)
        ranks[index[order]] = torch.arange(1, len(ids) + 1, dtype=ranks.dtype) / len(ids)
    return ranks


def _gated_axes(
    graph: Graph, gate: Gate, scored: Container[str], scales: Iterable[str] = ()
) -> list[tuple[TensorAxis, Tensor]]:
    """The slots that gates stand on, each with the node of each index that is gated there, or -1.

    Only parameters in ``scored`` count: one that is not trained has no gradient, and would make its nodes worthless.
    ``scales``: those of the batch norms.
    """
    if gate == "norms":
        affine = {name for scale in scales for name in (scale, scale.removesuffix("weight") + "bias")}
        after = [(s, nodes) for s, nodes in _norm_axes(graph, affine) if s.tensor in scored]
        behind = np.append(np.zeros(graph.count, bool), False)  # the last entry serves -1
        for _, nodes in after:
            behind[nodes[nodes >= 0].numpy()] = True
        return after + [
            (s, torch.from_numpy(np.where(behind[nodes.numpy()], -1, nodes.numpy())))
            for s, nodes in _gated_axes(graph, "rows", scored)
        ]
    rows = [s for s in graph.axes if Role.ROW in s.role and s.tensor in scored]
    columns = [s for s in graph.axes if Role.COLUMN in s.role and s.tensor in scored]
    has_column, has_row, several = (np.zeros(graph.count, bool) for _ in range(3))
    for slot in columns:
        has_column[slot.nodes[slot.nodes >= 0]] = True
    for slot in rows:
        times = np.bincount(slot.nodes[slot.nodes >= 0], minlength=graph.count)
        has_row |= times > 0
        several |= times > 1
    by_row = has_row & ~has_column if gate == "columns" else has_row & ~(several & has_column)
    by_row = np.append(by_row, False)  # the last entry serves -1
    chosen = [(s, torch.from_numpy(np.where(by_row[s.nodes], s.nodes, -1))) for s in rows]
    return chosen + [(s, torch.from_numpy(np.where(by_row[s.nodes], -1, s.nodes))) for s in columns]


def _trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def unscorable_nodes(model: nn.Module, graph: Graph, criterion: Criterion) -> dict[int, Reason]:
    """The nodes that ``criterion`` cannot score: no parameter that produces or consumes them is trained, or, where the
    network has batch norms and only those count, none follows them.
    """
    if criterion.norms and (norms := norm_scales(model)):
        behind = {i for s in graph.axes if s.tensor in norms for i in s.nodes.tolist()}
        lacking = Reason("batch norm", "", "no batch norm follows it, and only the scales of those are compared")
        return {i: lacking for i in range(graph.count) if i not in behind}
    if criterion.order == 0:
        return {}
    gated = _gated_axes(graph, "rows", _trained(model))
    seen = {i for _, nodes in gated for i in nodes.tolist()}
    reason = Reason(f"{criterion.order}. derivative", "", "none of its parameters is trained, so it has no score")
    return {i: reason for i in range(graph.count) if i not in seen}


def _sum_by_node(graph: Graph, chosen: Iterable[tuple[TensorAxis, Tensor]], effects: Mapping[str, Tensor]) -> Tensor:
    sums = torch.zeros(graph.count + 1, dtype=torch.float64)  # the last entry takes what has no node
    for slot, nodes in chosen:
        if slot.tensor in effects:
            t = effects[slot.tensor]
            others = [d for d in range(t.ndim) if d != slot.dim]
            own = t.sum(others, dtype=torch.float64) if others else t.double()
            sums.index_add_(0, nodes.where(nodes >= 0, graph.count), own.cpu())
    return sums[:-1]


def _derivatives(
    model: nn.Module,
    criterion: Criterion,
    loss: Loss,
    batches: Iterable[Any],
    batch_statistics: bool,
    spread: Any,
    group: ProcessGroup,
) -> Derivatives:
    if criterion.order == 0:
        return Derivatives({}, None)
    if criterion.data_free:
        return synaptic_flow(model, loss, batches)
    second = criterion.order == 2
    if criterion.along == "gradient":
        return flow(model, loss, batches, second=second, batch_statistics=batch_statistics, group=group)
    batches = list(batches)
    first = flow(model, loss, batches, second=False, batch_statistics=batch_statistics, group=group).gradient
    weights = {name: p.detach() for name, p in model.named_parameters() if name in first}
    gates = spread({name: _real_effect(criterion, snip, w, first[name], first[name]) for name, w in weights.items()})
    along = {name: w * gates[name] for name, w in weights.items()}
    return flow(model, loss, batches, direction=along, batch_statistics=batch_statistics, group=group)


def _real_effect(criterion: Criterion, effect: Effect, w: Tensor, g: Tensor, hg: Tensor) -> Tensor:
    """The effect of each entry. That of a complex one is of its real and its imaginary part together, on both of which
    a gate would stand; without a derivative, of its modulus.
    """
    if not w.is_complex() or criterion.order == 0:
        return effect(w, g, hg)
    return effect(*(torch.view_as_real(t.resolve_conj()) for t in (w, g, hg))).sum(-1)


def _entry(derivatives: Derivatives, name: str, p: Tensor) -> tuple[Tensor, Tensor]:
    """g and Hv of a parameter; zeros where they are not needed, or the parameter takes no part."""
    zeros = memoryless_zeros(p)
    return derivatives.gradient.get(name, zeros), (derivatives.product or {}).get(name, zeros)


def _to_scores(effect: Tensor, criterion: Criterion, what: str) -> Tensor:
    if not bool(torch.isfinite(effect).all()):
        raise FlowError(f"the scores of {what} are not finite: the weights or the loss are too large or NaN")
    return effect if criterion.signed else effect.abs()
