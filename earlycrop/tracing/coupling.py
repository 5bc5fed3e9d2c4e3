"""Work out the graph from what a run has recorded: classes of coupled channels, and which of these are nodes."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import TensorAxis
from earlycrop.graph.types import ChannelLabels, CostTerm, NodeMask, Reason, Role
from earlycrop.tracing.labels import varying_dims
from earlycrop.tracing.recorder import ChannelRecorder, unique_labels

NO_OUTPUT = Role.COLUMN | Role.LOOKUP
"""Roles of channels that are no outputs of the parameter that they belong to."""
AxisChannels = Mapping[str, list[ChannelLabels | None]]
"""Parameter or buffer name -> the channels along each of its dimensions."""


def build_graph(
    recorder: ChannelRecorder,
    classes: ChannelLabels,
    channels: AxisChannels,
    tensors: Mapping[str, Tensor],
    parameters: frozenset[str],
    example: Any,
) -> Graph:
    """Build the graph of a network.

    A class of coupled channels is a node if a parameter produces it, a weight or a product of activations consumes it,
    and nothing freezes it.

    Args:
        recorder: The recorder of the run.
        classes: The class of each channel, from :func:`coupled_classes`.
        channels: The channels of the parameters and buffers.
        tensors: The parameters and buffers by name.
        parameters: Which of the tensors are parameters.
        example: What the network was run on.

    Returns:
        The graph before trial cuts.
    """
    roles = np.zeros(recorder.channel_count, np.int64)
    for channels_with_role, role in recorder.roles:
        roles[channels_with_role] |= role
    for lengths, directions in recorder.same_roles:
        roles[lengths] |= roles[directions] & ~Role.DIRECTION
    reasons, reason_of_class = _find_reasons(recorder, classes, channels)
    parameter_channels = {name: vectors for name, vectors in channels.items() if name in parameters}
    produced_and_consumed = _find_produced_and_consumed(recorder, parameter_channels, classes, roles)
    nodes = _number_nodes(classes, produced_and_consumed & (reason_of_class < 0))
    count = int(nodes.max(initial=-1)) + 1
    in_products = np.zeros(count + 1, bool)  # the last entry is for channels without a node: -1
    for labels in recorder.activation_products:
        in_products[nodes[labels]] = True

    def make_axis(name: str, dim: int, labels: ChannelLabels) -> TensorAxis:
        role = Role(int(np.bitwise_or.reduce(roles[labels])))
        numbers = reason_of_class[classes[labels]]
        numbers = numbers[numbers >= 0]
        axis_reasons = tuple(reasons[i] for i in np.unique(numbers).tolist()) if numbers.size else ()
        return TensorAxis(name, dim, nodes[labels], classes[labels], role, axis_reasons)

    axes = [make_axis(*axis) for axis in _list_axes(channels)]
    returned = np.isin(reason_of_class, [i for i, r in enumerate(reasons) if r.why == Graph.OUTPUT])
    return Graph(
        example=example,
        shapes={name: tuple(t.shape) for name, t in tensors.items()},
        itemsizes={name: t.element_size() for name, t in tensors.items()},
        parameters=parameters,
        axes=_mark_outputs(axes, {name for name in parameters if tensors[name].ndim > 1}, parameters, count),
        count=count,
        activation_products=in_products[:-1],
        returned=frozenset(returned.nonzero()[0].tolist()),
        cost_terms=tuple(
            CostTerm(term.constant, tuple(nodes[axis] for axis in term.axes), term.module)
            for term in recorder.cost_terms
        ),
    )


def _mark_outputs(
    axes: list[TensorAxis], matrices: Set[str], parameters: Set[str], count: int
) -> tuple[TensorAxis, ...]:
    """Give a role to the axes that produce the nodes without a row in a matrix: those of matrices, or else of vectors.

    A matrix that is computed from several parameters (with a gain, with noise) has no rows of its own.
    """
    covered = np.append(np.zeros(count, bool), True)  # the last entry serves -1, which is no node
    for axis in axes:
        if Role.ROW in axis.role and axis.tensor in matrices:
            covered[axis.nodes] = True
    marked = list(axes)
    for names in (matrices, parameters - matrices):
        owners = [
            i
            for i, axis in enumerate(axes)
            if axis.tensor in names and not axis.role & NO_OUTPUT and not covered[axis.nodes].all()
        ]
        for i in owners:
            covered[axes[i].nodes] = True
            marked[i] = replace(axes[i], role=axes[i].role | Role.OUTPUT)
    return tuple(marked)


def _list_axes(channels: AxisChannels) -> list[tuple[str, int, ChannelLabels]]:
    """Return tensor, dimension and channels of each dimension that has channels."""
    return [(name, d, v) for name, vectors in channels.items() for d, v in enumerate(vectors) if v is not None]


def _find_reasons(
    recorder: ChannelRecorder, classes: ChannelLabels, channels: AxisChannels
) -> tuple[list[Reason], ChannelLabels]:
    """Return all reasons, and for each class the number of the reason why it may not be cut, or -1.

    Of several reasons the first one counts, but that the model returns the class comes before all others.
    """
    reasons = list(dict.fromkeys(reason for _, reason in recorder.freezes))
    number = {reason: i for i, reason in enumerate(reasons)}
    reason_of_class = np.full(classes.max(initial=-1) + 1, -1)
    for labels, reason in recorder.freezes:
        frozen = classes[labels]
        if reason.why != Graph.OUTPUT:
            frozen = frozen[reason_of_class[frozen] < 0]
        reason_of_class[frozen] = number[reason]
    for name, dim, labels in _list_axes(channels):
        first = classes[labels[0]]
        if reason_of_class[first] < 0 and labels.size > 1 and (classes[labels] == first).all():
            reason_of_class[first] = len(reasons)
            reasons.append(Reason(f"dimension {dim} of {name}", "", "all its channels can only go together"))
    return reasons, reason_of_class


def _find_produced_and_consumed(
    recorder: ChannelRecorder, parameter_channels: AxisChannels, classes: ChannelLabels, roles: ChannelLabels
) -> NodeMask:
    """Return for each class whether a parameter produces it, and columns of a weight or an activation consume it."""
    produced = np.zeros(classes.max(initial=-1) + 1, bool)
    consumed = np.zeros_like(produced)
    consumed[classes[roles & Role.COLUMN > 0]] = True
    for labels in recorder.activation_products:
        consumed[classes[labels]] = True
    produces = (roles == 0) | (roles & Role.ROW > 0)
    for _, _, labels in _list_axes(parameter_channels):
        produced[classes[labels[produces[labels]]]] = True
    return produced & consumed


def _number_nodes(classes: ChannelLabels, is_node: NodeMask) -> ChannelLabels:
    """Return for each channel the number of its node, or -1.

    Nodes are numbered in the order of their first channels, so that equal networks have equal graphs. ``is_node`` has
    an entry a class.
    """
    first = np.full(is_node.size, classes.size)
    np.minimum.at(first, classes, np.arange(classes.size))
    order = np.argsort(first, kind="stable")
    order = order[is_node[order]]
    number = np.full(is_node.size, -1)
    number[order] = np.arange(order.size)
    return number[classes]


def coupled_classes(recorder: ChannelRecorder) -> ChannelLabels:
    """Find the classes of coupled channels, and add the joins and freezes that follow from them to the recorder.

    Args:
        recorder: The recorder of the run.

    Returns:
        The class of each channel.
    """
    classes = np.arange(recorder.channel_count)
    merged = 0
    while True:
        classes = _merge_classes(classes, recorder.joins[merged:])
        merged = len(recorder.joins)
        if _resolve_broadcasts(recorder, classes):
            continue
        if sum(_couple_all_but_longest(recorder, classes, labels) for labels in recorder.multi_dim):
            continue
        if not _couple_slices(recorder, classes):
            return classes


def multiplicity(recorder: ChannelRecorder, classes: ChannelLabels) -> ChannelLabels:
    """Count for each class how many of its channels some operation treated as different ones.

    Args:
        recorder: The recorder of the run.
        classes: The class of each channel.

    Returns:
        An entry a class, 1 or more.
    """
    largest = np.ones(classes.max(initial=-1) + 1, np.int64)
    for channels in recorder.distinct_sets:
        present, counts = np.unique(classes[channels], return_counts=True)
        largest[present] = np.maximum(largest[present], counts)
    return largest


def _resolve_broadcasts(recorder: ChannelRecorder, classes: ChannelLabels) -> bool:
    """Decide the pending broadcasts, and return whether channels were joined.

    Channels are frozen where the larger ones can only be cut as a whole, and joined otherwise. Of broadcasts with a
    class in common only the first is joined at a time, as that may decide the others.
    """
    pending, joined = [], False
    touched = np.zeros(classes.max(initial=-1) + 1, bool)
    for small, large, reason in recorder.pending_broadcasts:
        large_classes = classes[large]
        if all((large_classes == large_classes.take([0], axis=d)).all() for d in varying_dims(small)):
            recorder.freezes.append((unique_labels(small), reason))
            continue
        if touched[large_classes].any() or touched[classes[small]].any():
            pending.append((small, large, reason))
        else:
            recorder.join(small, large)
            joined = True
        touched[large_classes] = touched[classes[small]] = True
    recorder.pending_broadcasts = pending
    return joined


def _couple_slices(recorder: ChannelRecorder, classes: ChannelLabels) -> bool:
    """Couple the parts of sliced dimensions position by position, and return whether channels were joined.

    Parts that are equal by chance (queries that are as wide as keys and values together) have other couplings: there,
    this would couple positions of one part with each other. They stay as they are, and trial cuts show whether their
    sizes follow.
    """
    slices, recorder.slices = recorder.slices, []
    accepted: list[tuple[ChannelLabels, ChannelLabels]] = []
    for by_part in slices:
        first = np.broadcast_to(by_part[:1], by_part.shape)
        joined = [*accepted, (by_part.reshape(-1), first.reshape(-1))]
        merged = _merge_classes(classes, joined)
        if all(np.unique(merged[part]).size == np.unique(classes[part]).size for part in by_part):
            accepted = joined
        else:
            recorder.has_unequal_parts = True
    recorder.joins += accepted
    return bool(accepted)


def _merge_classes(classes: ChannelLabels, joins: list[tuple[ChannelLabels, ChannelLabels]]) -> ChannelLabels:
    """Return the classes after these joins."""
    a, b = (np.concatenate([np.zeros(0, np.int64), *(join[i] for join in joins)]) for i in (0, 1))
    count = classes.max(initial=-1) + 1
    graph = coo_array((np.ones(a.size, np.int8), (classes[a], classes[b])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)[classes]


def _couple_all_but_longest(recorder: ChannelRecorder, classes: ChannelLabels, labels: ChannelLabels) -> bool:
    """Couple labels whose classes vary along several dimensions along all of these but the longest.

    Otherwise a cut would leave a tensor that is no rectangle. Returns whether something was coupled.
    """
    current = classes[labels]
    varying = [d for d in varying_dims(current) if not (current == current.take([0], axis=d)).all()]
    if len(varying) < 2:
        return False
    longest = max(varying, key=lambda d: current.shape[d])
    first = labels
    for d in varying:
        if d != longest:
            first = first.take([0], axis=d)
    recorder.join(labels, first)
    return True
