"""Decide by trial cuts which nodes a graph keeps, and which attributes follow them."""

from __future__ import annotations

from dataclasses import replace

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute
from earlycrop.graph.types import Reason
from earlycrop.tracing.size_attributes import find_size_attributes, transfer_size_attributes
from earlycrop.tracing.trial_check import Fault
from earlycrop.tracing.trial_cut import Trials, common_module, sample_nodes


def freeze_failing_nodes(graph: Graph, trials: Trials) -> Graph:
    """Freeze the nodes whose removal leaves a network that fails or computes something else.

    All groups are cut at once first. If that has a fault, each group is cut by itself in the innermost module that
    holds it: at first once for all similar modules, and if the network then still has a fault, in every module.

    Args:
        graph: The graph of the network.
        trials: The copy of the network.

    Returns:
        A graph of which random cuts have no fault.
    """
    if not graph.count or not _has_fault(graph, trials):
        return graph
    validated = _check_each_group(graph, trials, reuse_results=True)
    if not _has_fault(validated, trials):
        return validated
    for _ in range(2):
        validated = _check_each_group(graph, trials, reuse_results=False)
        if validated is graph:  # which has a fault
            break
        graph = validated
        if not _has_fault(graph, trials):
            return graph
    return _freeze_by_halving(graph, trials)


def _has_fault(graph: Graph, trials: Trials) -> bool:
    return bool(_find_faults(graph, trials, list(graph.groups.values())))


def _find_faults(graph: Graph, trials: Trials, groups: list[tuple[int, ...]]) -> list[Fault]:
    """Cut nodes of all these groups at once, and return the faults of the first sample that has any."""
    ids = [i for group in groups for i in group]
    samples = (sample_nodes(graph, groups, seed) for seed in range(trials.samples))
    return next(filter(None, (trials.check_cut(graph, remove, ids) for remove in samples)), [])


def _check_each_group(graph: Graph, trials: Trials, reuse_results: bool) -> Graph:
    """Cut each group by itself, and freeze those with a fault that no attribute removes.

    ``reuse_results``: take the result of a group that has no fault, or none with the right attributes, for the same
    group of similar modules.
    """
    added: tuple[SizeAttribute, ...] = ()
    frozen: dict[int, Reason] = {}
    failures: set[tuple[object, ...]] = set()
    results: dict[tuple[object, ...], tuple[str, tuple[SizeAttribute, ...]]] = {}
    for group, ids in graph.groups.items():
        path = common_module(group)
        module = trials.network.get_submodule(path)
        kind = type(module), len(ids), tuple((tensor.removeprefix(path), dim) for tensor, dim in group)
        if reuse_results and kind in results:
            transferred = transfer_size_attributes(*results[kind], path, trials.network)
            if transferred is not None:
                added += transferred
                continue
        root, faults = trials.check_group(graph, group, ids, added)
        if not faults:
            results[kind] = path, ()
            continue
        failure = *kind, faults[0].reason.why
        following = None if failure in failures else find_size_attributes(graph, trials, ids, root, added)
        if following is None:
            failures.add(failure)
            frozen |= dict.fromkeys(ids, faults[0].reason)
        else:
            results[kind] = path, following
            added += following
    if not added and not frozen:
        return graph
    return replace(graph, size_attributes=graph.size_attributes + added).freeze(frozen)


def _freeze_by_halving(graph: Graph, trials: Trials) -> Graph:
    """Freeze the groups that have a fault only in the whole network, which are found by halving."""
    frozen: dict[int, Reason] = {}

    def search(groups: list[tuple[int, ...]]) -> None:
        faults = _find_faults(graph, trials, groups)
        if faults and len(groups) == 1:
            frozen.update(dict.fromkeys(groups[0], faults[0].reason))
        elif faults:
            search(groups[: len(groups) // 2])
            search(groups[len(groups) // 2 :])

    search(list(graph.groups.values()))
    return graph.freeze(frozen)
