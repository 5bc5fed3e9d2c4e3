"""Sizes in attributes of a user's own modules (a number of heads, the width of a split): found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from torch import nn

from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import SizeAttribute
from earlycrop.tracing.trial_check import Fault
from earlycrop.tracing.trial_cut import Trials

MAX_ATTRIBUTES = 4
"""How many attributes may follow one group; those of several modules of one kind count once."""


def find_size_attributes(
    graph: Graph, trials: Trials, ids: tuple[int, ...], home: str, follows: tuple[SizeAttribute, ...]
) -> tuple[SizeAttribute, ...] | None:
    """The attributes that have to follow the nodes ``ids``, so that a trial cut of them has no fault; None: there are
    none.

    One at a time: each that is taken brings the run past the operation where it failed.
    """
    remove = [ids[len(ids) // 2]]
    chosen: tuple[SizeAttribute, ...] = ()
    taken = 0
    faults = trials.faults(graph, remove, ids, home, follows)
    while faults and taken < MAX_ATTRIBUTES:
        first = min(faults, key=lambda f: f.at)
        best: tuple[float, tuple[SizeAttribute, ...], list[Fault]] = (first.at, (), faults)
        for several in _candidates(graph, trials, first.path, remove, follows + chosen):
            got = trials.faults(graph, remove, ids, home, (*follows, *chosen, *several))
            reached = min((f.at for f in got), default=inf)
            best = max(best, (reached, several, got), key=lambda found: found[0])
            if not got:
                break
        if best[0] == first.at:
            return None
        taken += 1
        chosen, faults = (*chosen, *best[1]), best[2]
    rest = list(ids[(len(ids) + 1) // 2 :])
    return chosen if chosen and not trials.faults(graph, rest, ids, home, follows + chosen) else None


def _candidates(
    graph: Graph, trials: Trials, path: tuple[str, ...], remove: list[int], known: tuple[SizeAttribute, ...]
) -> Iterator[tuple[SizeAttribute, ...]]:
    """Integer attributes of the modules in ``path``, innermost first, that can go in proportion with what is removed.

    Nearest to the dimension's own width first: that, then its divisors and multiples. With each come those of the other
    modules of its kind that lose some of the same nodes (heads that all layers have in common, say).
    """
    removed = graph.mask(remove)
    cut = [
        (s, s.nodes.size, int((s.nodes >= 0).sum() and removed[s.nodes[s.nodes >= 0]].sum()))
        for s in graph.axes
        if (s.nodes >= 0).any() and removed[s.nodes[s.nodes >= 0]].any()
    ]
    taken = {(f.module, f.attribute) for f in (*graph.size_attributes, *known)}
    for name in reversed(path):
        for attribute, value in list(vars(trials.copied.get_submodule(name)).items()):
            if type(value) is not int or value < 2 or (name, attribute) in taken:
                continue
            fitting = [
                (max(value, n) // min(value, n), s)
                for s, n, gone in cut
                if (value % n == 0 or n % value == 0) and value * gone % n == 0 and gone < n
            ]
            seen = set()
            for _, s in sorted(fitting, key=lambda pair: pair[0]):
                share = next(gone * value // n for t, n, gone in cut if t is s)
                if share not in seen:
                    seen.add(share)
                    first = SizeAttribute(name, attribute, value, s.tensor, s.dim)
                    yield (
                        first,
                        *_of_similar_modules(first, trials.copied, {(t.tensor, t.dim) for t, _, _ in cut}, taken),
                    )


def _of_similar_modules(
    follow: SizeAttribute, copied: nn.Module, cut: set[tuple[str, int]], taken: set[tuple[str, str]]
) -> Iterator[SizeAttribute]:
    """The same attribute of other modules of the same kind, where the same tensor of theirs is cut."""
    inside = follow.tensor.removeprefix(f"{follow.module}.")
    shared = inside == follow.tensor  # a tensor that is none of the module's own
    kind = type(copied.get_submodule(follow.module))
    above = {".".join(parts[:n]) for parts in (tensor.split(".") for tensor, _ in cut) for n in range(len(parts))}
    for path in sorted(above - {follow.module}):
        tensor = follow.tensor if shared else f"{path}.{inside}"
        module = copied.get_submodule(path)
        same = type(module) is kind and vars(module).get(follow.attribute) == follow.value
        if same and (tensor, follow.dim) in cut and (path, follow.attribute) not in taken:
            yield replace(follow, module=path, tensor=tensor)


def transfer_size_attributes(
    inner: str, follows: tuple[SizeAttribute, ...], to: str, copied: nn.Module
) -> tuple[SizeAttribute, ...] | None:
    """What follows a group of the module ``inner``, for the same group of the module ``to``; None if there is no such
    attribute.
    """
    found = []
    for f in follows:
        module, tensor = (
            _corresponding_path(path.split("."), inner.split("."), to.split(".")) for path in (f.module, f.tensor)
        )
        try:
            value = vars(copied.get_submodule(module)).get(f.attribute)
        except AttributeError:
            return None
        if value != f.value:
            return None
        found.append(replace(f, module=module, tensor=tensor))
    return tuple(found)


def _corresponding_path(path: list[str], inner: list[str], to: list[str]) -> str:
    """The path that leads from ``to`` where ``path`` leads from ``inner``."""
    shared = 0
    while shared < min(len(path), len(inner)) and path[shared] == inner[shared]:
        shared += 1
    up = len(inner) - shared
    return ".".join([*to[: len(to) - up], *path[shared:]])
