"""The summary of a graph: what each layer costs, what cutting it saves, and what cannot be removed and why."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_array

from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.structure import GraphStructure
from earlycrop.graph.types import NOT_UNDERSTOOD, ChannelLabels, CostTerm, Layer, NodeMask, Reason, total_cost

UNUSED = "no other weight uses its outputs"
HARD_CODED_HELP = "compute the size from the tensor in the forward (x.shape[-1], or -1 in a view), not from a number"
HELP = {
    GraphStructure.OUTPUT: "return fewer tensors where possible (use_cache=False in a language model); a returned "
    "tensor keeps its size",
    "it is normalised over": "no change helps: mean and variance are computed over these channels, and removing one "
    "changes them. Batch norm has statistics for each channel and can be cut",
    "it meets a tensor of a fixed size": "another reason in this list may freeze the other operand; if not, compute it "
    "from the same channels, or let it have size 1 there",
    "it is concatenated with data of a fixed size": "concatenate along a dimension other than the channels",
    "it is written into a part of another tensor": "join the parts with torch.cat or torch.stack",
    "it is cut into parts of different sizes": "compute each part in a layer of its own, or use parts of equal size",
    "it is not used in evaluation mode, and the run in training mode failed": "use an example that also runs in "
    "training mode: more than one sample, or larger samples",
    "its rows are looked up by index": "no change helps: any row may be looked up",
    "all its channels can only go together": "no change helps: without these channels the layer is empty",
    "it is gathered by indices of a fixed size": "compute the indices from the size of the tensor",
    "random numbers are drawn for it in evaluation too": "draw them in training mode only",
    "a size seems to be hard-coded in it": HARD_CODED_HELP,
    "a size is hard-coded in it": HARD_CODED_HELP,
    NOT_UNDERSTOOD: "use operations on all of a channel: linear, convolution, elementwise, view, permute, sum",
    UNUSED: "no change is needed: these outputs do not affect what the model returns",
}
"""What to change in the network, by the beginning of the reason. Other reasons need no explanation."""


@dataclass(frozen=True)
class LayerRow:
    """The costs of one module, and what cutting its outputs alone saves.

    Attributes:
        layer: Path of the module.
        kind: Name of its class, or "" if unknown.
        outputs: Number of outputs; coupled outputs count once.
        removable: Number of outputs that can be removed.
        parameters: Number of its own parameters.
        macs: Multiply-accumulates of the operations that run in it.
        saves_parameters: Parameters that the network loses when the removable outputs are removed, with all that is
            coupled to them. Every layer keeps at least one output.
        saves_macs: The same in multiply-accumulates.
    """

    layer: str
    kind: str
    outputs: int
    removable: int
    parameters: int
    macs: int
    saves_parameters: int
    saves_macs: int


@dataclass(frozen=True)
class FrozenRegion:
    """Layers that keep some or all outputs for the same reason.

    Attributes:
        reason: The reason as a sentence, with the operation and the module.
        operation: Name of the operation.
        why: What the operation does with the channels.
        help: What to change in the network, or "".
        modules: Where the reason occurs.
        layers: The layers that keep outputs.
        outputs: Number of outputs that these layers keep, for whatever reason.
    """

    reason: str
    operation: str
    why: str
    help: str
    modules: tuple[str, ...]
    layers: tuple[str, ...]
    outputs: int


@dataclass(frozen=True)
class CutEstimate:
    """The costs of the network after a cut.

    Attributes:
        target: Share of the weights to remove, or None for all removable nodes.
        weights: Weights that remain.
        parameters: Parameters that remain.
        macs: Multiply-accumulates that remain.
    """

    target: float | None
    weights: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """The content of a report.

    Attributes:
        nodes: Number of nodes that can be removed.
        weights: Entries of parameters with two or more dimensions.
        parameters: Entries of all parameters.
        macs: Multiply-accumulates of one run on the example.
        other_parameters: Parameters of modules without a matrix, such as norms. They are in no row.
        rows: The modules with matrices or multiply-accumulates.
        frozen: What cannot be removed, and why.
        cuts: Estimates of what remains after cuts.
    """

    nodes: int
    weights: int
    parameters: int
    macs: int
    other_parameters: int
    rows: tuple[LayerRow, ...]
    frozen: tuple[FrozenRegion, ...]
    cuts: tuple[CutEstimate, ...]


def summarize(
    graph: GraphStructure, kinds: Mapping[str, str] | None = None, targets: tuple[float, ...] = (0.5, 0.9)
) -> Summary:
    """Summarize a graph.

    Args:
        graph: The graph of a network.
        kinds: Name of the class of each module, by path.
        targets: Shares of the weights to estimate cuts for.

    Returns:
        The summary.
    """
    rows = _make_rows(graph, kinds or {})
    parameters = graph.cost("parameters")
    return Summary(
        nodes=graph.count,
        weights=graph.cost("weights"),
        parameters=parameters,
        macs=graph.cost("macs"),
        other_parameters=parameters - sum(row.parameters for row in rows),
        rows=rows,
        frozen=_make_regions((*graph.layers, *_unknown_layers(graph))),
        cuts=tuple(_estimate_cut(graph, target) for target in (*targets, None)),
    )


def _make_rows(graph: GraphStructure, kinds: Mapping[str, str]) -> tuple[LayerRow, ...]:
    layers = {layer.name: layer for layer in (*_unknown_layers(graph), *graph.layers)}
    with_matrix = {term.module for term in (*graph.costs("weights"), *graph.cost_terms)}
    parameters, macs = graph.costs("parameters"), graph.costs("macs")
    parameters_of, macs_of = _sum_by_module(parameters, graph.count), _sum_by_module(macs, graph.count)
    parameters_saved, macs_saved = _savings_function(parameters, graph.count), _savings_function(macs, graph.count)
    kept = np.flatnonzero(~_largest_cut(graph))
    rows = []
    for name in dict.fromkeys(term.module for term in (*parameters, *macs) if term.module in with_matrix):
        nodes = layers[name].nodes if name in layers else np.zeros(0, np.int64)
        removed = np.setdiff1d(nodes[nodes >= 0], kept)
        rows.append(
            LayerRow(
                layer=name,
                kind=kinds.get(name, ""),
                outputs=nodes.size,
                removable=int((nodes >= 0).sum()),
                parameters=parameters_of.get(name, 0),
                macs=macs_of.get(name, 0),
                saves_parameters=parameters_saved(removed),
                saves_macs=macs_saved(removed),
            )
        )
    return tuple(rows)


def _unknown_layers(graph: GraphStructure) -> list[Layer]:
    """Return the matrices that only an operation without a rule uses.

    Their outputs are unknown, and their first dimension stands for them.
    """
    axes_by_matrix: dict[str, list[TensorAxis]] = {}
    for axis in graph.axes:
        if axis.tensor in graph.parameters and len(graph.shapes[axis.tensor]) > 1:
            axes_by_matrix.setdefault(axis.tensor, []).append(axis)
    layers = []
    for axes in axes_by_matrix.values():
        reasons = tuple(dict.fromkeys(r for axis in axes for r in axis.reasons if r.why == NOT_UNDERSTOOD))
        if reasons and not any(axis.role for axis in axes):
            rows = axes[0].nodes
            layers.append(Layer(axes[0].layer, rows, np.zeros(rows.size, bool), reasons))
    return layers


def _sum_by_module(costs: Iterable[CostTerm], count: int) -> dict[str, int]:
    sums: dict[str, int] = {}
    for term in costs:
        sums[term.module] = sums.get(term.module, 0) + total_cost([term], np.zeros(count, bool))
    return sums


def _savings_function(costs: tuple[CostTerm, ...], count: int) -> Callable[[ChannelLabels], int]:
    """Return a function of nodes to remove that gives the decrease of the costs. It computes only terms that change."""
    axes = [(i, np.unique(nodes[nodes >= 0])) for i, term in enumerate(costs) for nodes in term.axes]
    nodes = np.concatenate([np.zeros(0, np.int64), *(nodes for _, nodes in axes)])
    terms = np.repeat(np.array([i for i, _ in axes], np.int64), [nodes.size for _, nodes in axes])
    terms_of_node = csr_array((np.ones(nodes.size, np.int8), (nodes, terms)), shape=(count, max(len(costs), 1)))

    @cache  # coupled layers have the same nodes
    def savings(node_bytes: bytes) -> int:
        nodes = np.frombuffer(node_bytes, np.int64)
        removed = np.zeros(count, bool)
        removed[nodes] = True
        changed = [costs[i] for i in np.unique(terms_of_node[nodes].indices).tolist()]
        return total_cost(changed, np.zeros(count, bool)) - total_cost(changed, removed)

    return lambda nodes: savings(nodes.astype(np.int64).tobytes()) if nodes.size else 0


def _largest_cut(graph: GraphStructure) -> NodeMask:
    """Return the cut of all nodes but the first of each axis that consists of nodes: an axis cannot become empty."""
    removed = np.ones(graph.count, bool)
    removed[[int(axis.nodes.min()) for axis in graph.axes if (axis.nodes >= 0).all()]] = False
    return removed


def _estimate_cut(graph: GraphStructure, target: float | None) -> CutEstimate:
    """Remove as few nodes, in random order, as it takes to remove ``target`` of the weights."""
    removed = _largest_cut(graph)
    if target is not None:
        order = np.random.default_rng(0).permutation(np.flatnonzero(removed))
        weights = graph.costs("weights")
        allowed = (1 - target) * graph.cost("weights")

        def remove_first(n: int) -> NodeMask:
            mask = np.zeros(graph.count, bool)
            mask[order[:n]] = True
            return mask

        n = bisect_left(range(len(order)), -allowed, key=lambda n: -total_cost(weights, remove_first(n)))
        removed = remove_first(n)
    return CutEstimate(target, *(graph.cost(of, removed) for of in ("weights", "parameters", "macs")))


def _make_regions(layers: Iterable[Layer]) -> tuple[FrozenRegion, ...]:
    """Group the layers that keep outputs by reason."""
    groups: dict[tuple[str, str], tuple[list[Reason], dict[str, Layer]]] = {}
    for layer in layers:
        if (layer.nodes >= 0).all():
            continue
        for reason in layer.reasons or [Reason("", "", UNUSED)]:
            reasons, frozen = groups.setdefault((reason.operation, reason.why), ([], {}))
            reasons.append(reason)
            frozen[layer.name] = layer
    return tuple(
        FrozenRegion(
            reason=str(reasons[0]) if operation else why,
            operation=operation,
            why=why,
            help=next((text for start, text in HELP.items() if why.startswith(start)), ""),
            modules=tuple(dict.fromkeys(reason.module for reason in reasons)),
            layers=tuple(frozen),
            outputs=sum(int((layer.nodes < 0).sum()) for layer in frozen.values()),
        )
        for (operation, why), (reasons, frozen) in groups.items()
    )
