"""A graph in figures, for a person: what each layer is, what cutting it would save, and what cannot go and why."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_array

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import NOT_UNDERSTOOD, ChannelLabels, CostTerm, Layer, NodeMask, Reason, total_cost

UNUSED = "no other weight uses its outputs"
SIZES = "sizes taken from the tensors in the forward (x.shape[-1], or -1 in a view) instead of a number"
HELP = {
    Graph.OUTPUT: "returning less, where that can be (a language model's cache: use_cache=False); what is returned "
    "keeps its size",
    "it is normalised over": "nothing in place: mean and variance are taken over these channels, and change when one "
    "goes. Batch norm, whose statistics are each channel's own, can be cut",
    "it meets a tensor of a fixed size": "another reason here may have frozen the other operand; if none has, let it "
    "be 1 wide there, or computed from the same channels",
    "it is concatenated with data of a fixed size": "concatenate along another dimension than that of the channels",
    "it is written into a part of another tensor": "join the parts by torch.cat or torch.stack instead",
    "it is cut into parts of different sizes": "make the parts in layers of their own, or of equal sizes",
    "it is not used in evaluation mode, and the run in training mode failed": "an example that training mode can run: "
    "more than one sample, or larger ones",
    "its rows are looked up by index": "nothing: any of them may be asked for",
    "all its channels can only go together": "nothing: without them the layer is empty",
    "it is gathered by indices of a fixed size": "indices made from the tensor's own size",
    "random numbers are drawn for it in evaluation too": "draw them in training only",
    "a size seems to be hard-coded in it": SIZES,
    "a size is hard-coded in it": SIZES,
    NOT_UNDERSTOOD: "the same in operations on whole channels: linear, convolution, elementwise, view, permute, sum",
    UNUSED: "nothing: it does not matter to what the model returns",
}
"""The beginning of a reason -> what would help. A reason that is not here speaks for itself."""


@dataclass(frozen=True)
class LayerRow:
    """One module: its own parameters and multiply-accumulates, and what cutting its outputs alone would save.

    kind: its class, where known. saves_parameters, saves_macs: what the whole network loses when every output that can
    go does (something must be left of each layer), with all that is coupled to it.
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

    modules: where the reason arose. outputs: how many stay in these layers, whatever the reason.
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
    """What a cut leaves. asked: the share of the weights that was to go, or None for all that can."""

    asked: float | None
    weights: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """All that a report tells. rest_parameters: those of modules without a matrix, such as norms; no row has them."""

    nodes: int
    weights: int
    parameters: int
    macs: int
    rest_parameters: int
    rows: tuple[LayerRow, ...]
    frozen: tuple[FrozenRegion, ...]
    cuts: tuple[CutEstimate, ...]


def summarize(graph: Graph, kinds: Mapping[str, str] | None = None, shares: tuple[float, ...] = (0.5, 0.9)) -> Summary:
    """``graph`` in figures. ``kinds``: module path -> name of its class; ``shares``: cuts to try, of the weights."""
    kinds = kinds or {}
    rows = _rows(graph, kinds)
    parameters = graph.cost("parameters")
    return Summary(
        nodes=graph.count,
        weights=graph.cost("weights"),
        parameters=parameters,
        macs=graph.cost("macs"),
        rest_parameters=parameters - sum(r.parameters for r in rows),
        rows=rows,
        frozen=_regions((*graph.layers, *_unknown_layers(graph))),
        cuts=tuple(_estimate_cut(graph, share) for share in (*shares, None)),
    )


def _rows(graph: Graph, kinds: Mapping[str, str]) -> tuple[LayerRow, ...]:
    layers = {layer.name: layer for layer in (*_unknown_layers(graph), *graph.layers)}
    matrices = {w.module for w in (*graph.costs("weights"), *graph.cost_terms)}
    costs = {of: graph.costs(of) for of in ("parameters", "macs")}
    own = {of: _by_module(costs[of], graph.count) for of in costs}
    saved = {of: _savings(costs[of], graph.count) for of in costs}
    kept = np.flatnonzero(~_all_but_one(graph))
    places = dict.fromkeys(w.module for of in costs for w in costs[of] if w.module in matrices)
    rows = []
    for name in places:
        nodes = layers[name].nodes if name in layers else np.zeros(0, np.int64)
        cut = np.setdiff1d(nodes[nodes >= 0], kept)
        rows.append(
            LayerRow(
                name, kinds.get(name, ""), nodes.size, int((nodes >= 0).sum()), own["parameters"].get(name, 0),
                own["macs"].get(name, 0), saved["parameters"](cut), saved["macs"](cut),
            )
        )  # fmt: skip
    return tuple(rows)


def _unknown_layers(graph: Graph) -> list[Layer]:
    """The matrices that only an operation that is not understood makes something of: nobody knows their outputs, and
    their first dimension stands for them.
    """
    slots: dict[str, list[TensorAxis]] = {}
    for s in graph.axes:
        if s.tensor in graph.parameters and len(graph.shapes[s.tensor]) > 1:
            slots.setdefault(s.tensor, []).append(s)
    found = []
    for held in slots.values():
        reasons = tuple(dict.fromkeys(r for s in held for r in s.reasons if r.why == NOT_UNDERSTOOD))
        if reasons and not any(s.role for s in held):
            found.append(Layer(held[0].layer, held[0].nodes, np.zeros(held[0].nodes.size, bool), reasons))
    return found


def _by_module(costs: tuple[CostTerm, ...], count: int) -> dict[str, int]:
    sums: dict[str, int] = {}
    for w in costs:
        sums[w.module] = sums.get(w.module, 0) + total_cost([w], np.zeros(count, bool))
    return sums


def _savings(costs: tuple[CostTerm, ...], count: int) -> Callable[[ChannelLabels], int]:
    """A function of nodes to remove: by how much the costs fall. Only the products that they are in are computed."""
    axes = [(i, np.unique(a[a >= 0])) for i, w in enumerate(costs) for a in w.axes]
    nodes = np.concatenate([np.zeros(0, np.int64), *(a for _, a in axes)])
    products = np.repeat(np.array([i for i, _ in axes], np.int64), [a.size for _, a in axes])
    touched = csr_array((np.ones(nodes.size, np.int8), (nodes, products)), shape=(count, max(len(costs), 1)))

    @cache  # coupled layers ask the same
    def of(key: bytes) -> int:
        nodes = np.frombuffer(key, np.int64)
        removed = np.zeros(count, bool)
        removed[nodes] = True
        concerned = [costs[i] for i in np.unique(touched[nodes].indices).tolist()]
        return total_cost(concerned, np.zeros(count, bool)) - total_cost(concerned, removed)

    return lambda nodes: of(nodes.astype(np.int64).tobytes()) if nodes.size else 0


def _all_but_one(graph: Graph) -> NodeMask:
    """All nodes but the first of each dimension that only nodes make up: something must be left there."""
    removed = np.ones(graph.count, bool)
    removed[[int(s.nodes.min()) for s in graph.axes if (s.nodes >= 0).all()]] = False
    return removed


def _estimate_cut(graph: Graph, share: float | None) -> CutEstimate:
    """What is left when so many nodes, chosen at random, have gone that ``share`` of the weights has."""
    removed = _all_but_one(graph)
    if share is not None:
        order = np.random.default_rng(0).permutation(np.flatnonzero(removed))
        weights = graph.costs("weights")
        allowed = (1 - share) * graph.cost("weights")

        def first(n: int) -> NodeMask:
            gone = np.zeros(graph.count, bool)
            gone[order[:n]] = True
            return gone

        removed = first(bisect_left(range(len(order)), -allowed, key=lambda n: -total_cost(weights, first(n))))
    return CutEstimate(share, *(graph.cost(of, removed) for of in ("weights", "parameters", "macs")))


def _regions(layers: tuple[Layer, ...]) -> tuple[FrozenRegion, ...]:
    found: dict[tuple[str, str], tuple[list[Reason], dict[str, Layer]]] = {}
    for layer in layers:
        if (layer.nodes >= 0).all():
            continue
        for reason in layer.reasons or [Reason("", "", UNUSED)]:
            reasons, concerned = found.setdefault((reason.operation, reason.why), ([], {}))
            reasons.append(reason)
            concerned[layer.name] = layer
    return tuple(
        FrozenRegion(
            str(reasons[0]) if operation else why, operation, why, _help(why),
            tuple(dict.fromkeys(r.module for r in reasons)), tuple(held),
            sum(int((x.nodes < 0).sum()) for x in held.values()),
        )
        for (operation, why), (reasons, held) in found.items()
    )  # fmt: skip


def _help(why: str) -> str:
    return next((text for start, text in HELP.items() if why.startswith(start)), "")
