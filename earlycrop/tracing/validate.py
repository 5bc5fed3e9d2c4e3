"""Which nodes a graph keeps after trial cuts, and which attributes follow them."""

from __future__ import annotations

from dataclasses import replace

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute
from earlycrop.graph.types import Reason
from earlycrop.tracing.size_attributes import find_size_attributes, transfer_size_attributes
from earlycrop.tracing.trial_cut import Trials, common_module, sample_nodes


def freeze_failing_nodes(graph: Graph, trials: Trials) -> Graph:
    """The graph without the nodes whose removal leaves a network that fails or means something else.

    First all groups at once. Where that has a fault, each by itself in the innermost module that holds it: at first
    once for all modules that look alike, and where that does not make the whole network right, every one.
    """
    if not graph.count or not _cut_fails(graph, trials):
        return graph
    quick = _try_each_group(graph, trials, alike=True)
    if not _cut_fails(quick, trials):
        return quick
    for _ in range(2):
        now = _try_each_group(graph, trials, alike=False)
        if now is graph:  # which has been seen to have a fault
            break
        graph = now
        if not _cut_fails(graph, trials):
            return graph
    return _freeze_by_halving(graph, trials)


def _cut_fails(graph: Graph, trials: Trials) -> bool:
    return bool(trials.faults(graph, sample_nodes(graph, graph.groups.values()), range(graph.count)))


def _try_each_group(graph: Graph, trials: Trials, alike: bool) -> Graph:
    """Try each group; where it has a fault that no attribute mends, freeze it.

    ``alike``: what was seen of a group is taken to be so for those of modules that look alike, where it was no fault,
    or one that an attribute mends.
    """
    follows: tuple[SizeAttribute, ...] = ()
    frozen: dict[int, Reason] = {}
    hopeless: set[tuple[object, ...]] = set()
    seen: dict[tuple[object, ...], tuple[str, tuple[SizeAttribute, ...]]] = {}
    for group, ids in graph.groups.items():
        inner = common_module(group)
        module = trials.copied.get_submodule(inner)
        looks = type(module), len(ids), tuple((tensor.removeprefix(inner), dim) for tensor, dim in group)
        if alike and looks in seen:
            here = transfer_size_attributes(*seen[looks], inner, trials.copied)
            if here is not None:
                follows += here
                continue
        home, faults = trials.local(graph, group, ids, follows)
        if not faults:
            seen[looks] = inner, ()
            continue
        kind = *looks, faults[0].reason.why
        more = None if kind in hopeless else find_size_attributes(graph, trials, ids, home, follows)
        if more is None:
            hopeless.add(kind)
            frozen |= dict.fromkeys(ids, faults[0].reason)
        else:
            seen[looks] = inner, more
            follows += more
    if not follows and not frozen:
        return graph
    return replace(graph, size_attributes=graph.size_attributes + follows).freeze(frozen)


def _freeze_by_halving(graph: Graph, trials: Trials) -> Graph:
    """Freeze the groups that have a fault only in the whole network, found by halving."""
    frozen: dict[int, Reason] = {}

    def search(groups: list[tuple[int, ...]]) -> None:
        faults = trials.faults(graph, sample_nodes(graph, groups), [i for ids in groups for i in ids])
        if faults and len(groups) == 1:
            frozen.update(dict.fromkeys(groups[0], faults[0].reason))
        elif faults:
            search(groups[: len(groups) // 2])
            search(groups[len(groups) // 2 :])

    search(list(graph.groups.values()))
    return graph.freeze(frozen)
