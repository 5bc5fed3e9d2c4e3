"""Decide by trial cuts which nodes a graph keeps, and which attributes follow them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group, SizeAttribute
from earlycrop.graph.types import Reason
from earlycrop.tracing.size_attributes import expect_size_attributes, find_size_attributes, transfer_size_attributes
from earlycrop.tracing.trial_check import Fault
from earlycrop.tracing.trial_cut import Trials, sample_nodes


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
    checks = GroupChecks(graph, trials, reuse_results=True)
    if checks.run():
        return checks.result()
    for _ in range(2):
        checks = GroupChecks(graph, trials, reuse_results=False)
        if checks.run():
            return checks.result()
        if not checks.added and not checks.frozen:  # the graph, which has a fault
            break
        graph = checks.result()
    return _freeze_by_halving(graph, trials)


def _has_fault(graph: Graph, trials: Trials) -> bool:
    return bool(_find_faults(graph, trials, list(graph.groups.values())))


def _find_faults(graph: Graph, trials: Trials, groups: list[tuple[int, ...]]) -> list[Fault]:
    """Cut nodes of all these groups at once, and return the faults of the first sample that has any."""
    ids = [i for group in groups for i in group]
    samples = (sample_nodes(graph, groups, seed) for seed in range(trials.samples))
    return next(filter(None, (trials.check_cut(graph, remove, ids) for remove in samples)), [])


class GroupChecks:
    """Cut each group of a graph by itself, and freeze those with a fault that no attribute removes.

    Args:
        graph: The graph of the network.
        trials: The copy of the network.
        reuse_results: Take the result of a group that has no fault, or none with the right attributes, for the same
            group of similar modules.
    """

    def __init__(self, graph: Graph, trials: Trials, reuse_results: bool) -> None:
        self.graph, self.trials, self.reuse_results = graph, trials, reuse_results
        self.added: tuple[SizeAttribute, ...] = ()
        """Attributes that were found to follow groups."""
        self.expected: tuple[SizeAttribute, ...] = ()
        """Attributes that may follow other groups, as they have the names of those that were found."""
        self.frozen: dict[int, Reason] = {}
        self._failures: set[tuple[object, ...]] = set()
        self._results: dict[tuple[object, ...], tuple[str, tuple[SizeAttribute, ...]]] = {}

    def run(self) -> bool:
        """Check the groups, and return whether the network has no fault with the result.

        Where attributes were found that others are expected to follow, the network is tried at once with all of them.
        """
        for group, ids in self.graph.groups.items():
            if self._check(group, ids):
                before, self.added = self.added, self.added + self.expected
                if not _has_fault(self.result(), self.trials):
                    return True
                self.added = before
        return not _has_fault(self.result(), self.trials)

    def result(self) -> Graph:
        """Return the graph with the attributes that were found, and without the nodes that are frozen."""
        if not self.added and not self.frozen:
            return self.graph
        return replace(self.graph, size_attributes=self.graph.size_attributes + self.added).freeze(self.frozen)

    def _check(self, group: Group, ids: tuple[int, ...]) -> bool:
        """Check one group, and return whether attributes were found that others are expected to follow."""
        path = _common_module(group)
        module = self.trials.network.get_submodule(path)
        kind = type(module), len(ids), tuple((tensor.removeprefix(path), dim) for tensor, dim in group)
        if self.reuse_results and kind in self._results:
            transferred = transfer_size_attributes(*self._results[kind], path, self.trials.network)
            if transferred is not None:
                self._add(kind, path, transferred)
                return False
        expected = tuple(a for a in self.expected if (a.tensor, a.dim) in group)
        root, faults = self.trials.check_group(self.graph, path, ids, self.added + expected)
        if faults and expected:
            expected = ()
            root, faults = self.trials.check_group(self.graph, path, ids, self.added)
        if not faults:
            self._add(kind, path, expected)
            return False
        failure = _without_digits(type(module), {tensor for tensor, _ in group}, faults[0].reason.why)
        following = None
        if failure not in self._failures:
            following = find_size_attributes(self.graph, self.trials, ids, root, self.added)
        if following is None:
            self._failures.add(failure)
            self.frozen |= dict.fromkeys(ids, faults[0].reason)
            return False
        self._add(kind, path, following)
        known = self.added + self.expected
        expected = expect_size_attributes(self.graph, self.trials.network, following, known)
        self.expected += expected
        return bool(expected)

    def _add(self, kind: tuple[object, ...], path: str, attributes: tuple[SizeAttribute, ...]) -> None:
        """Record which attributes follow a group."""
        self._results[kind] = path, attributes
        self.added += attributes
        names = {(a.module, a.attribute) for a in attributes}
        self.expected = tuple(a for a in self.expected if (a.module, a.attribute) not in names)


def _common_module(group: Group) -> str:
    """Return the path of the innermost module that holds all tensors of a group."""
    levels = zip(*(tensor.split(".")[:-1] for tensor, _ in group), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))


def _without_digits(kind: type, tensors: set[str], why: str) -> tuple[object, ...]:
    """Return what failures of similar groups have in common: names and reasons without numbers."""
    return kind, frozenset(re.sub(r"\d+", "", name) for name in tensors), re.sub(r"\d+", "", why)


def _freeze_by_halving(graph: Graph, trials: Trials) -> Graph:
    """Freeze the groups that have a fault only in the whole network, which are found by halving."""
    for seed in range(trials.samples):
        frozen: dict[int, Reason] = {}
        _search_halves(graph, trials, list(graph.groups.values()), seed, frozen)
        graph = graph.freeze(frozen)
    return graph


def _search_halves(
    graph: Graph, trials: Trials, groups: list[tuple[int, ...]], seed: int, frozen: dict[int, Reason]
) -> None:
    """Add the nodes of each of these groups that has a fault, and the reason, to ``frozen``."""
    faults = trials.check_cut(graph, sample_nodes(graph, groups, seed), [i for ids in groups for i in ids])
    if faults and len(groups) == 1:
        frozen.update(dict.fromkeys(groups[0], faults[0].reason))
    elif faults:
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            _search_halves(graph, trials, half, seed, frozen)
