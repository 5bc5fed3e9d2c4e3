"""The summary of a graph: what each layer costs, what cutting it saves, and what cannot be removed and why."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from earlycrop.graph.structure import GraphStructure
from earlycrop.graph.types import NOT_UNDERSTOOD, CostTerm, Layer, NodeMask, Reason, Role

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
    "it is not used in evaluation mode, and the run in training mode failed": "use an example that also runs in "
    "training mode: more than one sample, or larger samples",
    "its rows are looked up by index": "no change helps: any row may be looked up",
    "all its channels can only go together": "no change helps: without these channels the layer is empty",
    "random numbers are drawn for it in evaluation too": "draw them in training mode only",
    "a size seems to be hard-coded in it": HARD_CODED_HELP,
    "a size is hard-coded in it": HARD_CODED_HELP,
    "a layer that no run has called": "use an example, or batches, that run all layers, or remove what is never used "
    "from the model (model.head = None)",
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


def summarize(graph: GraphStructure, kinds: Mapping[str, str] | None = None) -> Summary:
    """Summarize a graph.

    Args:
        graph: The graph of a network.
        kinds: Name of the class of each module, by path.

    Returns:
        The summary.
    """
    rows = tuple(_make_rows(graph, kinds or {}))
    parameters = graph.cost("parameters")
    return Summary(
        nodes=graph.count,
        weights=graph.cost("weights"),
        parameters=parameters,
        macs=graph.cost("macs"),
        other_parameters=parameters - sum(row.parameters for row in rows),
        rows=rows,
        frozen=_make_regions((*graph.layers, *_unknown_layers(graph))),
        cuts=tuple(_estimate_cut(graph, target) for target in (0.5, 0.9, None)),
    )


def _make_rows(graph: GraphStructure, kinds: Mapping[str, str]) -> Iterator[LayerRow]:
    layers = {layer.name: layer for layer in (*_unknown_layers(graph), *graph.layers)}
    with_matrix = {term.module for term in (*graph.costs("weights"), *graph.cost_terms)}
    parameters, macs = _sum_by_module(graph.costs("parameters")), _sum_by_module(graph.cost_terms)
    removable = _largest_cut(graph)
    for name in {**parameters, **macs}:
        if name in with_matrix:
            nodes = layers[name].nodes if name in layers else np.zeros(0, np.int64)
            removed = removable & graph.mask(nodes[nodes >= 0])
            yield LayerRow(
                layer=name,
                kind=kinds.get(name, ""),
                outputs=nodes.size,
                removable=int((nodes >= 0).sum()),
                parameters=parameters[name],
                macs=macs[name],
                saves_parameters=parameters.total() - graph.cost("parameters", removed),
                saves_macs=macs.total() - graph.cost("macs", removed),
            )


def _unknown_layers(graph: GraphStructure) -> Iterator[Layer]:
    """Find the matrices that have no rows and no node: an operation without a rule uses them, or they are frozen.

    Their outputs are unknown, and their first dimension stands for them. A matrix that is added to the outputs of a
    layer (an embedding of positions) is left out.
    """
    rows = [a for a in graph.axes if Role.OUTPUT in a.role or (Role.ROW in a.role and graph.is_matrix(a.tensor))]
    with_rows = {axis.layer for axis in rows}
    produced = {c for axis in rows for c in axis.indices_by_class}
    for name, axes in graph.axes_by_tensor.items():
        layer = axes[0].layer
        reasons = tuple(dict.fromkeys(reason for axis in axes for reason in axis.reasons))
        is_unknown = any(reason.why == NOT_UNDERSTOOD for reason in reasons)
        if not graph.is_matrix(name) or not reasons or any(axis.role or (axis.nodes >= 0).any() for axis in axes):
            continue
        if is_unknown or (layer not in with_rows and not any(produced & axis.indices_by_class.keys() for axis in axes)):
            with_rows.add(layer)
            yield Layer(layer, axes[0].nodes, np.zeros(axes[0].nodes.size, bool), reasons)


def _sum_by_module(costs: Iterable[CostTerm]) -> Counter[str]:
    sums = Counter[str]()
    for term in costs:
        sums[term.module] += term.constant * prod(nodes.size for nodes in term.axes)
    return sums


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
        allowed = (1 - target) * graph.cost("weights")
        n = bisect_left(range(order.size), -allowed, key=lambda n: -graph.cost("weights", graph.mask(order[:n])))
        removed = graph.mask(order[:n])
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
