"""Find sizes in attributes of a user's own modules (a number of heads, the widths of a split) by trial cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, islice
from math import inf
from typing import Any

import numpy as np
from torch import nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute, TensorAxis
from earlycrop.graph.types import NodeMask, Size
from earlycrop.tracing.trial_cut import Trials

MAX_PAIRS = 32
"""How many pairs of attributes are tried."""
MAX_ATTRIBUTES = 4
"""How many attributes may follow one group; those of several modules of one kind count once."""


def find_size_attributes(
    graph: Graph, trials: Trials, ids: tuple[int, ...], root: str, size_attributes: tuple[SizeAttribute, ...]
) -> tuple[SizeAttribute, ...] | None:
    """Find the attributes that must follow a group, so that a trial cut of it has no fault.

    Attributes are added one at a time, or two where no single one helps (the widths of queries and of keys in one
    split). They must bring the run past the operation that failed.

    Args:
        graph: The graph of the network.
        trials: The copy of the network.
        ids: The nodes of the group.
        root: The module to run.
        size_attributes: Attributes that follow a cut already, besides those of the graph.

    Returns:
        The attributes, or None if there are none that suffice.
    """
    remove = [ids[len(ids) // 2]]
    chosen: tuple[SizeAttribute, ...] = ()
    faults = trials.check_cut(graph, remove, ids, root, size_attributes, in_training=False)
    in_training = not faults  # where the fault is
    if in_training:
        faults = trials.check_cut(graph, remove, ids, root, size_attributes)
    for _ in range(MAX_ATTRIBUTES):
        if not faults:
            break
        first = min(faults, key=lambda fault: fault.at)
        best_reach, best, best_faults = float(first.at), chosen, faults
        used = size_attributes + chosen
        candidates = _put_known_first(_list_candidates(graph, trials.network, first.path, remove, used), trials, used)
        for candidate in chain(candidates, _list_pairs(candidates, graph, remove)):
            if len({a.attribute for a in candidate}) > 1 and best_reach > first.at:
                break  # one attribute was enough
            attributes = (*size_attributes, *chosen, *candidate)
            candidate_faults = trials.check_cut(graph, remove, ids, root, attributes, in_training)
            reach = min((fault.at for fault in candidate_faults), default=inf)
            if reach > best_reach:
                best_reach, best, best_faults = reach, (*chosen, *candidate), candidate_faults
            if not candidate_faults:
                break
        if best_reach == first.at:
            return None
        chosen, faults = best, best_faults
    if faults or not chosen:
        return None
    if trials.samples > 1:  # several cuts of the whole network follow
        return chosen
    others = list(ids[(len(ids) + 1) // 2 :])
    return None if trials.check_cut(graph, others, ids, root, size_attributes + chosen) else chosen


def _list_candidates(
    graph: Graph, network: nn.Module, path: tuple[str, ...], remove: list[int], used: tuple[SizeAttribute, ...]
) -> Iterator[tuple[SizeAttribute, ...]]:
    """Yield attributes of the modules in ``path`` that can follow a cut dimension.

    An integer shrinks in proportion with a dimension, and several integers with the parts of one. The innermost module
    comes first. Of one attribute, dimensions of its own value come first, then those whose width divides it or is a
    multiple of it, and of these the module's own. With an attribute come those of the other modules of the same kind
    that lose some of the same nodes (heads that all layers have in common).
    """
    removed = graph.mask(remove)
    cut_axes = _list_cut_axes(graph, removed)
    cut_dims = {(axis.tensor, axis.dim) for axis, _ in cut_axes}
    taken = {(a.module, a.attribute) for a in (*graph.size_attributes, *used)}
    for name in reversed(path):
        for attribute, value in _list_sizes(network.get_submodule(name)):
            if (name, attribute) in taken:
                continue
            reductions: set[Size] = set()
            if isinstance(value, int):
                matches = _match_axes(value, name, cut_axes)
            else:
                matches = _match_parts(value, cut_axes, removed)
            for axis, reduction in matches:
                if reduction not in reductions:
                    reductions.add(reduction)
                    first = SizeAttribute(name, attribute, value, axis.tensor, axis.dim)
                    yield first, *_find_in_similar_modules(first, graph, network, cut_dims, taken)


def _put_known_first(
    candidates: Iterable[tuple[SizeAttribute, ...]], trials: Trials, used: tuple[SizeAttribute, ...]
) -> list[tuple[SizeAttribute, ...]]:
    """Return the candidates, first those of which modules of the same kind have the attribute among those in use."""

    def name(attribute: SizeAttribute) -> tuple[type, str]:
        return type(trials.network.get_submodule(attribute.module)), attribute.attribute

    known = {name(attribute) for attribute in used}
    return sorted(candidates, key=lambda candidate: name(candidate[0]) not in known)


def _list_pairs(
    candidates: Sequence[tuple[SizeAttribute, ...]], graph: Graph, remove: list[int]
) -> Iterator[tuple[SizeAttribute, ...]]:
    """Yield pairs of candidates, two attributes that lose the same share."""
    removed = np.append(graph.mask(remove), False)

    def lost_share(candidate: tuple[SizeAttribute, ...]) -> float:
        return float(removed[graph.axis[candidate[0].tensor, candidate[0].dim].nodes].mean())

    pairs = (
        (*one, *other)
        for one, other in combinations(candidates, 2)
        if one[0].attribute != other[0].attribute and lost_share(one) == lost_share(other)
    )
    yield from islice(pairs, MAX_PAIRS)


def _list_sizes(module: nn.Module) -> Iterator[tuple[str, Size]]:
    """Yield the attributes that may be sizes: integers, and tuples and lists of them."""
    for attribute, value in list(vars(module).items()):
        if type(value) is int and value > 1:
            yield attribute, value
        elif type(value) in (tuple, list) and len(value) > 1 and all(type(n) is int and n >= 0 for n in value):
            yield attribute, tuple(value)


def _get_size(module: nn.Module, attribute: str) -> Any:
    value = vars(module).get(attribute)
    return tuple(value) if isinstance(value, list) else value


def _list_cut_axes(graph: Graph, removed: NodeMask) -> list[tuple[TensorAxis, int]]:
    """Return the dimensions that lose some of these nodes, and how many indices each loses."""
    losses = [(axis, int(removed[axis.nodes[axis.nodes >= 0]].sum())) for axis in graph.axes]
    return [(axis, loss) for axis, loss in losses if loss]


def _match_parts(
    sizes: tuple[int, ...], cut_axes: Sequence[tuple[TensorAxis, int]], removed: NodeMask
) -> list[tuple[TensorAxis, Size]]:
    """Return the dimensions that consist of parts of these sizes, and by how much each part would shrink."""
    lost, ends = np.append(removed, False), np.cumsum(sizes)[:-1]
    axes = [axis for axis, _ in cut_axes if axis.nodes.size == sum(sizes)]
    return [(axis, tuple(int(part.sum()) for part in np.split(lost[axis.nodes], ends))) for axis in axes]


def _match_axes(value: int, module: str, cut_axes: Sequence[tuple[TensorAxis, int]]) -> list[tuple[TensorAxis, Size]]:
    """Return the dimensions that an attribute of a module can follow, best first, and by how much it would shrink."""
    matches = []
    for axis, loss in cut_axes:
        width = axis.nodes.size
        is_multiple = value % width == 0 or width % value == 0
        if is_multiple and value * loss % width == 0 and loss < width:
            is_outside = not axis.tensor.startswith(f"{module}.")
            matches.append((max(value, width) // min(value, width), is_outside, axis, value * loss // width))
    return [(axis, reduction) for _, _, axis, reduction in sorted(matches, key=lambda match: match[:2])]


def expect_size_attributes(
    graph: Graph, network: nn.Module, following: Sequence[SizeAttribute], known: Sequence[SizeAttribute]
) -> tuple[SizeAttribute, ...]:
    """Return what may follow other groups, as attributes of the same name were found to follow one.

    They are those of the other modules of the same kinds, where they fit the same tensor of theirs.

    Args:
        graph: The graph of the network.
        network: The network.
        following: The attributes that were found to follow a group.
        known: Attributes that follow a cut already, besides those of the graph.
    """
    dims = {(axis.tensor, axis.dim) for axis in graph.axes if (axis.nodes >= 0).any()}
    taken = {(a.module, a.attribute) for a in (*graph.size_attributes, *known)}
    similar = chain.from_iterable(_find_in_similar_modules(a, graph, network, dims, taken) for a in following)
    return tuple({(a.module, a.attribute): a for a in similar}.values())


def _find_in_similar_modules(
    attribute: SizeAttribute,
    graph: Graph,
    network: nn.Module,
    cut_dims: set[tuple[str, int]],
    taken: set[tuple[str, str]],
) -> Iterator[SizeAttribute]:
    """Yield the same attribute of other modules of the same kind, where the tensor that it follows there is cut.

    That is the tensor at the same place beside the other module. If there is none, all of them follow the same tensor.
    """
    kind = type(network.get_submodule(attribute.module))
    paths = [tensor.split(".") for tensor, _ in cut_dims]
    parents = {".".join(parts[:n]) for parts in paths for n in range(len(parts))}
    for path in sorted(parents - {attribute.module}):
        module = network.get_submodule(path)
        tensor = _corresponding_path(attribute.tensor, attribute.module, path)
        if (tensor, attribute.dim) not in graph.axis:
            tensor = attribute.tensor
        if type(module) is kind and (tensor, attribute.dim) in cut_dims and (path, attribute.attribute) not in taken:
            value, width = _get_size(module, attribute.attribute), graph.axis[tensor, attribute.dim].nodes.size
            if _is_same_share(attribute, graph.axis[attribute.tensor, attribute.dim].nodes.size, value, width):
                yield replace(attribute, module=path, value=value, tensor=tensor)


def _is_same_share(attribute: SizeAttribute, width: int, value: Any, other_width: int) -> bool:
    """Return whether another value is to another width what an attribute is to the width that it follows."""
    match attribute.value, value:
        case int(), int():
            return bool(value * width == attribute.value * other_width)
        case tuple(), tuple():
            return len(value) == len(attribute.value) and sum(value) == other_width
    return False


def transfer_size_attributes(
    source: str, size_attributes: tuple[SizeAttribute, ...], target: str, network: nn.Module
) -> tuple[SizeAttribute, ...] | None:
    """Return what follows a group of one module, for the same group of another module.

    Args:
        source: The path of the module whose attributes are known.
        size_attributes: The attributes that follow its group.
        target: The path of the other module.
        network: The network.

    Returns:
        The attributes for the other module, or None if it has no such attributes.
    """
    transferred = []
    for a in size_attributes:
        module, tensor = (_corresponding_path(path, source, target) for path in (a.module, a.tensor))
        try:
            value = _get_size(network.get_submodule(module), a.attribute)
        except AttributeError:
            return None
        if value != a.value:
            return None
        transferred.append(replace(a, module=module, tensor=tensor))
    return tuple(transferred)


def _corresponding_path(path: str, source: str, target: str) -> str:
    """Return the path that leads from ``target`` where ``path`` leads from ``source``."""
    parts, source_parts, target_parts = (p.split(".") for p in (path, source, target))
    shared = 0
    while shared < min(len(parts), len(source_parts)) and parts[shared] == source_parts[shared]:
        shared += 1
    up = len(source_parts) - shared
    return ".".join([*target_parts[: len(target_parts) - up], *parts[shared:]])
