"""Decide by trial cuts which nodes a graph keeps, and which attributes follow them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import takewhile

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Group, SizeAttribute
from earlycrop.graph.types import Reason
from earlycrop.tracing.size_attributes import expect_size_attributes, find_size_attributes, transfer_size_attributes
from earlycrop.tracing.trial_check import Fault
from earlycrop.tracing.trial_cut import Trials, sample_nodes


def freeze_failing_nodes(graph: Graph, trials: Trials) -> Graph:
    """Freeze the nodes whose removal leaves a network that fails or computes something else.

    All groups are cut at once first. While that has a fault, the groups closest to it are each cut by themselves, in
    the innermost module that holds them: at first once for all similar modules, and if the network still has a fault
    in the end, in every module.

    Args:
        graph: The graph of the network.
        trials: The copy of the network.

    Returns:
        A graph of which random cuts have no fault.
    """
    faults = _find_faults(graph, trials) if graph.count else []
    if not faults:
        return graph
    checks = GroupChecks(graph, trials, faults, reuse_results=True)
    if checks.run():
        return checks.result()
    for _ in range(2):
        checks = GroupChecks(graph, trials, checks.faults, reuse_results=False)
        if checks.run():
            return checks.result()
        if not checks.added and not checks.frozen:  # the graph, which has a fault
            break
        graph = checks.result()
    return _freeze_by_halving(graph, trials)


def _find_faults(graph: Graph, trials: Trials) -> list[Fault]:
    """Cut nodes of all groups at once, and return the faults of the first sample that has any.

    Several samples are for parts of the network's own width. They run in training mode only if it has others there.
    """
    groups = list(graph.groups.values())
    ids = [i for group in groups for i in group]
    for seed in range(trials.samples):
        in_training = seed == 0 or trials.splits_differ_in_training
        if faults := trials.check_cut(graph, sample_nodes(graph, groups, seed), ids, in_training=in_training):
            return faults
    return []


class GroupChecks:
    """Cut each group of a graph by itself, and freeze those with a fault that no attribute removes.

    Args:
        graph: The graph of the network.
        trials: The copy of the network.
        faults: What is wrong if all groups are cut at once.
        reuse_results: Take the result of a group that has no fault, or none with the right attributes, for the same
            group of similar modules.
    """

    def __init__(self, graph: Graph, trials: Trials, faults: list[Fault], reuse_results: bool) -> None:
        self.graph, self.trials, self.faults, self.reuse_results = graph, trials, faults, reuse_results
        self.added: tuple[SizeAttribute, ...] = ()
        """Attributes that were found to follow groups."""
        self.expected: tuple[SizeAttribute, ...] = ()
        """Attributes that may follow other groups, as they have the names of those that were found."""
        self.frozen: dict[int, Reason] = {}
        self._failures: set[tuple[object, ...]] = set()
        self._results: dict[tuple[object, ...], tuple[str, tuple[SizeAttribute, ...]]] = {}

    def run(self) -> bool:
        """Check the groups, and return whether the network has no fault with the result.

        The groups that are closest to the network's fault come first. When one has a fault, the network is tried again:
        the others may have none, or the attributes that are expected to follow them.
        """
        remaining = dict(self.graph.groups)
        while remaining:
            for group in sorted(remaining, key=partial(_count_shared, self.faults[0].reason.module), reverse=True):
                frozen = len(self.frozen)
                if self._check(group, remaining.pop(group)):
                    similar = [other for other in remaining if _names(other) == _names(group)]
                    for other in similar if len(self.frozen) > frozen else ():
                        self._check(other, remaining.pop(other))
                    if self._has_no_fault(self.expected):
                        return True
                    break
        return self._has_no_fault()

    def _has_no_fault(self, expected: tuple[SizeAttribute, ...] = ()) -> bool:
        """Return whether the network has no fault with the result; then these attributes are part of it."""
        before, self.added = self.added, self.added + expected
        self.faults = _find_faults(self.result(), self.trials)
        if self.faults:
            self.added = before
        return not self.faults

    def result(self) -> Graph:
        """Return the graph with the attributes that were found, and without the nodes that are frozen."""
        if not self.added and not self.frozen:
            return self.graph
        return replace(self.graph, size_attributes=self.graph.size_attributes + self.added).freeze(self.frozen)

    def _check(self, group: Group, ids: tuple[int, ...]) -> bool:
        """Check one group, and return whether it has a fault with the attributes that are known or expected."""
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
        failure = type(module), _names(group), faults[0].kind
        following = None
        if failure not in self._failures:
            following = find_size_attributes(self.graph, self.trials, ids, root, self.added)
        if following is None:
            self._failures.add(failure)
            self.frozen |= dict.fromkeys(ids, faults[0].reason)
            return True
        self._add(kind, path, following)
        known = self.added + self.expected
        self.expected += expect_size_attributes(self.graph, self.trials.network, following, known)
        return True

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


def _names(group: Group) -> frozenset[str]:
    """Return the names of a group's tensors without numbers, which the same group of a similar module has too."""
    return frozenset(re.sub(r"\d+", "", tensor) for tensor, _ in group)


def _count_shared(module: str, group: Group) -> int:
    """Return how many modules around ``module``, itself included, also hold a tensor of a group."""
    path = module.split(".")
    pairs = (zip(path, tensor.split("."), strict=False) for tensor, _ in group)
    return max(sum(1 for _ in takewhile(lambda names: names[0] == names[1], parts)) for parts in pairs)


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
