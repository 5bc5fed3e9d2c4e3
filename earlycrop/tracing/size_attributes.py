"""Find sizes in attributes of a user's own modules (a number of heads, the width of a split) by trial cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from torch import nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute, TensorAxis
from earlycrop.tracing.trial_cut import Trials

MAX_ATTRIBUTES = 4
"""How many attributes may follow one group; those of several modules of one kind count once."""


def find_size_attributes(
    graph: Graph, trials: Trials, ids: tuple[int, ...], root: str, size_attributes: tuple[SizeAttribute, ...]
) -> tuple[SizeAttribute, ...] | None:
    """Find the attributes that must follow a group, so that a trial cut of it has no fault.

    Attributes are added one at a time. Each must bring the run past the operation that failed.

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
    faults = trials.check_cut(graph, remove, ids, root, size_attributes)
    for _ in range(MAX_ATTRIBUTES):
        if not faults:
            break
        first = min(faults, key=lambda fault: fault.at)
        best_reach, best, best_faults = float(first.at), chosen, faults
        for candidate in _list_candidates(graph, trials.network, first.path, remove, size_attributes + chosen):
            candidate_faults = trials.check_cut(graph, remove, ids, root, (*size_attributes, *chosen, *candidate))
            reach = min((fault.at for fault in candidate_faults), default=inf)
            if reach > best_reach:
                best_reach, best, best_faults = reach, (*chosen, *candidate), candidate_faults
            if not candidate_faults:
                break
        if best_reach == first.at:
            return None
        chosen, faults = best, best_faults
    others = list(ids[(len(ids) + 1) // 2 :])
    return chosen if chosen and not trials.check_cut(graph, others, ids, root, size_attributes + chosen) else None


def _list_candidates(
    graph: Graph, network: nn.Module, path: tuple[str, ...], remove: list[int], used: tuple[SizeAttribute, ...]
) -> Iterator[tuple[SizeAttribute, ...]]:
    """Yield integer attributes of the modules in ``path`` that can shrink in proportion with a cut dimension.

    The innermost module comes first. Of one attribute, dimensions of its own value come first, then those whose width
    divides it or is a multiple of it. With an attribute come those of the other modules of the same kind that lose some
    of the same nodes (heads that all layers have in common).
    """
    cut_axes = _list_cut_axes(graph, remove)
    cut_dims = {(axis.tensor, axis.dim) for axis, _ in cut_axes}
    taken = {(a.module, a.attribute) for a in (*graph.size_attributes, *used)}
    for name in reversed(path):
        for attribute, value in list(vars(network.get_submodule(name)).items()):
            if type(value) is not int or value < 2 or (name, attribute) in taken:
                continue
            reductions = set()
            for axis, reduction in _match_axes(value, cut_axes):
                if reduction not in reductions:
                    reductions.add(reduction)
                    first = SizeAttribute(name, attribute, value, axis.tensor, axis.dim)
                    yield first, *_find_in_similar_modules(first, network, cut_dims, taken)


def _list_cut_axes(graph: Graph, remove: list[int]) -> list[tuple[TensorAxis, int]]:
    """Return the dimensions that lose some of these nodes, and how many indices each loses."""
    removed = graph.mask(remove)
    losses = [(axis, int(removed[axis.nodes[axis.nodes >= 0]].sum())) for axis in graph.axes]
    return [(axis, loss) for axis, loss in losses if loss]


def _match_axes(value: int, cut_axes: Sequence[tuple[TensorAxis, int]]) -> list[tuple[TensorAxis, int]]:
    """Return the dimensions that an attribute can follow, best first, and by how much it would shrink."""
    matches = []
    for axis, loss in cut_axes:
        width = axis.nodes.size
        is_multiple = value % width == 0 or width % value == 0
        if is_multiple and value * loss % width == 0 and loss < width:
            matches.append((max(value, width) // min(value, width), axis, value * loss // width))
    return [(axis, reduction) for _, axis, reduction in sorted(matches, key=lambda match: match[0])]


def _find_in_similar_modules(
    attribute: SizeAttribute, network: nn.Module, cut_dims: set[tuple[str, int]], taken: set[tuple[str, str]]
) -> Iterator[SizeAttribute]:
    """Yield the same attribute of other modules of the same kind, where the same tensor of theirs is cut."""
    local_name = attribute.tensor.removeprefix(f"{attribute.module}.")
    is_outside = local_name == attribute.tensor  # a tensor of none of these modules, which all of them use
    kind = type(network.get_submodule(attribute.module))
    paths = [tensor.split(".") for tensor, _ in cut_dims]
    parents = {".".join(parts[:n]) for parts in paths for n in range(len(parts))}
    for path in sorted(parents - {attribute.module}):
        tensor = attribute.tensor if is_outside else f"{path}.{local_name}"
        module = network.get_submodule(path)
        same = type(module) is kind and vars(module).get(attribute.attribute) == attribute.value
        if same and (tensor, attribute.dim) in cut_dims and (path, attribute.attribute) not in taken:
            yield replace(attribute, module=path, tensor=tensor)


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
            value = vars(network.get_submodule(module)).get(a.attribute)
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
