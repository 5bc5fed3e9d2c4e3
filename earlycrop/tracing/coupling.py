"""From what a run showed to a graph: classes of coupled channels, which of them are nodes, and why others are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import ChannelLabels, CostTerm, Reason, Role
from earlycrop.tracing.labels import varying_dims
from earlycrop.tracing.recorder import ChannelRecorder, unique_labels

Vectors = Mapping[str, list[ChannelLabels | None]]
"""Parameter or buffer name -> its channels along each dimension."""


def build_graph(
    watch: ChannelRecorder,
    classes: ChannelLabels,
    vectors: Vectors,
    held: Mapping[str, Tensor],
    parameters: frozenset[str],
    example: Any,
) -> Graph:
    """The graph of a network with the tensors ``held``, of which ``parameters`` are parameters.

    ``classes``: for each channel number, its class.
    """
    roles = _roles(watch)
    reasons, why = _reasons(watch, classes, vectors)
    nodes = _numbers(
        classes, _consumed(watch, classes, roles) & _produced(vectors, parameters, classes, roles) & (why < 0)
    )
    count = int(nodes.max(initial=-1)) + 1
    inner = np.zeros(count + 1, bool)  # the last entry takes what is no node, -1
    for labels in watch.activation_products:
        inner[nodes[labels]] = True

    def slot(name: str, dim: int, labels: ChannelLabels) -> TensorAxis:
        mine = classes[labels]
        role = Role(int(np.bitwise_or.reduce(roles[labels])))
        given = why[mine]
        told = tuple(reasons[i] for i in np.unique(given[given >= 0]).tolist()) if given.max() >= 0 else ()
        return TensorAxis(name, dim, nodes[labels], mine, role, told)

    return Graph(
        example=example,
        shapes={name: tuple(t.shape) for name, t in held.items()},
        itemsizes={name: t.element_size() for name, t in held.items()},
        parameters=parameters,
        axes=tuple(slot(n, d, v) for n, vs in vectors.items() for d, v in enumerate(vs) if v is not None),
        count=count,
        activation_products=inner[:-1],
        returned=frozenset(
            np.isin(why, [i for i, r in enumerate(reasons) if r.why == Graph.OUTPUT]).nonzero()[0].tolist()
        ),
        cost_terms=tuple(CostTerm(w.constant, tuple(nodes[a] for a in w.axes), w.module) for w in watch.cost_terms),
    )


def _roles(watch: ChannelRecorder) -> ChannelLabels:
    """What each channel is for."""
    roles = np.zeros(watch.count, np.int64)
    for labels, role in watch.roles:
        roles[labels] |= role
    return roles


def _reasons(watch: ChannelRecorder, classes: ChannelLabels, vectors: Vectors) -> tuple[list[Reason], ChannelLabels]:
    """The reasons, and for each class the number of the one why it may not be cut, or -1.

    That is the first that was met, but rather that the class is the model's output.
    """
    reasons = list(dict.fromkeys(reason for _, reason in watch.freezes))
    number = {reason: i for i, reason in enumerate(reasons)}
    why = np.full(classes.max(initial=-1) + 1, -1)
    for labels, reason in watch.freezes:
        mine = classes[labels]
        why[mine if reason.why == Graph.OUTPUT else mine[why[mine] < 0]] = number[reason]
    for name, dim, labels in ((n, d, v) for n, vs in vectors.items() for d, v in enumerate(vs) if v is not None):
        first = classes[labels[0]]
        if why[first] < 0 and labels.size > 1 and classes[labels[-1]] == first and (classes[labels] == first).all():
            why[first] = len(reasons)
            reasons.append(Reason(f"dimension {dim} of {name}", "", "all its channels can only go together"))
    return reasons, why


def _consumed(watch: ChannelRecorder, classes: ChannelLabels, roles: ChannelLabels) -> ChannelLabels:
    """An entry a class: whether a weight's columns, or another activation, is multiplied with it."""
    consumed = np.zeros(classes.max(initial=-1) + 1, np.int64)
    consumed[classes[roles & Role.COLUMN > 0]] = 1
    for labels in watch.activation_products:
        consumed[classes[labels]] = 1
    return consumed


def _produced(
    vectors: Vectors, parameters: frozenset[str], classes: ChannelLabels, roles: ChannelLabels
) -> ChannelLabels:
    """An entry a class: whether a parameter makes it; buffers come along, but never make a node."""
    produced = np.zeros(classes.max(initial=-1) + 1, np.int64)
    makes = (roles == 0) | (roles & Role.ROW > 0)
    every = [v for name in parameters & set(vectors) for v in vectors[name] if v is not None]
    labels = np.concatenate([np.zeros(0, np.int64), *every])
    produced[classes[labels[makes[labels]]]] = 1
    return produced


def _numbers(classes: ChannelLabels, free: ChannelLabels) -> ChannelLabels:
    """For each channel, the number of its node, or -1; in the order of first channels, so that a graph is always the
    same. ``free``: an entry a class, whether it is a node.
    """
    first = np.full(free.size, classes.size)
    np.minimum.at(first, classes, np.arange(classes.size))
    order = np.argsort(first, kind="stable")
    order = order[free[order] > 0]
    number = np.full(free.size, -1)
    number[order] = np.arange(order.size)
    return number[classes]


def coupled_classes(watch: ChannelRecorder) -> ChannelLabels:
    """For each channel number, which class of coupled channels it belongs to; adds joins and freezes on the way."""
    classes = np.arange(watch.count)
    solved = 0
    while True:
        classes = _merge_classes(classes, watch.joins[solved:])
        solved = len(watch.joins)
        if _resolve_shared(watch, classes):
            continue
        if not sum(_couple_all_but_longest(watch, classes, f) for f in watch.rectangles):
            return classes


def multiplicity(watch: ChannelRecorder, classes: ChannelLabels) -> ChannelLabels:
    """For each class, how many channels of it were treated as different ones in one place."""
    most = np.ones(classes.max(initial=-1) + 1, np.int64)
    for part in watch.parts:
        which, times = np.unique(classes[part], return_counts=True)
        most[which] = np.maximum(most[which], times)
    return most


def _resolve_shared(watch: ChannelRecorder, classes: ChannelLabels) -> bool:
    """Decide what is shared where that is clear, or else the first of it; whether something was joined.

    First of all that have a class in common: what happens to one does not change another that has none.
    """
    pending, joined = [], False
    met = np.zeros(classes.max(initial=-1) + 1, bool)
    for small, large, reason in watch.shared:
        now = classes[large]
        if all((now == now.take([0], axis=d)).all() for d in varying_dims(small)):
            watch.freezes.append((unique_labels(small), reason))
            continue
        if met[now].any() or met[classes[small]].any():
            pending.append((small, large, reason))
        else:
            watch.join(small, large)
            joined = True
        met[now] = met[classes[small]] = True
    watch.shared = pending
    return joined


def _merge_classes(classes: ChannelLabels, joins: list[tuple[ChannelLabels, ChannelLabels]]) -> ChannelLabels:
    """The classes after these joins of channels."""
    a, b = (np.concatenate([np.zeros(0, np.int64), *(j[i] for j in joins)]) for i in (0, 1))
    count = classes.max(initial=-1) + 1
    graph = coo_array((np.ones(a.size, np.int8), (classes[a], classes[b])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)[classes]


def _couple_all_but_longest(watch: ChannelRecorder, classes: ChannelLabels, field: ChannelLabels) -> bool:
    """Where the classes vary along several dimensions of a field, couple along all but the longest; whether it did.

    After a cut the tensor must still be a rectangle.
    """
    now = classes[field]
    varying = [d for d in varying_dims(now) if not (now == now.take([0], axis=d)).all()]
    if len(varying) < 2:
        return False
    longest = max(varying, key=lambda d: now.shape[d])
    base = field
    for d in varying:
        if d != longest:
            base = base.take([0], axis=d)
    watch.join(field, base)
    return True
